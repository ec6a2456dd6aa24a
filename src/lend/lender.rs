//! The running lender: what every connection of it shares.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{OwnedMutexGuard, Semaphore, watch},
    time::timeout,
};

use super::{
    LendError, LenderConfig, LenderDir, Listeners, accept, admin,
    at_store::{self, LOOK_MAX},
    audit::Audit,
    blocking::blocking,
    descriptors,
    door::Door,
    file_version::FileVersion,
    grants::{self, LookAgain, Standing},
    identity::{self, Configs, ServerIdentity},
    in_force::InForce,
    live::Live,
    names::{self, Machine},
    real_path::real_place,
    reload::{self, RefusedPolicy},
    resolve::LookUps,
    seats::Seats,
    service::Services,
    shares::Shares,
    spawn,
    worker::Worker,
};
use crate::{
    policy::{LenderPath, Policy, PolicyError, Problem},
    proto::UserName,
    trust::{
        UnixTime,
        authority::Authority,
        keyfile,
        lockout::Lockout,
        password::PasswordQueue,
        store::{Store, StoreError, TimedGrant},
    },
};

/// A lender. Clones share everything.
///
/// ```
/// use capuchin::lend::{Lender, LenderDir, Setup, init};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let folder = tempfile::tempdir()?;
/// let dir = LenderDir::single(folder.path().join("lab"));
/// init(&dir, Setup { name: Some("lab".parse()?), listen: Some("127.0.0.1:0".parse()?), ..Setup::default() })?;
/// let lender = Lender::open(&dir)?;
/// let listeners = lender.listen().await?;
/// let (stop_tx, stop_rx) = tokio::sync::oneshot::channel::<()>();
/// let running = tokio::spawn(async move { lender.serve(listeners, async { drop(stop_rx.await) }).await });
/// drop(stop_tx);
/// running.await??;
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Clone)]
pub struct Lender {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) dir: LenderDir,
    pub(super) config: LenderConfig,
    pub(super) authority: Authority,
    /// policy.toml, as it was read last, and what is in force: with the grants that stand.
    pub(super) file_policy: Mutex<Policy>,
    pub(super) policy: RwLock<InForce>,
    /// The grants behind what is in force, and when they must be looked at again.
    pub(super) standing: Mutex<Standing>,
    pub(super) grants_end: watch::Sender<LookAgain>,
    /// Of policy.toml, as it was when the lender was opened.
    pub(super) policy_version: Option<FileVersion>,
    pub(super) refused_policy: Mutex<Option<RefusedPolicy>>,
    /// One reading of policy.toml at a time, or an older one might win.
    pub(super) reloading: tokio::sync::Mutex<()>,
    /// Whose turn it is to put a policy in force.
    pub(super) renewing: Arc<tokio::sync::Mutex<grants::Reader>>,
    pub(super) live: Live,
    pub(super) seats: Seats,
    /// A place for each descriptor of a borrower: of a session, of a socket that is lent, of a program's stream.
    pub(super) sockets: Arc<Semaphore>,
    pub(super) services: Arc<Services>,
    /// Of programs, by user.
    pub(super) programs: Shares,
    pub(super) look_ups: LookUps,
    /// Questions to resolvers.
    pub(super) questions: Shares,
    /// Runs programs.
    pub(super) worker: Worker,
    /// What this machine says about names.
    pub(super) machine: Machine,
    /// Its folders, as they are named and where they really are.
    own_folders: Vec<LenderPath>,
    pub(super) store: Store,
    /// Of what peers have the store write, and of what they read there: whoever writes to a disk that hangs keeps no reader out.
    pub(super) writers: Arc<Semaphore>,
    pub(super) readers: Arc<Semaphore>,
    pub(super) audit: Audit,
    pub(super) passwords: PasswordQueue,
    pub(super) lockout: Mutex<Lockout>,
    pub(super) identity: ServerIdentity,
    /// Where it accepts connections, once it does.
    pub(super) bound: OnceLock<Vec<SocketAddr>>,
    /// Opened with the listening socket, until it is served.
    admin: Mutex<Option<admin::Listener>>,
    /// As the admin's; `None` too while another lender has it.
    door: Mutex<Option<Door>>,
}

impl Lender {
    /// Opens the lender in `dir`: every file is read and checked, and the store is locked.
    ///
    /// # Errors
    /// If a file is missing, too open or broken, or a daemon runs already.
    pub fn open(dir: &LenderDir) -> Result<Self, LendError> {
        // Before it is read: a change in between is then seen as one.
        let version = reload::version(&dir.policy_toml());
        // Where there is no lender at all, that is what to say.
        let config = LenderConfig::load(dir)?;
        Self::open_with(dir, config, version, load_policy(dir)?)
    }

    /// As [`Self::open`], for what asks no policy: a broken policy.toml must not keep the admin from, say, removing a user.
    pub(super) fn open_without_policy(dir: &LenderDir) -> Result<Self, LendError> {
        // Nothing is allowed.
        Self::open_with(
            dir,
            LenderConfig::load(dir)?,
            None,
            Policy::parse("", &dir.policy_toml().display().to_string())?,
        )
    }

