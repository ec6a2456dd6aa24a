//! Starts a program as somebody, in a session of its own, with nothing of ours but what it is given.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    pipe::PipeFlags,
    process::{Gid, Pid, Uid},
    thread::{UnshareFlags, set_no_new_privs, set_thread_res_gid, set_thread_res_uid, unshare_unsafe},
};

use super::{
    fork::{Forked, fork},
    interpreter::interpreter_of_existing,
    keyring::leave_session_keyring,
    signal_number::SIGNAL_MAX,
};

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Become {
    /// The user.
    pub uid: u32,
    /// The user's own group.
    pub gid: u32,
    /// The name, by which the other groups are found.
    pub name: CString,
}

/// How a program is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its stdin is the terminal that it is to have.
    pub terminal: bool,
    /// As whom, if not as we are.
    pub who: Option<Become>,
    /// Whether it may gain privileges.
    pub setuid: bool,
    /// Its working directory; the first that can be entered of several.
    pub folders: Vec<PathBuf>,
}

/// Which step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A process for it.
    Process = 1,
    /// A session and a terminal of its own.
    Session,
    /// Becoming the user.
    User,
    /// Giving up privileges for good.
    Privileges,
    /// The working directory.
    Folder,
    /// The program itself.
    Program,
    /// What the program needs to be executed: its interpreter or loader.
    Interpreter,
}

impl Step {
    /// All of them, in their order.
    pub const ALL: [Self; 7] =
        [Self::Process, Self::Session, Self::User, Self::Privileges, Self::Folder, Self::Program, Self::Interpreter];
}

/// Why there is no program.
#[derive(Debug)]
pub struct NotLaunched {
    /// The step that failed.
    pub step: Step,
    /// What the system said.
    pub source: io::Error,
    /// The path that it said it of, a folder or an interpreter, cut to [`WHAT_BYTES_MAX`]; empty if it has no name.
    pub what: Vec<u8>,
}

impl NotLaunched {
    /// Nothing more is known than which step failed.
    pub fn at(step: Step) -> impl Fn(io::Error) -> Self {
        move |source| Self { step, source, what: Vec::new() }
    }
}

/// Longest path in a [`NotLaunched`], in bytes: as much as a line for a person has room for.
pub const WHAT_BYTES_MAX: usize = 512;

/// A program that is about to begin: its process is there, and becomes it or says why not.
#[derive(Debug)]
pub struct Launched {
    /// The process.
    pub pid: Pid,
    told: OwnedFd,
}

impl Launched {
    /// How it went: which step failed, and what the system said. `None`: it is not known yet. To be asked again once
    /// [`AsFd`] is readable; a start may take as long as a file system or a server of users that it needs.
    pub fn outcome(&self) -> Option<Result<(), NotLaunched>> {
        let mut failure = [0; FAILURE_BYTES + WHAT_BYTES_MAX];
        let length = match rustix::io::read(&self.told, &mut failure) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return None,
            Err(_) => 0,
            Ok(length) => length,
        };
        // So few bytes come whole, and none if the end that told them was closed at exec.
        Some(match failure.get(..length).and_then(<[u8]>::split_first_chunk::<FAILURE_BYTES>) {
            None => Ok(()),
            Some(([step, errno @ ..], what)) => Err(NotLaunched {
                step: Step::ALL.into_iter().find(|it| *it as u8 == *step).unwrap_or(Step::Program),
                source: io::Error::from_raw_os_error(i32::from_ne_bytes(*errno)),
                what: what.to_vec(),
            }),
        })
    }
}

impl AsFd for Launched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

/// A step and an errno; what it is said of stands behind.
const FAILURE_BYTES: usize = 5;
const _: () = assert!(FAILURE_BYTES + WHAT_BYTES_MAX <= 4096); // what a pipe takes whole (PIPE_BUF)

