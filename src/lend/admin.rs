//! The admin's commands: asked of the running daemon over its socket, or of the folder when no daemon runs.

mod message;
mod socket;

use std::{collections::BTreeMap, time::Duration};

pub use self::message::{AdminReply, AdminRequest, Refused, SecretText, UserEntry};
pub use self::socket::LateDaemon;
pub(super) use self::socket::{Listener, PLACES};
use super::{
    LendError, Lender, LenderDir,
    audit::Event,
    os_user::OsUser,
    turn::{Turn, turn},
};
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

/// Asks the daemon of `dir`, or does it in its place when none runs. A daemon that does not answer is waited for; `tell_late`
/// is called once when it has not for some seconds.
///
/// # Errors
/// What the request itself gives, or that neither daemon nor folder can be reached.
///
/// # Cancellation
/// What gives something is not done unless the daemon has begun with it. What takes something away may be done later.
pub async fn ask(
    dir: &LenderDir,
    request: AdminRequest,
    tell_late: impl FnOnce(LateDaemon),
) -> Result<AdminReply, LendError> {
    let open = match request {
        AdminRequest::Check { .. } => Lender::open,
        _ => Lender::open_without_policy,
    };
    match turn(dir, open).await? {
        Turn::Daemons(socket) => socket::ask_daemon(dir, socket, &request, tell_late).await,
        Turn::Ours(lender) => lender.execute(request).await,
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
        self.log_command(event.with_result(&result)).await;
        result
    }

    /// Logs what an admin has asked for who was gone before it was begun.
    async fn leave_undone(&self, uid: u32, request: &AdminRequest) {
        let gone = Refused { kind: "local".to_owned(), text: "its asker hung up before it was begun".to_owned() };
        let result: Result<(), _> = Err(LendError::Admin(gone));
        self.log_command(Event::of_command(request, uid).with_result(&result)).await;
    }

    async fn log_command(&self, event: Event) {
        let logged = async {
            self.shared.audit.log(event).await;
            self.shared.audit.flush().await
        };
        if tokio::time::timeout(LOG_MAX, logged).await.is_err() {
            tracing::error!("the audit log hangs: an admin's command is not in it yet");
        }
    }

    async fn do_command(&self, request: AdminRequest) -> Result<AdminReply, LendError> {
        match request {
            AdminRequest::UserAdd { user } => {
                let user = name(&user)?;
                self.store(move |store| store.add_user(&user, UnixTime::now())).await?;
            }
            AdminRequest::UserList => {
                // On a thread that may wait: the users of the machine are read as well.
                let users = self.store(list).await?;
                return Ok(AdminReply::Users { users });
            }
            AdminRequest::UserRemove { user } => {
                return self.remove_user(name(&user)?).await;
            }
            AdminRequest::Logout { user } => {
                let user = name(&user)?;
                self.store(move |store| store.drop_tickets(&user)).await?;
            }
            AdminRequest::Allow { user, kind, target, seconds } => {
                return self.allow(name(&user)?, kind, target, Duration::from_secs(seconds)).await;
            }
            AdminRequest::Grants => return self.grants().await,
            AdminRequest::GrantRemove { grant } => return self.remove_grant(grant).await,
            AdminRequest::Sessions => return Ok(self.sessions()),
            AdminRequest::Cut { what } => return self.cut(&what).await,
            AdminRequest::Revoke { whom } => return self.revoke(&whom).await,
            AdminRequest::Passwd { user, password } => {
                let user = name(&user)?;
                let known = user.clone();
                self.look(move |store| store.password_of(&known)).await?;
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
    text.parse().map_err(|error: crate::proto::NameError| LendError::usage(error))
}

/// Users, and those of this machine who have no entry and are kept out, by name. Of a removed user of whom the machine knows
/// nothing there is nothing to say.
fn list(store: &Store) -> Result<Vec<UserEntry>, StoreError> {
    let devices = store.list_devices()?;
    let mut barred: BTreeMap<UserName, UnixTime> = store.list_barred()?.into_iter().collect();
    let mut users: Vec<_> = store
        .list_users()?
        .into_iter()
        .map(|user| UserEntry {
            created: Some(user.created.0),
            password: user.has_password,
            devices: devices
                .iter()
                .filter(|device| device.user == user.name && device.revoked.is_none())
                .map(|device| device.id.to_string())
                .collect(),
            barred: barred.remove(&user.name).map(|since| since.0),
            user: user.name.to_string(),
        })
        .collect();
    users.extend(barred.into_iter().filter(|(user, _)| OsUser::is_called(user)).map(|(user, since)| UserEntry {
        user: user.to_string(),
        created: None,
        password: false,
        devices: Vec::new(),
        barred: Some(since.0),
    }));
    users.sort_by(|one, other| one.user.cmp(&other.user));
    Ok(users)
}
