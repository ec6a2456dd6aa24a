//! `.`, the lender of this very machine: its door instead of an address, and the kernel's word instead of a certificate.
//!
//! # Security
//! Nothing secret is sent. A socket is taken for a lender only if root or this user opened it, or whoever owns the folder
//! that `CAPUCHIND_DIR` names.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio::{io::BufReader, net::UnixStream};

use super::{
    BorrowError,
    access::Entered,
    link::{LinkError, Way},
    login::{LoggedIn, enter, patiently},
};
use crate::{
    proto::{LocalNames, Login, LoginMethod, ProtocolError, SessionId, UserName},
    session::{DOOR, READ_BYTES, own_door, system_door},
};

/// What the user calls the lender of this machine.
pub(super) const HERE: &str = ".";

/// The lender of this machine, as the user named it.
pub(super) struct Door {
    host: String,
    /// As whom; else as whom the lender knows this OS user.
    user: Option<UserName>,
    /// Where it may be; the first that answers is taken.
    paths: Vec<PathBuf>,
    /// Whose sockets are lenders.
    owners: Vec<u32>,
}

impl Door {
    /// The door, if `host` names it: `.` or `USER@.`.
    pub(super) fn named(host: &str) -> Result<Option<Self>, BorrowError> {
        let user = match host.strip_suffix(HERE) {
            Some("") => None,
            Some(user) if user.ends_with('@') => {
                let user = user.trim_end_matches('@').parse();
                Some(user.map_err(|error: crate::proto::NameError| BorrowError::usage(error.to_string()))?)
            }
            _ => return Ok(None),
        };
        let mut owners = vec![0, rustix::process::geteuid().as_raw()];
        let paths = match std::env::var_os("CAPUCHIND_DIR").filter(|folder| !folder.is_empty()) {
            Some(folder) => {
                owners.extend(Path::new(&folder).metadata().map(|found| found.uid()));
                vec![Path::new(&folder).join(DOOR)]
            }
            None => {
                let mut paths: Vec<_> = own_door().into_iter().chain([system_door()]).collect();
                paths.dedup();
                paths
            }
        };
        Ok(Some(Self { host: host.to_owned(), user, paths, owners }))
    }

    /// What the user calls it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Enters, as the OS user who runs this. `replaces` is a session of before whose connection was lost.
    pub(super) async fn enter(&self, replaces: Option<SessionId>) -> Result<Entered, BorrowError> {
        let attempt = || async {
            let connection = BufReader::with_capacity(READ_BYTES, self.knock().await?);
            let mut login = Login::by(LoginMethod::Peer);
            login.user = self.user.as_ref().map(ToString::to_string);
            login.replaces = replaces.map(|session| session.0);
            enter(self, connection, login, None).await
        };
        let LoggedIn { session, id, local, .. } = patiently(self, attempt).await?;
        let malformed =
            |why: String| BorrowError::protocol(&self.host, ProtocolError::Malformed { what: "welcome", why });
        let LocalNames { user, lender, os_user } =
            local.ok_or_else(|| malformed("it does not say who is who".to_owned()))?;
        let user = user.parse().map_err(|error| malformed(format!("{error}")))?;
        let lender = lender.parse().map_err(|error| malformed(format!("{error}")))?;
        if let Some(os_user) = os_user {
            // Quoted: it is the lender's text.
            tracing::warn!("the OS user {os_user:?} is {user} at {lender}");
        }
        Ok(Entered { session, id, lender, user, ca: None, renewal: None, is_shared: false })
    }

    /// The first socket that somebody answers at, if it is a lender's.
    async fn knock(&self) -> Result<UnixStream, LinkError> {
        use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
        let mut problem = "no lender of this machine serves it".to_owned();
        for path in &self.paths {
            match UnixStream::connect(path).await {
                Ok(socket) => return self.judged(socket, path),
                // More knock than it takes up.
                Err(error) if error.kind() == WouldBlock => return Err(LinkError::Closed(error)),
                Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => {}
                Err(error) => problem = format!("{}: {error}", path.display()),
            }
        }
        let start = "on this machine run `capuchind up`; another machine's lender is joined: capuchin join";
        Err(LinkError::Failed(self.unreachable(problem).with_note(start.to_owned())))
    }

    fn judged(&self, socket: UnixStream, path: &Path) -> Result<UnixStream, LinkError> {
        let owner = socket.peer_cred().map_err(|error| self.io_error(error))?.uid();
        if self.owners.contains(&owner) {
            return Ok(socket);
        }
        Err(LinkError::Failed(BorrowError::Identity {
            text: format!("{} was opened by uid {owner}, which is neither root nor you", path.display()),
            notes: vec!["nothing was sent to it; to trust it, name its folder in CAPUCHIND_DIR".to_owned()],
        }))
    }
}

impl Way for Door {
    fn alias(&self) -> &str {
        &self.host
    }

    fn unreachable(&self, why: String) -> BorrowError {
        let tried: Vec<_> = self.paths.iter().map(|path| path.display().to_string()).collect();
        BorrowError::Unreachable { lender: self.host.clone(), tried: tried.join(", "), why, notes: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_is_this_machine_and_nothing_else_is() {
        for (host, user) in [(".", None), ("ana@.", Some("ana"))] {
            let door = Door::named(host).unwrap().expect("the door");
            assert_eq!((door.host.as_str(), door.user.as_ref().map(UserName::as_str)), (host, user));
        }
        for host in ["lab", "lab.", "ana@lab", "ana@lab.", "..", "", "a."] {
            assert!(Door::named(host).unwrap().is_none(), "{host}");
        }
        for host in ["@.", "Ana@.", "a@b@."] {
            assert!(Door::named(host).is_err(), "{host}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_somebody_else_opened_is_no_lender() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DOOR);
        let _socket = tokio::net::UnixListener::bind(&path).unwrap();
        let mut door = Door { host: HERE.to_owned(), user: None, paths: vec![path], owners: vec![u32::MAX] };
        let Err(LinkError::Failed(error)) = door.knock().await else { panic!("it was taken for a lender") };
        assert_eq!(error.kind(), crate::proto::ErrorKind::Identity, "{error}");
        door.owners.push(rustix::process::geteuid().as_raw());
        assert!(door.knock().await.is_ok());
    }
}