/// Starts `command` in a process of its own, and does not wait until it is one.
///
/// # Errors
/// There is no such process: what fork(2) says, and EBUSY in a process with several threads.
pub fn launch(mut command: Command, launch: Launch) -> io::Result<Launched> {
    let (told, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    match fork()? {
        Forked::Parent(pid) => Ok(Launched { pid, told }),
        Forked::Child => {
            let folder = launch.folders.first().cloned().unwrap_or_default();
            let reached = Arc::new(AtomicU8::new(Step::Program as u8));
            let at = reached.clone();
            let prepare = move || {
                prepare(&launch).map_err(|(step, error)| {
                    at.store(step as u8, Ordering::Relaxed);
                    error
                })
            };
            // SAFETY: this process has one thread (`fork` makes no other), so that the closure may do what any program does.
            unsafe { command.pre_exec(prepare) };
            let errno = command.exec().raw_os_error().unwrap_or(libc::EIO);
            let mut failure = vec![reached.load(Ordering::Relaxed)];
            failure.extend(errno.to_ne_bytes());
            let what = if failure[0] == Step::Folder as u8 {
                folder.into_os_string().into_vec()
            } else if (failure[0], errno) == (Step::Program as u8, libc::ENOENT)
                // As the user by now, so that nothing is told of a file that the user may not read.
                && let Some(interpreter) = interpreter_of_existing(command.get_program().as_ref())
            {
                failure[0] = Step::Interpreter as u8;
                interpreter
            } else {
                Vec::new()
            };
            failure.extend(what.into_iter().take(WHAT_BYTES_MAX));
            // If it cannot be told, nobody listens.
            let _ = rustix::io::write(&tell, &failure);
            // SAFETY: it ends this process at once, without the handlers and destructors, which are the other's.
            unsafe { libc::_exit(FAILED) }
        }
    }
}

/// What a shell says of a program that could not be executed; nobody hears it.
const FAILED: libc::c_int = 126;

fn prepare(launch: &Launch) -> Result<(), (Step, io::Error)> {
    let at = |step| move |error: rustix::io::Errno| (step, io::Error::from(error));
    reset_signals();
    rustix::process::setsid().map_err(at(Step::Session))?;
    if launch.terminal {
        rustix::process::ioctl_tiocsctty(stdin()).map_err(at(Step::Session))?;
    }
    if let Some(who) = &launch.who {
        if who.uid != 0 {
            // Where the kernel or a container does not let us, the lists of processes stay open, as on any machine.
            let _ = hide_other_users(launch.setuid);
        }
        // As root, whose share of the kernel's keys has room for as many as there are programs.
        leave_session_keyring().map_err(|error| (Step::Privileges, error))?;
        turn_into(who).map_err(|error| (Step::User, error))?;
    }
    if !launch.setuid {
        set_no_new_privs(true).map_err(at(Step::Privileges))?;
    }
    let mut entered = Err(rustix::io::Errno::NOENT);
    for folder in &launch.folders {
        entered = entered.or_else(|_| rustix::process::chdir(folder));
    }
    entered.map_err(at(Step::Folder))?;
    close_at_exec().map_err(|error| (Step::Program, error))
}

/// Makes /proc show the user's own processes only, in a mount namespace that this program and its children have.
fn hide_other_users(may_gain_privileges: bool) -> rustix::io::Result<()> {
    // SAFETY: no descriptor table is unshared (FILES is not among the flags), which is all that can be unsound here.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    // What the machine mounts is seen here, and nothing that is mounted here is seen there.
    match may_gain_privileges {
        false => mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?,
        // Whoever becomes root by sudo(8) mounts for the machine, where it shares its mounts (systemd does): /proc alone is ours.
        true => mount_change("/proc", MountPropagationFlags::PRIVATE)?,
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, c"hidepid=invisible")
}

/// Becomes a user for good, who can gain nothing by what is executed.
///
/// # Errors
/// Who is not root cannot.
pub fn become_user(who: &Become) -> io::Result<()> {
    turn_into(who)?;
    Ok(set_no_new_privs(true)?)
}

/// Becomes a user for good, and makes sure of it.
fn turn_into(who: &Become) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(who.uid), Gid::from_raw(who.gid));
    // SAFETY: the name is a C string that outlives the call.
    if unsafe { libc::initgroups(who.name.as_ptr(), who.gid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    let (real, effective) = (rustix::process::getuid(), rustix::process::geteuid());
    let groups = (rustix::process::getgid(), rustix::process::getegid());
    let back = set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok();
    let is_root = uid.is_root();
    if (real, effective) != (uid, uid) || groups != (gid, gid) || (back && !is_root) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

/// Every descriptor above stderr ends with the exec that follows, whoever opened it.
fn close_at_exec() -> io::Result<()> {
    close_range(libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor above stderr: the first thing that a process does with descriptors, as it must own none yet.
///
/// # Errors
/// Never on Linux 5.11 and newer.
pub fn close_inherited() -> io::Result<()> {
    close_range(0)
}

fn close_range(flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call takes numbers only. Whoever closes has opened nothing yet (`close_inherited` is the first thing that a
    // worker does, and that `forward -f` does once its words are read), so that no owner of a descriptor is left with a
    // closed one.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives `command` nothing but its stdin, stdout and stderr, whatever whoever started us has left open in us.
#[cfg(feature = "cli")]
pub fn give_stdio_alone(command: &mut Command) {
    // SAFETY: between fork and exec one system call is made, which takes numbers only; nothing is allocated or locked.
    unsafe { command.pre_exec(close_at_exec) };
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// Size of the kernel's set of signals, in bytes.
const SET_BYTES: usize = 8;

/// Lets every signal through and do what it does by default: what a program expects that is started. Allocates nothing.
fn reset_signals() {
    let none = empty_set();
    // As large as the kernel's structure at least, which has 32 bytes, or 20 where a pointer has four; zeroes are the default, no
    // flags and no signals held back.
    let default = [0_u64; 4];
    // SAFETY: the set and the structure are initialised and outlive the calls; setting the default touches no memory of ours, and
    // fails with EINVAL for what cannot be set.
    unsafe {
        for number in 1..=SIGNAL_MAX {
            // Not by signal(3): the C library keeps two to itself, and posix_spawn(3), by which a worker is started, ignores them.
            libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), std::ptr::null::<usize>(), SET_BYTES);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: a sigset_t is integers only, so that zeroes are a value; sigemptyset makes it the empty set.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        set
    }
}
