//! The admin's commands: asked of the running daemon over its socket, or of the folder when no daemon runs.
//!
//! One JSON line asks, one answers. The socket is 0600, and only its owner and root are answered.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use zeroize::Zeroizing;

use super::{GrantEntry, LendError, Lender, LenderDir, Revoked, SessionEntry, audit::Event, check::CheckReply};
use crate::{
    proto::{Ask, UserName},
    session::Backoff,
    trust::{
        UnixTime,
        join_line::JoinLine,
        password::Password,
        store::{Store, StoreError},
    },
};

/// Longest request, in bytes: a password and a few names.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Longest answer, in bytes: every stream of as many sessions as a machine carries.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long an answer waits for its line in the log; a disk that hangs must not keep anything from being taken back.
const LOG_MAX: Duration = Duration::from_secs(2);
/// Requests at once.
const PLACES: usize = 16;
/// A request is one line, written at once.
const REQUEST_MAX: Duration = Duration::from_secs(5);

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
    /// Seconds since 1970.
    pub created: u64,
    /// Whether a password was set.
    pub password: bool,
    /// Ids of the devices that are not revoked.
    pub devices: Vec<String>,
}

/// The daemon's no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One of the error kinds.
    pub kind: String,
    /// What and why.
    pub text: String,
}

/// Asks the daemon of `dir`, or does it in its place when none runs.
///
/// # Errors
/// What the request itself gives, or that neither daemon nor folder can be reached.
pub async fn ask(dir: &LenderDir, request: AdminRequest) -> Result<AdminReply, LendError> {
    match UnixStream::connect(dir.admin_sock()).await {
        Ok(daemon) => ask_daemon(dir, daemon, &request).await,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            let lender = match request {
                AdminRequest::Check { .. } => Lender::open(dir)?,
                _ => Lender::open_without_policy(dir)?,
            };
            lender.execute(request).await
        }
        Err(source) => Err(LendError::AdminSocket { path: dir.admin_sock(), source }),
    }
}

async fn ask_daemon(dir: &LenderDir, mut daemon: UnixStream, request: &AdminRequest) -> Result<AdminReply, LendError> {
    let failed = |source| LendError::AdminSocket { path: dir.admin_sock(), source };
    let mut line = Zeroizing::new(serde_json::to_vec(request).map_err(|error| failed(error.into()))?);
    line.push(b'\n');
    daemon.write_all(&line).await.map_err(failed)?;
    let mut answer = String::new();
    daemon.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await.map_err(failed)?;
    let answer: Result<AdminReply, Refused> =
        serde_json::from_str(&answer).map_err(|error| LendError::AdminAnswer(error.to_string()))?;
    answer.map_err(LendError::Admin)
}

impl Lender {
    /// Does what an admin asks, in the name of the OS user whose process this is.
    ///
    /// # Errors
    /// What the request itself gives.
    pub async fn execute(&self, request: AdminRequest) -> Result<AdminReply, LendError> {
        self.execute_for(rustix::process::getuid().as_raw(), request).await
    }

    /// Does what an admin asks, and answers once it is in the audit log. A log that cannot be written stops no admin:
    /// taking something back must work on a full disk too.
    async fn execute_for(&self, uid: u32, request: AdminRequest) -> Result<AdminReply, LendError> {
        let event = Event::of_command(&request, uid);
        let result = self.do_command(request).await;
        let logged = async {
            self.shared.audit.log(event.with_result(&result)).await;
            self.shared.audit.flush().await
        };
        if tokio::time::timeout(LOG_MAX, logged).await.is_err() {
            tracing::error!("the audit log hangs: an admin's command is not in it yet");
        }
        result
    }