    fn open_with(
        dir: &LenderDir,
        config: LenderConfig,
        policy_version: Option<FileVersion>,
        policy: Policy,
    ) -> Result<Self, LendError> {
        let authority = identity::authority(dir)?;
        let identity = ServerIdentity::load(dir, &authority, &config.name)?;
        // A store comes before its log. One that is gone must not begin anew without a word: it would forget revocations.
        if !dir.store().try_exists().unwrap_or(true) && Audit::has_lines(&dir.audit()) {
            return Err(LendError::StoreGone { store: dir.store(), audit: dir.audit() });
        }
        let store = Store::open(&dir.store())?;
        let audit = Audit::open(&dir.audit())?;
        let shared = Shared {
            dir: dir.clone(),
            config,
            authority,
            policy: RwLock::new(InForce::new(policy.clone(), None)),
            file_policy: Mutex::new(policy),
            standing: Mutex::default(),
            grants_end: watch::Sender::new(LookAgain::Never),
            policy_version,
            refused_policy: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            renewing: Arc::default(),
            live: Live::default(),
            seats: Seats::default(),
            sockets: Arc::new(descriptors::places()),
            services: Arc::default(),
            programs: spawn::places(),
            look_ups: LookUps::new(),
            questions: names::places(),
            worker: Worker::default(),
            machine: Machine::new(),
            own_folders: dir.own_folders(),
            store,
            writers: at_store::places(),
            readers: at_store::places(),
            audit,
            passwords: PasswordQueue::new(),
            lockout: Mutex::default(),
            identity,
            bound: OnceLock::new(),
            admin: Mutex::default(),
            door: Mutex::default(),
        };
        let lender = Self { shared: Arc::new(shared) };
        lender.combine(None, lender.shared.store.list_grants(UnixTime::now()));
        Ok(lender)
    }

    /// Its settings.
    pub fn config(&self) -> &LenderConfig {
        &self.shared.config
    }

