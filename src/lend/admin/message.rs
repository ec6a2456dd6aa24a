//! What an admin may ask and is answered: one JSON line each.

use serde::{Deserialize, Serialize};

use super::super::{GrantEntry, Revoked, SessionEntry, check::CheckReply};
use crate::trust::password::{Password, PasswordError};

/// What an admin may ask.
#[derive(Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AdminRequest {
    /// Adds a user.
    UserAdd {
        /// The name.
        user: String,
    },
    /// Lists users.
    UserList,
    /// Removes a user with devices, tickets and invitations.
    UserRemove {
        /// The name.
        user: String,
    },
    /// Sets a password; tickets of the user end.
    Passwd {
        /// The name.
        user: String,
        /// The password.
        password: SecretText,
    },
    /// Makes a join line.
    Invite {
        /// For whom.
        user: String,
        /// How long it stands, in seconds.
        ttl_seconds: u64,
    },
    /// Ends a user's tickets: every next login needs the password. Sessions that are open go on.
    Logout {
        /// The name.
        user: String,
    },
    /// Allows something for a while.
    Allow {
        /// To whom.
        user: String,
        /// The kind, as the policy calls it.
        kind: String,
        /// The pattern; empty where a kind needs none.
        target: String,
        /// How long, in seconds.
        seconds: u64,
    },
    /// Lists the grants that stand.
    Grants,
    /// Ends a grant before its time.
    GrantRemove {
        /// Its number.
        grant: u64,
    },
    /// Lists the live sessions.
    Sessions,
    /// Ends a live session, or one stream of it.
    Cut {
        /// `SESSION` or `SESSION/STREAM`; the first digits of the id are enough.
        what: String,
    },
    /// Takes a user, a device or a session away for good.
    Revoke {
        /// Whom.
        whom: Revoked,
    },
    /// Asks the gate about a request and does nothing.
    Check {
        /// For whom.
        user: String,
        /// The kind, as the policy calls it.
        kind: String,
        /// What is wanted, as the kind writes it; empty where it needs nothing more.
        target: String,
    },
}

impl AdminRequest {
    /// Whether it gives somebody something: nobody should have it of whom its asker believes that he has not.
    pub(super) fn gives(&self) -> bool {
        match self {
            Self::UserAdd { .. } | Self::Passwd { .. } | Self::Invite { .. } | Self::Allow { .. } => true,
            Self::UserRemove { .. }
            | Self::Logout { .. }
            | Self::GrantRemove { .. }
            | Self::Cut { .. }
            | Self::Revoke { .. } => false,
            Self::UserList | Self::Grants | Self::Sessions | Self::Check { .. } => false,
        }
    }
}

/// A password on its way to the daemon: wiped, never shown.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl Drop for SecretText {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl SecretText {
    /// Takes the bytes of a password, which are text here because they travel as JSON.
    ///
    /// # Errors
    /// If they are not UTF-8.
    pub fn of(password: &Password) -> Result<Self, std::str::Utf8Error> {
        std::str::from_utf8(password.as_bytes()).map(|text| Self(text.to_owned()))
    }

    /// The password again.
    pub(super) fn password(&self) -> Result<Password, PasswordError> {
        Password::new(self.0.as_bytes().to_vec())
    }
}

/// What an admin is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AdminReply {
    /// It was done.
    Done,
    /// To [`AdminRequest::UserList`].
    Users {
        /// By name.
        users: Vec<UserEntry>,
    },
    /// To [`AdminRequest::Invite`].
    Invitation {
        /// The whole line.
        line: String,
    },
    /// To [`AdminRequest::Check`].
    Check(CheckReply),
    /// To [`AdminRequest::Allow`].
    Granted {
        /// The grant's number.
        grant: u64,
        /// Until when, in seconds since 1970.
        expires: u64,
    },
    /// To [`AdminRequest::Grants`].
    Grants {
        /// By number.
        grants: Vec<GrantEntry>,
    },
    /// To [`AdminRequest::Sessions`].
    Sessions {
        /// The oldest first.
        sessions: Vec<SessionEntry>,
    },
    /// To [`AdminRequest::Cut`] and [`AdminRequest::Revoke`].
    Cut {
        /// Sessions that were ended.
        sessions: usize,
        /// Streams that were open in them, or the one that was cut.
        streams: usize,
    },
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEntry {
    /// The name.
    pub user: String,
    /// Since when, in seconds since 1970; none for who has no entry, and is listed only because the door is closed to him.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
    /// Whether a password was set.
    pub password: bool,
    /// Ids of the devices that are not revoked.
    pub devices: Vec<String>,
    /// Since when the door of the lender's own machine is closed to a user of this name, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub barred: Option<u64>,
}

/// The daemon's no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One of the error kinds.
    pub kind: String,
    /// What and why.
    pub text: String,
}
