//! What an admin does to live sessions: look, cut, revoke. What must last is written before anything is cut, unless the disk hangs.

use std::{pin::pin, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    AdminReply, LendError, Lender,
    borrower::Borrower,
    os_user::{OsUser, OsUserError},
};
use crate::{
    policy::Principal,
    proto::{DeviceId, ErrorKind, SessionId, StreamId, UserName},
    trust::{
        UnixTime,
        store::{Store, StoreError},
    },
};

/// Fewest digits of a session's id that name it: a slip of the finger should not meet another one.
const PREFIX_MIN: usize = 4;

/// A disk that takes longer has whoever is taken back cut before it has noted that: he is out a second after the command.
pub(super) const STORED_MAX: Duration = Duration::from_millis(500);

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
                let usage = || LendError::usage(format!("{stream:?} is not the number of a stream"));
                (session, Some(number.ok_or_else(usage)?))
            }
        };
        let borrower = self.find(session)?;
        let Some(stream) = stream else {
            let why = "the lender's admin has cut this session";
            let (sessions, streams) = self.cut_all(why, Whose::Session(borrower.session_id)).await;
            return Ok(AdminReply::Cut { sessions, streams });
        };
        if !borrower.take_back(stream, ErrorKind::Revoked, "cut by the admin") {
            let text = format!("session {session} has no stream {stream}: see `capuchind sessions`");
            return Err(LendError::usage(text));
        }
        Ok(AdminReply::Cut { sessions: 0, streams: 1 })
    }

    /// Written and synced first; then every live session that it concerns is cut. Where the disk does not take it, they
    /// are cut all the same, and the answer is [`LendError::NotLasting`].
    pub(super) async fn revoke(&self, whom: &Revoked) -> Result<AdminReply, LendError> {
        let now = UnixTime::now();
        match whom {
            Revoked::User(name) => {
                let user: UserName = parsed(name)?;
                let revoked = user.clone();
                let revoke = move |store: &Store| match store.revoke_user(&revoked, now) {
                    // He may be no user of ours, and come by the door all the same.
                    Err(StoreError::NoUser(_)) if OsUser::is_called(&revoked) => store.revoke_local(&revoked, now),
                    revoked => revoked.map(drop),
                };
                self.take_back(revoke, &format!("the user {user} was revoked"), Whose::User(&user)).await
            }
            Revoked::Device(id) => {
                let device: DeviceId = parsed(id)?;
                let none = |error: OsUserError| LendError::usage(error);
                let local = device.local_uid().map(|uid| OsUser::find(uid).map_err(none)).transpose()?;
                let revoke = move |store: &Store| match local {
                    Some(user) => store.bar(&user.name, now),
                    None => store.revoke_device(device, now),
                };
                self.take_back(revoke, &format!("the device {device} was revoked"), Whose::Device(device)).await
            }
            Revoked::Session(id) => {
                let borrower = self.find(id)?;
                let Principal { user, device } = borrower.principal.clone();
                let revoke = move |store: &Store| match device.local_uid() {
                    Some(_) => store.bar(&user, now),
                    None => store.drop_tickets(&user),
                };
                self.take_back(revoke, "this session was revoked", Whose::Session(borrower.session_id)).await
            }
        }
    }

    /// Removes a user for good, and ends his sessions, as [`Self::revoke`] does.
    pub(super) async fn remove_user(&self, user: UserName) -> Result<AdminReply, LendError> {
        let removed = user.clone();
        let remove = move |store: &Store| store.remove_user(&removed, UnixTime::now());
        let why = format!("the user {user} was removed");
        self.take_back(remove, &why, Whose::User(&user)).await.map(|_| AdminReply::Done)
    }

    /// Has `work` on the disk, and cuts `whose` sessions. A disk that hangs keeps only the answer waiting: they are cut meanwhile, and
    /// whoever comes back as well.
    async fn take_back(
        &self,
        work: impl FnOnce(&Store) -> Result<(), StoreError> + Send + 'static,
        why: &str,
        whose: Whose<'_>,
    ) -> Result<AdminReply, LendError> {
        let mut stored = pin!(self.store(work));
        let (mut sessions, mut streams) = (0, 0);
        loop {
            let lost = match timeout(STORED_MAX, &mut stored).await {
                Ok(Err(error)) if !error.is_of_disk() => return Err(error.into()),
                Ok(stored) => Some(stored.err()),
                Err(_) => None,
            };
            let cut = self.cut_all(why, whose).await;
            (sessions, streams) = (sessions + cut.0, streams + cut.1);
            let Some(lost) = lost else { continue };
            if let Whose::User(user) = whose {
                // The user's grants are gone as well.
                self.forget_grants(|grant| grant.user == *user).await;
            }
            return match lost {
                None => Ok(AdminReply::Cut { sessions, streams }),
                Some(source) => Err(LendError::NotLasting { sessions, source }),
            };
        }
    }

    /// How many sessions and streams were cut.
    async fn cut_all(&self, why: &str, whose: Whose<'_>) -> (usize, usize) {
        self.shared.live.cut(ErrorKind::Revoked, why, |live| whose.is(live)).await
    }

    /// The one live session whose id begins so.
    fn find(&self, prefix: &str) -> Result<std::sync::Arc<Borrower>, LendError> {
        let no = |why: &str| Err(LendError::usage(format!("{prefix:?} {why}: see `capuchind sessions`")));
        if self.addresses().is_empty() {
            let text = "capuchind does not run here: without it there are no live sessions".to_owned();
            return Err(LendError::usage(text));
        }
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

/// Whose sessions are cut.
#[derive(Clone, Copy)]
enum Whose<'a> {
    User(&'a UserName),
    Device(DeviceId),
    Session(SessionId),
}

impl Whose<'_> {
    fn is(self, live: &Borrower) -> bool {
        match self {
            Self::User(user) => live.principal.user == *user,
            Self::Device(device) => live.principal.device == device,
            Self::Session(id) => live.session_id == id,
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
    text.parse().map_err(|error: crate::proto::NameError| LendError::usage(error))
}
