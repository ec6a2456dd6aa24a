//! What an admin does to live sessions: look, cut, revoke. What must last is written before anything is cut.

use serde::{Deserialize, Serialize};

use super::{
    AdminReply, LendError, Lender, Refused,
    borrower::Borrower,
    os_user::{OsUser, OsUserError},
};
use crate::{
    policy::Principal,
    proto::{DeviceId, ErrorKind, StreamId, UserName},
    trust::{UnixTime, store::StoreError},
};

/// Fewest digits of a session's id that name it: a slip of the finger should not meet another one.
const PREFIX_MIN: usize = 4;

/// Whom [`AdminRequest::Revoke`](super::AdminRequest::Revoke) ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revoked {
    /// Every device, ticket and invitation of this user, and the door of this machine.
    User(String),
    /// One device, by its 16 hexadecimal digits. One that stands for a user of this machine: the door is closed to him.
    Device(String),
    /// One session, and the tickets of its user: what follows needs the password. If it came by the door, where none is
    /// asked for, the door is closed to its user.
    Session(String),
}

/// One live session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEntry {
    /// Its id: 32 hexadecimal digits.
    pub session: String,
    /// Whose.
    pub user: String,
    /// From which device.
    pub device: String,
    /// From where: `address:port`, or `uid N pid N` of this machine.
    pub peer: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// What it holds.
    pub streams: Vec<StreamEntry>,
}

/// One borrowed thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEntry {
    /// The stream's number in its session.
    pub stream: u64,
    /// The request that opened it.
    pub kind: String,
    /// What it asked for.
    pub target: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// From the borrower so far, in bytes.
    pub bytes_in: u64,
    /// To the borrower so far, in bytes.
    pub bytes_out: u64,
}

impl Lender {
    pub(super) fn sessions(&self) -> AdminReply {
        AdminReply::Sessions { sessions: self.shared.live.all().iter().map(|borrower| entry(borrower)).collect() }
    }

    /// Ends one session, or one stream of it: `SESSION` or `SESSION/STREAM`.
    pub(super) async fn cut(&self, what: &str) -> Result<AdminReply, LendError> {
        let (session, stream) = match what.split_once('/') {
            None => (what, None),
            Some((session, stream)) => {
                let number = stream.parse().ok().and_then(StreamId::new);
                let usage = || refused(ErrorKind::Usage, format!("{stream:?} is not the number of a stream"));
                (session, Some(number.ok_or_else(usage)?))
            }
        };
        let borrower = self.find(session)?;
        let Some(stream) = stream else {
            return Ok(self
                .end_of(ErrorKind::Revoked, "the lender's admin has cut this session", |other| {
                    other.session_id == borrower.session_id
                })
                .await);
        };
        if !borrower.take_back(stream, "cut by the admin") {
            return Err(refused(
                ErrorKind::Usage,
                format!("session {session} has no stream {stream}: see `capuchind sessions`"),
            ));
        }
        Ok(AdminReply::Cut { sessions: 0, streams: 1 })
    }

    /// Written and synced first; then every live session that it concerns is cut.
    pub(super) async fn revoke(&self, whom: &Revoked) -> Result<AdminReply, LendError> {
        let now = UnixTime::now();
        match whom {
            Revoked::User(name) => {
                let user: UserName = parsed(name)?;
                self.store({
                    let user = user.clone();
                    move |store| match store.revoke_user(&user, now) {
                        // He may be no user of ours, and come by the door all the same.
                        Err(StoreError::NoUser(_)) if OsUser::is_called(&user) => store.revoke_local(&user, now),
                        revoked => revoked.map(drop),
                    }
                })
                .await?;
                let why = format!("the user {user} was revoked");
                let ended = self.end_of(ErrorKind::Revoked, &why, |live| live.principal.user == user).await;
                // The user's grants are gone as well.
                self.renew_policy().await;
                Ok(ended)
            }
            Revoked::Device(id) => {
                let device: DeviceId = parsed(id)?;
                match device.local_uid() {
                    Some(uid) => {
                        let none = |error: OsUserError| refused(ErrorKind::Usage, error.to_string());
                        let user = OsUser::find(uid).map_err(none)?.name;
                        self.store(move |store| store.bar(&user, now)).await?;
                    }
                    None => self.store(move |store| store.revoke_device(device, now)).await?,
                }
                let why = format!("the device {device} was revoked");
                Ok(self.end_of(ErrorKind::Revoked, &why, |live| live.principal.device == device).await)
            }
            Revoked::Session(id) => {
                let borrower = self.find(id)?;
                let Principal { user, device } = borrower.principal.clone();
                self.store(move |store| match device.local_uid() {
                    Some(_) => store.bar(&user, now),
                    None => store.drop_tickets(&user),
                })
                .await?;
                let id = borrower.session_id;
                Ok(self.end_of(ErrorKind::Revoked, "this session was revoked", |live| live.session_id == id).await)
            }
        }
    }

    /// Ends the sessions of a user who was removed.
    pub(super) async fn end_of_user(&self, user: &UserName) {
        let why = format!("the user {user} was removed");
        self.end_of(ErrorKind::Revoked, &why, |live| live.principal.user == *user).await;
    }

    async fn end_of(&self, kind: ErrorKind, why: &str, chosen: impl Fn(&Borrower) -> bool) -> AdminReply {
        let (sessions, streams) = self.shared.live.cut(kind, why, chosen).await;
        AdminReply::Cut { sessions, streams }
    }

    /// The one live session whose id begins so.
    fn find(&self, prefix: &str) -> Result<std::sync::Arc<Borrower>, LendError> {
        let no = |why: &str| Err(refused(ErrorKind::Usage, format!("{prefix:?} {why}: see `capuchind sessions`")));
        if prefix.len() < PREFIX_MIN {
            return no("is too short for a session's id, 4 digits are needed");
        }
        let mut found =
            self.shared.live.all().into_iter().filter(|live| live.session_id.to_string().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => no("begins the ids of several sessions"),
            (None, _) => no("is no live session"),
        }
    }
}

fn entry(borrower: &Borrower) -> SessionEntry {
    let streams = borrower.held().into_iter().map(|(id, handle)| StreamEntry {
        stream: id.number(),
        kind: handle.kind.to_owned(),
        target: handle.target.clone(),
        since: handle.since.0,
        bytes_in: handle.meter.from_stream(),
        bytes_out: handle.meter.to_stream(),
    });
    SessionEntry {
        session: borrower.session_id.to_string(),
        user: borrower.principal.user.to_string(),
        device: borrower.principal.device.to_string(),
        peer: borrower.peer.to_string(),
        since: borrower.since.0,
        streams: streams.collect(),
    }
}

fn parsed<T: std::str::FromStr<Err = crate::proto::NameError>>(text: &str) -> Result<T, LendError> {
    text.parse().map_err(|error: crate::proto::NameError| refused(ErrorKind::Usage, error.to_string()))
}

fn refused(kind: ErrorKind, text: String) -> LendError {
    LendError::Admin(Refused { kind: kind.to_string(), text })
}
