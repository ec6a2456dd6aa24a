//! Starts a program as somebody, in a session of its own, with nothing of ours but what it is given.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command},
    sync::Arc,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    pipe::PipeFlags,
    process::{Gid, Uid},
    thread::{UnshareFlags, set_no_new_privs, set_thread_res_gid, set_thread_res_uid, unshare_unsafe},
};

use super::signal_number::SIGNAL_MAX;

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

/// Starts `command`.
///
/// # Errors
/// Which step failed, and what the system said.
pub fn launch(command: &mut Command, launch: Launch) -> Result<Child, (Step, io::Error)> {
    let at = |step| move |error: rustix::io::Errno| (step, io::Error::from(error));
    let (told, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(at(Step::Program))?;
    let tell = Arc::new(tell);
    let prepare = move || {
        prepare(&launch).map_err(|(step, error)| {
            // The byte says which step; if it cannot be written the program's own is assumed.
            let _ = rustix::io::write(&*tell, &[step as u8]);
            error
        })
    };
    // SAFETY: the process that calls this has one thread (it was made by `fork`, or is a test's), so that the closure
    // may do what any program does; it only makes system calls and calls initgroups.
    unsafe { command.pre_exec(prepare) };
    command.spawn().map_err(|error| {
        let mut step = [0];
        let step = match rustix::io::read(told.as_fd(), &mut step) {
            Ok(1) => {
                [Step::Session, Step::User, Step::Privileges, Step::Folder].into_iter().find(|it| *it as u8 == step[0])
            }
            _ => None,
        };
        (step.unwrap_or(Step::Program), error)
    })
}

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
