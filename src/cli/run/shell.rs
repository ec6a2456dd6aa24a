//! The shell that a bare `capuchin run HOST` starts, with the host in front of its prompt.

use std::{
    ffi::{OsStr, OsString},
    io::Write,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::cli::report::escape;

/// What is started, and how.
pub struct Shell {
    /// The shell and its arguments.
    pub words: Vec<OsString>,
    /// A variable for the prompt.
    pub variable: Option<(OsString, OsString)>,
    /// A descriptor that it reads from while it starts, and closes.
    pub startup: Option<OwnedFd>,
}

impl Shell {
    /// The user's shell. `host` stands in front of its prompt as far as it takes it.
    pub fn of_user(host: &str) -> Self {
        let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
        let name = escape(host);
        let is_bash = Path::new(&shell).file_name() == Some(OsStr::new("bash"));
        match is_bash.then(|| bash_startup(&name)).transpose() {
            Ok(Some(startup)) => {
                let file = format!("/dev/fd/{}", startup.as_raw_fd());
                Self { words: vec![shell, "--rcfile".into(), file.into()], variable: None, startup: Some(startup) }
            }
            // Without a prompt of ours it is a shell all the same.
            Ok(None) | Err(_) => {
                let rest = std::env::var("PS1").unwrap_or_else(|_| "$ ".to_owned());
                let variable = ("PS1".into(), format!("({name}) {rest}").into());
                Self { words: vec![shell], variable: Some(variable), startup: None }
            }
        }
    }
}

/// The user's own file sets PS1, whatever the environment says, and PROMPT_COMMAND is his: so ours stands in its place, and
/// reads it. bash reads the machine's by itself.
fn bash_startup(name: &str) -> std::io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create("capuchin-bashrc", MemfdFlags::empty())?);
    let fd = file.as_raw_fd();
    let name = name.replace('\'', "'\\''");
    // bash has read the file to its end before it does what it says.
    write!(file, "exec {fd}<&-\n[ ! -f ~/.bashrc ] || . ~/.bashrc\nPS1='({name}) '\"$PS1\"\n")?;
    Ok(file.into())
}
