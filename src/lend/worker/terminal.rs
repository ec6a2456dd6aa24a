//! A terminal for a program: a pair, of which it gets the one end as stdin, stdout and stderr.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    os::unix::ffi::OsStrExt,
    process::{Command, Stdio},
};

use rustix::{
    fs::{Gid, Mode, OFlags, Uid, chmod, chown, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

use crate::{proto::Terminal, session::terminal};

/// Gives `command` a terminal as the borrower's is, and gives the end that we keep.
pub(super) fn attach(
    command: &mut Command,
    wanted: &Terminal,
    who: Option<&(u32, u32, String)>,
) -> io::Result<OwnedFd> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    if let Some((uid, gid, _)) = who {
        // Of the group that its file system gives it no one but its user needs to know.
        let path = std::ffi::OsStr::from_bytes(name.to_bytes());
        chown(path, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
        chmod(path, Mode::RUSR | Mode::WUSR)?;
    }
    let theirs = File::from(open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?);
    let mut modes = tcgetattr(&theirs)?;
    terminal::apply(&mut modes, &wanted.modes);
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    terminal::resize(&theirs, wanted.size)?;
    command
        .stdin(Stdio::from(theirs.try_clone()?))
        .stdout(Stdio::from(theirs.try_clone()?))
        .stderr(Stdio::from(theirs));
    Ok(master)
}
