//! The other end: how a command comes to the session that another one shares.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{io::BufReader, net::UnixStream, time::timeout};

use super::{HELLO_MAX, is_ours};
use crate::{
    borrow::{
        BorrowError, Borrower,
        access::{Access, Entered},
        link::{LinkError, Way},
        login::{self, LoggedIn},
    },
    proto::{ErrorKind, Login, LoginMethod},
    session::{READ_BYTES, short_name},
};

impl Borrower {
    /// The session that another program of this user shares, if one does and has its connection; see [`Share`].
    ///
    /// One that is kept ([`Self::keep_connected`]) and lost comes back over a session that is shared by then, else over one of
    /// its own.
    ///
    /// # Errors
    /// As [`Self::connect`], for a host that is none.
    ///
    /// [`Share`]: crate::Share
    pub async fn shared_by_others(host: &str) -> Result<Option<Self>, BorrowError> {
        let access = Access::from_env(host)?;
        let entered = enter(&access).await.ok().flatten();
        Ok(entered.map(|entered| Self::new(entered, access)))
    }

    /// The process that shares a session with this host, if there is one; 0 for one that has no number here, as it is outside of
    /// this PID namespace.
    ///
    /// # Errors
    /// As [`Self::shared_by_others`].
    pub async fn sharing_process(host: &str) -> Result<Option<i32>, BorrowError> {
        Ok(keeper(&Access::from_env(host)?).await)
    }

    /// Whether the process that shares a session with this host has anything to say; one that is suspended has not. Takes
    /// four seconds at most.
    ///
    /// # Errors
    /// As [`Self::shared_by_others`].
    pub async fn sharing_process_answers(host: &str) -> Result<bool, BorrowError> {
        Ok(timeout(ANSWER_MAX, enter(&Access::from_env(host)?)).await.is_ok())
    }
}

/// How long the other end may take to say anything, before [`enter`] gives it up by itself.
const ANSWER_MAX: Duration = Duration::from_secs(4);
const _: () = assert!(ANSWER_MAX.as_secs() < HELLO_MAX.as_secs());

/// Enters the session that another program shares; `None` if none does, or not with us.
///
/// # Errors
/// One does, and makes its connection again just now.
pub(in crate::borrow) async fn enter(access: &Access) -> Result<Option<Entered>, BorrowError> {
    let Ok(key) = access.key() else { return Ok(None) };
    let Some(path) = key.path() else { return Ok(None) };
    let Some(socket) = reach(&path).await else { return Ok(None) };
    let way = Shared { host: access.host().to_owned(), path };
    let connection = BufReader::with_capacity(READ_BYTES, socket);
    let entering = login::enter(&way, connection, Login::by(LoginMethod::Peer), None);
    let LoggedIn { session, id, local, .. } = match timeout(HELLO_MAX, entering).await {
        Ok(Ok(logged_in)) => logged_in,
        Ok(Err(LinkError::Failed(BorrowError::Refused { kind: ErrorKind::Lost, reason, .. }))) => {
            return Err(BorrowError::Ended { lender: way.host, kind: ErrorKind::Lost, text: reason });
        }
        Ok(Err(_)) | Err(_) => return Ok(None),
    };
    let Some(names) = local else { return Ok(None) };
    let (Ok(user), Ok(lender)) = (names.user.parse(), names.lender.parse()) else { return Ok(None) };
    // Whose socket it is only its name says.
    if (&user, &lender) != (&key.user, &key.lender) {
        return Ok(None);
    }
    Ok(Some(Entered { session, id, lender, user, ca: Some(key.ca), renewal: None, is_shared: true }))
}

/// The process that shares a session.
pub(in crate::borrow) async fn keeper(access: &Access) -> Option<i32> {
    reach(&access.key().ok()?.path()?).await?.peer_cred().ok()?.pid()
}

/// Whoever listens there, if that is this user.
async fn reach(path: &Path) -> Option<UnixStream> {
    let (name, _folder) = short_name(path).ok()?;
    UnixStream::connect(name).await.ok().filter(is_ours)
}

/// The way to who shares, in errors; nearly all of them mean that nobody does.
struct Shared {
    host: String,
    path: PathBuf,
}

impl Way for Shared {
    fn alias(&self) -> &str {
        &self.host
    }

    fn unreachable(&self, why: String) -> BorrowError {
        let (lender, tried) = (self.host.clone(), self.path.display().to_string());
        BorrowError::Unreachable { lender, tried, why, notes: Vec::new() }
    }

    fn io_error(&self, error: io::Error) -> LinkError {
        LinkError::Closed(error)
    }
}
