//! The admin's commands: asked of the running daemon over its socket, or of the folder when no daemon runs.

mod message;
mod socket;

use std::{io, time::Duration};

use tokio::net::UnixStream;

pub use self::message::{AdminReply, AdminRequest, Refused, SecretText, UserEntry};
pub(super) use self::socket::{Listener, PLACES};
use super::{LendError, Lender, LenderDir, audit::Event};
use crate::{
    proto::{Ask, UserName},
    trust::{
        UnixTime,
        join_line::JoinLine,
        store::{Store, StoreError},
    },
};

/// How long an answer waits for its line in the log; a disk that hangs must not keep anything from being taken back.
const LOG_MAX: Duration = Duration::from_secs(2);

/// Asks the daemon of `dir`, or does it in its place when none runs.
///
/// # Errors
/// What the request itself gives, or that neither daemon nor folder can be reached.
pub async fn ask(dir: &LenderDir, request: AdminRequest) -> Result<AdminReply, LendError> {
    match UnixStream::connect(dir.admin_sock()).await {
        Ok(daemon) => socket::ask_daemon(dir, daemon, &request).await,
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
    pub(super) async fn execute_for(&self, uid: u32, request: AdminRequest) -> Result<AdminReply, LendError> {
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
                let password = password.password()?;
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
