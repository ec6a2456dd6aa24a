//! Starts a program as somebody, in a session of its own, with nothing of ours but what it is given.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
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
    /// A session and a terminal of its own.
    Session = 1,
    /// Becoming the user.
    User,
    /// Giving up privileges for good.
    Privileges,
    /// The working directory.
    Folder,
    /// The program itself.
    Program,
}

/// A program that is about to begin: its process is there, and becomes it or says why not.
#[derive(Debug)]
pub struct Launched {
    /// The process.
    pub pid: Pid,
    told: OwnedFd,
}

impl Launched {
    /// How it went: which step failed, and what the system said. `None`: it is not known yet. To be asked again once
    /// [`AsFd`] is readable; a start may take as long as a file system that it needs.
    pub fn outcome(&self) -> Option<Result<(), (Step, io::Error)>> {
        let mut failure = [0; FAILURE_BYTES];
        match rustix::io::read(&self.told, &mut failure) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
            Ok(FAILURE_BYTES) => {
                let [step, errno @ ..] = failure;
                let step = STEPS.into_iter().find(|it| *it as u8 == step).unwrap_or(Step::Program);
                Some(Err((step, io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))))
            }
            // Closed at exec; so few bytes come whole.
            _ => Some(Ok(())),
        }
    }
}

impl AsFd for Launched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

/// A step and an errno.
const FAILURE_BYTES: usize = 5;
const STEPS: [Step; 5] = [Step::Session, Step::User, Step::Privileges, Step::Folder, Step::Program];

/// Starts `command` in a process of its own, and does not wait until it is one.
///
/// # Errors
/// There is no such process: what fork(2) says, and EBUSY in a process with several threads.
pub fn launch(mut command: Command, launch: Launch) -> io::Result<Launched> {
    let (told, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    match fork()? {
        Forked::Parent(pid) => Ok(Launched { pid, told }),
        Forked::Child => {
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
            let mut failure = [0; FAILURE_BYTES];
            failure[0] = reached.load(Ordering::Relaxed);
            failure[1..].copy_from_slice(&errno.to_ne_bytes());
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
        if who.uid != 0 && !launch.setuid {
            // Where the kernel or a container does not let us, the lists of processes stay open, as on any machine.
            let _ = hide_other_users();
        }
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
fn hide_other_users() -> rustix::io::Result<()> {
    // SAFETY: no descriptor table is unshared (FILES is not among the flags), which is all that can be unsound here.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    // What the machine mounts is seen here, and nothing that is mounted here is seen there.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
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

/// Closes every descriptor above stderr.
///
/// # Errors
/// Never on Linux 5.11 and newer.
pub fn close_inherited() -> io::Result<()> {
    close_range(0)
}

fn close_range(flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the call takes numbers only. Whoever closes calls this before it has opened anything (`close_inherited` is
    // the first thing that a worker does), so that no owner of a descriptor is left with a closed one.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// Lets every signal through and do what it does by default: what a program expects that is started. Allocates nothing.
fn reset_signals() {
    let none = empty_set();
    // SAFETY: the set is initialised and outlives the call; setting the default touches no memory of ours, and fails with
    // EINVAL for what cannot be set.
    unsafe {
        for number in 1..=SIGNAL_MAX {
            libc::signal(number, libc::SIG_DFL);
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