    /// Where it accepts connections, once [`Self::listen`] has opened the sockets; before that, nowhere.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.shared.bound.get().map_or(&[], Vec::as_slice)
    }

    /// Whether any device has joined.
    ///
    /// # Errors
    /// If the store fails.
    pub fn has_devices(&self) -> Result<bool, LendError> {
        Ok(!self.shared.store.list_devices()?.is_empty())
    }

    /// Its door for users of this machine, if [`Self::listen`] could open it and it does not serve yet.
    pub fn door(&self) -> Option<PathBuf> {
        let door = self.shared.door.lock().unwrap_or_else(PoisonError::into_inner);
        door.as_ref().map(|door| door.path().to_owned())
    }

    /// Opens its listening sockets, all that systemd passed (`LISTEN_FDS`) or else the one of lender.toml, the admin's, and
    /// the door for users of this machine; all are answered once it serves. Without a door, because another lender has it,
    /// say, it goes on, and a warning in the log says why.
    ///
    /// # Errors
    /// If the address is taken, a descriptor does not listen, or the admin's socket cannot be made.
    pub async fn listen(&self) -> Result<Listeners, LendError> {
        let listen = self.shared.config.listen;
        let listeners = Listeners::open(listen).await?;
        let failed = |source| LendError::Listen { address: listen.to_string(), source };
        let _ = self.shared.bound.set(listeners.addresses().map_err(failed)?);
        // Now, so that whoever is told that it listens finds the admin's socket, too.
        let admin = admin::Listener::open(&self.shared.dir)?;
        *self.shared.admin.lock().unwrap_or_else(PoisonError::into_inner) = Some(admin);
        if let Some(path) = self.shared.dir.door_sock() {
            let opened = Door::open(path).await;
            let door = opened.inspect_err(|error| tracing::warn!("no door for users of this machine: {error}")).ok();
            *self.shared.door.lock().unwrap_or_else(PoisonError::into_inner) = door;
        }
        Ok(listeners)
    }

    /// Serves until `stop` is ready, then ends every session.
    ///
    /// # Errors
    /// If the admin's socket cannot be opened. A failing connection never ends it.
    ///
    /// # Cancellation
    /// Dropping the future closes every connection at once.
    pub async fn serve(&self, listeners: Listeners, stop: impl Future<Output = ()>) -> Result<(), LendError> {
        let opened = self.shared.admin.lock().unwrap_or_else(PoisonError::into_inner).take();
        let admin = opened.map_or_else(|| admin::Listener::open(&self.shared.dir), Ok)?;
        let door = self.shared.door.lock().unwrap_or_else(PoisonError::into_inner).take();
        tracing::info!(name = %self.shared.config.name, addresses = ?self.addresses(), "serving");
        self.tell_covered();
        super::notify::ready();
        let (stopping_tx, stopping) = watch::channel(false);
        let stop = async {
            stop.await;
            stopping_tx.send_replace(true);
        };
        let visitors = async {
            if let Some(door) = &door {
                door.run(self, stopping).await;
            }
        };
        let sessions = async { tokio::join!(accept::run(self, listeners, stop), visitors) };
        tokio::select! {
            () = admin.run(self) => {}
            never = self.follow_policy() => match never {},
            () = self.follow_grants() => {}
            _ = sessions => {}
            () = self.shared.audit.write_counts() => {}
        }
        self.shared.audit.flush().await;
        Ok(())
    }

    /// How long a login of this user lasts, if the policy bounds it.
    pub(super) fn login_lasts(&self, user: &UserName) -> Option<Duration> {
        self.policy().limits(user).hours.map(|hours| Duration::from_secs(u64::from(hours) * 3600))
    }

    /// Whether this user needs more than a certificate.
    pub(super) fn asks_password(&self, user: &UserName) -> bool {
        !self.policy().terms(user).certificate_only
    }

    /// Puts another policy.toml in force, and takes back what it does not allow; gives how many handles.
    pub(super) async fn put_in_force(&self, policy: Policy) -> usize {
        self.renew_with(self.turn_to_renew().await, Some(policy)).await
    }

    /// Puts in force what policy.toml and the grants say together now, and takes back what they do not allow; gives how
    /// many handles.
    pub(super) async fn renew_policy(&self) -> usize {
        self.renew_with(self.turn_to_renew().await, None).await
    }

    /// Of two who put something in force at once the later one sees the later state.
    pub(super) async fn turn_to_renew(&self) -> OwnedMutexGuard<grants::Reader> {
        self.shared.renewing.clone().lock_owned().await
    }

    /// Away from the async workers: thousands of handles take a while. The turn goes along, and ends when it is done, whoever
    /// has stopped to wait for it.
    pub(super) async fn renew_with(&self, mut turn: OwnedMutexGuard<grants::Reader>, policy: Option<Policy>) -> usize {
        let read = turn.read(self).await;
        self.renew_by(turn, policy, read).await
    }

    /// As [`Self::renew_with`], with what the store has said of its grants.
    pub(super) async fn renew_by(
        &self,
        turn: OwnedMutexGuard<grants::Reader>,
        policy: Option<Policy>,
        grants: Result<Vec<TimedGrant>, StoreError>,
    ) -> usize {
        let lender = self.clone();
        blocking(move || {
            let _turn = turn;
            lender.combine(policy, grants);
            lender.judge_again()
        })
        .await
    }

    fn combine(&self, policy: Option<Policy>, grants: Result<Vec<TimedGrant>, StoreError>) {
        let mut file_policy = self.shared.file_policy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(policy) = policy {
            *file_policy = policy;
        }
        let (grants, look_again) = self.standing_grants(grants);
        let in_force = InForce::new(file_policy.with_grants(grants), look_again.first_ends());
        *self.shared.policy.write().unwrap_or_else(PoisonError::into_inner) = in_force;
        // Whoever asks for the policy may have to make it anew.
        drop(file_policy);
        self.shared.seats.bound(|user| self.policy().limits(user));
        self.shared.grants_end.send_replace(look_again);
    }

    /// What to serve with. A certificate that is due is renewed beside, and waited for only where it has ended: its disk may hang.
    ///
    /// # Errors
    /// It has ended, and there is no new one yet: of whoever asked that says nothing.
    ///
    /// # Cancellation
    /// A renewal that was begun goes on.
    pub(super) async fn configs(&self) -> Result<Configs, LendError> {
        let (now, identity) = (UnixTime::now(), &self.shared.identity);
        let current = identity.current();
        if !current.is_due(now) {
            return Ok(current);
        }
        let shared = self.shared.clone();
        let renew = |turn: OwnedMutexGuard<()>| {
            blocking(move || {
                let _turn = turn;
                shared.identity.renewed(&shared.authority, now)
            })
        };
        if current.is_over(now) {
            let renewed = async { renew(identity.renewing.clone().lock_owned().await).await };
            return timeout(LOOK_MAX, renewed).await.unwrap_or_else(|_| Err(StoreError::Hangs.into()));
        }
        if let Ok(turn) = identity.renewing.clone().try_lock_owned() {
            tokio::spawn(renew(turn));
        }
        Ok(current)
    }

    /// The folders that nobody borrows, whatever the policy says.
    pub(super) fn own_folders(&self) -> &[LenderPath] {
        &self.shared.own_folders
    }
}

pub(super) fn load_policy(dir: &LenderDir) -> Result<Policy, LendError> {
    let path = dir.policy_toml();
    let bytes = keyfile::read_admin_file(&path)?;
    let file = path.display().to_string();
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        let problem = Problem::Syntax { message: "it is not UTF-8".to_owned() };
        PolicyError { file: file.clone(), line: u32::try_from(line).unwrap_or(u32::MAX), problem }
    })?;
    Ok(Policy::parse(&text, &file)?.with_denies_followed(real_place))
}
