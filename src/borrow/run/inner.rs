//! The inner half of `run`: makes the network, starts the program in it, and looks after all that comes of it.
//!
//! It keeps its power over the network and speaks to nobody but the outer half. It has one thread, no runtime, and waits
//! for two things: its children, and the outer half. When the outer half is gone, everything here is killed.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitOptions, geteuid, getpid, getppid, kill_process, wait, waitpid},
};

use super::{
    PASSED_ON, SIGNALLED,
    control::{self, FromInner, Step, ToInner},
    doors::{Doors, Way},
    filter, listening,
    mask::Mask,
    names::own_resolvers,
    network::{self, Network},
    rules::MARK_OWN,
    tun,
    without_namespaces::{self, Handing},
};
use crate::{
    proto::Machine,
    sys::{self, Forked},
};

/// What the program left behind may take to end by itself: as what is behind a pipe of its does, which has its last lines to write.
const BY_ITSELF_MAX: Duration = Duration::from_millis(300);
/// And after it was told to, by a hang-up first: to a daemon that is a word to read its settings again, so that it is told once more.
const HANG_UP_MAX: Duration = Duration::from_secs(1);
const TERMINATE_MAX: Duration = Duration::from_secs(4);
/// For which process a service manager's sockets are, and the first of them (sd_listen_fds(3)).
const LISTEN_PID: &str = "LISTEN_PID";
const FIRST_PASSED: RawFd = 3;
/// Between two rounds of killing: a process may have started another one meanwhile.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// What to run, and how.
pub struct Plan {
    /// The program and its arguments; never empty.
    pub program: Vec<OsString>,
    /// Variables that its environment has besides ours.
    pub variables: Vec<(OsString, OsString)>,
    /// Variables that it takes from the lender: unset here where they are not set there.
    pub lender_variables: Vec<String>,
    /// Unix sockets of this machine that it reaches, although what would look up names or act outside is covered.
    pub local_unix: Vec<PathBuf>,
    /// Descriptors above stderr that it gets.
    pub keep_fds: Vec<RawFd>,
    /// Processes that it left behind may go on.
    pub wait_all: bool,
    /// How what it sends is caught; `None`: in the first way that this kernel has.
    pub way: Option<Way>,
    /// Its stdin and stdout are pipes to the outer half, which serves them, and not ours.
    pub piped: bool,
    /// It gets no namespaces, and is held by its seccomp filter alone: weaker, and for machines that forbid namespaces.
    pub without_namespaces: bool,
}

type Failed = (Step, io::Error);

/// Does everything, to the end of this process. `stdio`: the program's ends of its pipes, if it has any.
pub fn run(control: &OwnedFd, plan: &Plan, stdio: Option<[OwnedFd; 2]>) {
    // What cannot be told any more need not be.
    if let Err((step, error)) = live(control, plan, stdio) {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let _ = control::send(control, &FromInner::Failed(step, errno), &[]);
    }
}

fn live(control: &OwnedFd, plan: &Plan, stdio: Option<[OwnedFd; 2]>) -> Result<(), Failed> {
    let control_failed = |error| (Step::Control, error);
    if plan.without_namespaces {
        control::send(control, &FromInner::NoNetwork, &[]).map_err(control_failed)?;
        let Some(machine) = begin(control)? else { return Ok(()) };
        return look_after(control, plan, stdio, &machine, Held::ByFilter);
    }
    let is_root = sys::enter_borrowed_network().map_err(|error| (Step::Namespaces, error))?;
    network::set_loopback_up().map_err(|error| (Step::Loopback, error))?;
    network::let_ping(is_root);
    network::limit_first_buffers();
    let has_ipv6 = sys::has_ipv6();
    let doors = Doors::build(plan.way, has_ipv6)?;
    let way = doors.way();
    control::send(control, &FromInner::Ready(way, has_ipv6), &doors.fds()).map_err(control_failed)?;
    // Whoever closes a tap last waits until every core is done with it, some 20 ms: that is not to be the outer half, whose
    // end is waited for. So it is with the mask.
    let _catch = doors.catch;
    let Some(machine) = begin(control)? else { return Ok(()) };
    let network = Network::of(&machine, &own_resolvers(), has_ipv6);
    network.set_up().map_err(|error| (Step::Network, error))?;
    if way == Way::Tun {
        tun::divert(&network).map_err(|error| (Step::Network, error))?;
    }
    let _mask = Mask::of(&machine, &plan.local_unix).put_on().map_err(|error| (Step::Mask, error.into_source()))?;
    look_after(control, plan, stdio, &machine, Held::ByNamespaces { is_root })
}