    async fn do_command(&self, request: AdminRequest) -> Result<AdminReply, LendError> {
        match request {
            AdminRequest::UserAdd { user } => {
                let user = name(&user)?;
                self.store(move |store| store.add_user(&user, UnixTime::now())).await?;
            }
            AdminRequest::UserList => return Ok(AdminReply::Users { users: list(&self.shared.store)? }),
            AdminRequest::UserRemove { user } => {
                let user = name(&user)?;
                let removed = user.clone();
                self.store(move |store| store.remove_user(&removed, UnixTime::now())).await?;
                self.end_of_user(&user).await;
                self.renew_policy().await;
            }
            AdminRequest::Logout { user } => {
                let user = name(&user)?;
                self.store(move |store| store.drop_tickets(&user)).await?;
            }
            AdminRequest::Allow { user, kind, target, seconds } => {
                return self.allow(name(&user)?, kind, target, Duration::from_secs(seconds)).await;
            }
            AdminRequest::Grants => return self.grants(),
            AdminRequest::GrantRemove { grant } => return self.remove_grant(grant).await,
            AdminRequest::Sessions => return Ok(self.sessions()),
            AdminRequest::Cut { what } => return self.cut(&what).await,
            AdminRequest::Revoke { whom } => return self.revoke(&whom).await,
            AdminRequest::Passwd { user, password } => {
                let user = name(&user)?;
                self.shared.store.password_of(&user)?;
                let password = Password::new(password.0.as_bytes().to_vec())?;
                let phc = self.shared.passwords.hash(password).await?;
                self.store(move |store| store.set_password(&user, &phc)).await?;
            }
            AdminRequest::Invite { user, ttl_seconds } => return self.invite(name(&user)?, ttl_seconds).await,
            AdminRequest::Check { user, kind, target } => return self.check(name(&user)?, &Ask { kind, target }).await,
        }
        Ok(AdminReply::Done)
    }

    async fn invite(&self, user: UserName, ttl_seconds: u64) -> Result<AdminReply, LendError> {
        let (now, ttl) = (UnixTime::now(), Duration::from_secs(ttl_seconds));
        let addresses = self.advertised()?;
        let (id, secret) = self.store(move |store| store.create_invitation(&user, ttl, now)).await?;
        let line = JoinLine {
            expires: now.plus(ttl),
            lender: self.shared.config.name.clone(),
            addresses,
            id,
            secret,
            ca_key: self.shared.authority.public_key(),
        };
        Ok(AdminReply::Invitation { line: line.encode()?.to_string() })
    }
}

fn name(text: &str) -> Result<UserName, LendError> {
    text.parse().map_err(|error: crate::proto::NameError| {
        LendError::Admin(Refused { kind: "usage".to_owned(), text: error.to_string() })
    })
}

fn list(store: &Store) -> Result<Vec<UserEntry>, StoreError> {
    let devices = store.list_devices()?;
    let entry = |user: crate::trust::store::User| UserEntry {
        user: user.name.to_string(),
        created: user.created.0,
        password: user.has_password,
        devices: devices
            .iter()
            .filter(|device| device.user == user.name && device.revoked.is_none())
            .map(|device| device.id.to_string())
            .collect(),
    };
    Ok(store.list_users()?.into_iter().map(entry).collect())
}

/// The admin's socket of a running daemon; gone with it.
pub(super) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Only called by whoever holds the store: a socket that is there already is left over from a crash.
    pub(super) fn open(dir: &LenderDir) -> Result<Self, LendError> {
        let path = dir.admin_sock();
        let failed = |source| LendError::AdminSocket { path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Its folder is 0700, so nobody else can connect before the mode is set.
        let socket = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(failed)?;
        Ok(Self { socket, path })
    }

    pub(super) async fn run(&self, lender: &Lender) {
        let places = Arc::new(Semaphore::new(PLACES));
        let mut tasks = tokio::task::JoinSet::new();
        let mut backoff = Backoff::new();
        loop {
            // Never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.socket.accept().await {
                Ok((admin, _)) => {
                    backoff.reset();
                    let lender = lender.clone();
                    tasks.spawn(async move {
                        if let Err(error) = answer(&lender, admin).await {
                            tracing::warn!(%error, "an admin's request failed");
                        }
                        drop(place);
                    });
                }
                Err(error) => backoff.wait("admin", &error).await,
            }
            while tasks.try_join_next().is_some() {}
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(lender: &Lender, admin: UnixStream) -> io::Result<()> {
    let peer = admin.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        let why = format!("uid {peer} is not the admin");
        let event = Event { event: "admin", uid: Some(peer), verdict: Some("refused"), ..Event::default() };
        lender.shared.audit.log(Event { why: Some(why.clone()), ..event }).await;
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let mut admin = BufReader::new(admin);
    let mut line = Zeroizing::new(Vec::new());
    let mut limited = (&mut admin).take(LINE_BYTES_MAX);
    tokio::time::timeout(REQUEST_MAX, limited.read_until(b'\n', &mut line)).await??;
    let refused = |error: LendError| Refused { kind: error.kind().to_string(), text: error.line() };
    let reply: Result<AdminReply, Refused> = match serde_json::from_slice(&line) {
        Ok(request) => lender.execute_for(peer, request).await.map_err(refused),
        Err(error) => Err(Refused { kind: "usage".to_owned(), text: error.to_string() }),
    };
    admin.write_all(&serde_json::to_vec(&reply)?).await?;
    admin.shutdown().await
}