/// What keeps the program from this machine's network.
#[derive(Clone, Copy)]
enum Held {
    /// Namespaces of its own, but for root, who has no user namespace.
    ByNamespaces { is_root: bool },
    /// Nothing but its filter.
    ByFilter,
}

/// Waits for the word to begin; `None` if there is nobody to say it.
fn begin(control: &OwnedFd) -> Result<Option<Machine>, Failed> {
    loop {
        match control::receive::<ToInner>(control, true).map_err(|error| (Step::Control, error))? {
            Some((ToInner::Begin(machine), _)) => return Ok(Some(machine)),
            Some((ToInner::Signal(_) | ToInner::Sockets(_), _)) => {}
            None => return Ok(None),
        }
    }
}

/// Starts the program and looks after it, to the end of all that came of it.
fn look_after(
    control: &OwnedFd,
    plan: &Plan,
    stdio: Option<[OwnedFd; 2]>,
    machine: &Machine,
    held: Held,
) -> Result<(), Failed> {
    let control_failed = |error| (Step::Control, error);
    sys::block_signals(&[Signal::CHILD]).map_err(control_failed)?;
    let children = sys::signal_fd(&[Signal::CHILD]).map_err(control_failed)?;
    rustix::process::set_child_subreaper(Some(getpid())).map_err(|error| (Step::Fork, error.into()))?;
    let program = start(control, plan, stdio, machine, held)?;
    // From here on the program may have children, which are ended below where the outer half is gone.
    let _ = control::send(control, &FromInner::Started, &[]);
    let (wait_all, has_ended) = (plan.wait_all, false);
    let charge =
        Charge { control, children, program, wait_all, has_ended, hang_up_at: None, terminate_at: None, kill_at: None };
    charge.look_after().map_err(control_failed)?;
    // What is left to clear away is cleared away when nobody waits for it any more.
    while control::receive::<ToInner>(control, true).map_err(control_failed)?.is_some() {}
    Ok(())
}

/// Starts the program, and waits until it is one. With a copy of `stdio` left here nobody would see its end.
fn start(
    control: &OwnedFd,
    plan: &Plan,
    stdio: Option<[OwnedFd; 2]>,
    machine: &Machine,
    held: Held,
) -> Result<Pid, Failed> {
    let (outer, inner) = (getppid(), getpid());
    let handing = Handing::new().map_err(|error| (Step::Fork, error))?;
    let (failure_rx, failure_tx) = io::pipe().map_err(|error| (Step::Fork, error))?;
    match sys::fork().map_err(|error| (Step::Fork, error))? {
        Forked::Child => {
            drop(failure_rx);
            let hand = |calls: OwnedFd, can_wait| match held {
                Held::ByNamespaces { .. } => control::send(control, &FromInner::Confined(can_wait), &[calls.as_fd()]),
                // Under its filter it could not say it: that waits for who is to get the calls.
                Held::ByFilter => handing.give(&calls, can_wait),
            };
            let (step, error) = become_program(plan, stdio, machine, held, hand, (outer, inner));
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            let _ = (&failure_tx).write_all(&[[step as u8; 4], errno.to_ne_bytes()].concat());
            // As a shell says it; the pipe has told more.
            std::process::exit(127);
        }
        Forked::Parent(program) => {
            drop(failure_tx);
            if let Held::ByFilter = held {
                // Without it the child says why, below, or is ended by us.
                match handing.take(program) {
                    Ok(Some((calls, can_wait))) => {
                        control::send(control, &FromInner::Confined(can_wait), &[calls.as_fd()])
                            .map_err(|error| (Step::Control, error))?;
                    }
                    Ok(None) => {}
                    Err(error) => return Err((Step::Reach, error)),
                }
                handing.taken();
            }
            let mut failure = Vec::new();
            // It closes at exec.
            let _ = (&failure_rx).take(8).read_to_end(&mut failure);
            match *failure {
                [step, _, _, _, e0, e1, e2, e3] => {
                    let _ = waitpid(Some(program), WaitOptions::empty());
                    let step = if step == Step::Exec as u8 { Step::Exec } else { Step::Confine };
                    Err((step, io::Error::from_raw_os_error(i32::from_ne_bytes([e0, e1, e2, e3]))))
                }
                _ => Ok(program),
            }
        }
    }
}

/// Gives up what the program must not have, and becomes it. Returns only what went wrong.
fn become_program(
    plan: &Plan,
    stdio: Option<[OwnedFd; 2]>,
    machine: &Machine,
    held: Held,
    hand: impl Fn(OwnedFd, bool) -> io::Result<()>,
    (outer, inner): (Option<Pid>, Pid),
) -> Failed {
    let (keeps_roots, mut filter) = match held {
        Held::ByNamespaces { is_root } => (is_root, filter::filter(is_root)),
        Held::ByFilter => (geteuid().is_root(), without_namespaces::filter()),
    };
    let mut confine = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(inner) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // A mask outlives exec.
        sys::unblock_signals(&PASSED_ON)?;
        sys::unblock_signals(&[Signal::CHILD])?;
        sys::give_up_privileges(keeps_roots)?;
        if let Held::ByFilter = held {
            // A second lock where the kernel has it.
            sys::keep_to_itself()?;
        }
        let (calls, can_wait) = sys::install_filter(&mut filter)?;
        hand(calls, can_wait)?;
        sys::close_at_exec(&plan.keep_fds)
    };
    if let Err(error) = confine() {
        return (Step::Confine, error);
    }
    let Some((program, arguments)) = plan.program.split_first() else {
        return (Step::Exec, io::ErrorKind::NotFound.into());
    };
    let mut command = Command::new(program);
    if let Some([stdin, stdout]) = stdio {
        command.stdin(stdin).stdout(stdout);
    }
    for name in &plan.lender_variables {
        command.env_remove(name);
    }
    sys::give_inherited_signals(&mut command);
    if passes_sockets(plan, outer) {
        command.env(LISTEN_PID, getpid().as_raw_nonzero().to_string());
    }
    command.envs(machine.variables.iter().map(|variable| (&variable.name, OsStr::from_bytes(&variable.value))));
    (Step::Exec, command.args(arguments).envs(plan.variables.iter().cloned()).exec())
}

/// Whether a service manager gave sockets to the outer half, which the program keeps: then they are for it.
fn passes_sockets(plan: &Plan, outer: Option<Pid>) -> bool {
    let number = |name| env::var(name).ok()?.parse::<i32>().ok();
    let is_for_us = number(LISTEN_PID).is_some_and(|pid| outer.map(|outer| outer.as_raw_nonzero().get()) == Some(pid));
    let count = number("LISTEN_FDS").filter(|count| *count > 0 && is_for_us);
    count.is_some_and(|count| (FIRST_PASSED..FIRST_PASSED.saturating_add(count)).all(|fd| plan.keep_fds.contains(&fd)))
}

/// The program, and all that it starts.
struct Charge<'a> {
    control: &'a OwnedFd,
    children: OwnedFd,
    program: Pid,
    wait_all: bool,
    has_ended: bool,
    /// When what was left behind has had its time, and is told to end.
    hang_up_at: Option<Instant>,
    /// When it has had its time after that, and is told in the way that daemons understand.
    terminate_at: Option<Instant>,
    /// When it has had all the time that there is.
    kill_at: Option<Instant>,
}

impl Charge<'_> {
    /// Until nothing is left.
    fn look_after(mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            while sys::read_signal(&self.children).is_ok() {}
            if !self.reap()? {
                return control::send(self.control, &FromInner::Alone, &[]);
            }
            match control::receive::<ToInner>(self.control, false) {
                Ok(Some((ToInner::Signal(number), _))) => self.signal(number),
                Ok(Some((ToInner::Sockets(is_ipv6), _))) => self.make_sockets(is_ipv6),
                Ok(Some((ToInner::Begin(_), _))) => {}
                Ok(None) => self.kill_at = Some(Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.terminate_at.take_if(|at| *at <= Instant::now()).is_some() {
                signal_left_behind(Signal::TERM);
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                signal_left_behind(Signal::KILL);
                self.kill_at = Some(Instant::now() + KILL_AGAIN);
            }
        }
    }

    /// Until a child or the outer half has something to say, or it is time to kill.
    fn wait(&self) -> io::Result<()> {
        let next = self.terminate_at.into_iter().chain(self.kill_at).min().or(self.hang_up_at);
        let left = next.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let mut fds =
            [PollFd::new(&self.children, PollFlags::IN), PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN)];
        // Killing goes on even when the outer half is gone, whose end would be seen again and again.
        let fds = if self.kill_at.is_some() { &mut fds[..1] } else { &mut fds[..] };
        match poll(fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hears what became of each child; `false` when there is none any more.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some(changed)) => changed,
                Ok(None) => {
                    self.hang_up();
                    return Ok(true);
                }
                Err(rustix::io::Errno::CHILD) => return Ok(false),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if pid != self.program || self.has_ended {
                continue;
            }
            if status.stopped() {
                let _ = control::send(self.control, &FromInner::Stopped, &[]);
                continue;
            }
            self.has_ended = true;
            let code = status
                .exit_status()
                .or_else(|| status.terminating_signal().map(|number| i32::from(SIGNALLED) + number));
            let _ = control::send(self.control, &FromInner::Ended(code.map_or(SIGNALLED, |code| code as u8)), &[]);
        }
    }

    /// Tells what the program left behind that it is to end, once, and after a while.
    fn hang_up(&mut self) {
        if self.has_ended && !self.wait_all && self.kill_at.is_none() {
            if *self.hang_up_at.get_or_insert_with(|| Instant::now() + BY_ITSELF_MAX) > Instant::now() {
                return;
            }
            if sys::is_left_by_descendants(getpid()) {
                let _ = control::send(self.control, &FromInner::Background, &[]);
            }
            signal_left_behind(Signal::HUP);
            // Who was stopped hears it only when it goes on.
            signal_left_behind(Signal::CONT);
            let terminate_at = Instant::now() + HANG_UP_MAX;
            (self.terminate_at, self.kill_at) = (Some(terminate_at), Some(terminate_at + TERMINATE_MAX));
        }
    }

    /// For visitors of the program; as many as can be made and handed over.
    fn make_sockets(&self, is_ipv6: bool) {
        let made = (0..listening::BATCH).map_while(|_| sys::visitor_socket(is_ipv6, MARK_OWN).ok());
        let made: Vec<OwnedFd> = made.collect();
        let passed: Vec<_> = made.iter().map(AsFd::as_fd).collect();
        if control::send(self.control, &FromInner::Sockets(is_ipv6), &passed).is_err() {
            // Too many descriptors are on their way, or memory is short; without any, it is asked again. That the outer half is
            // gone is heard next.
            let _ = control::send(self.control, &FromInner::Sockets(is_ipv6), &[]);
        }
    }

    fn signal(&self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else { return };
        if self.has_ended {
            signal_left_behind(signal);
        } else {
            // It was not waited for yet, so that the number is still its own.
            let _ = kill_process(self.program, signal);
        }
    }
}

/// A signal for everything that came of the program: all of it descends from this process, to which orphans fall.
fn signal_left_behind(signal: Signal) {
    sys::signal_descendants(getpid(), &[], signal);
}
