//! The shell that a bare `capuchin run HOST` starts, with the host in front of its prompt.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
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
    /// Files that it reads while it starts.
    folder: Option<Folder>,
}

/// A folder of ours, until it is dropped.
pub struct Folder(PathBuf);

impl Shell {
    /// The user's shell. `host` stands in front of its prompt as far as it takes it.
    pub fn of_user(host: &str) -> Self {
        let shell = env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
        let at = format!("({}) ", escape(host));
        let with = match Path::new(&shell).file_name().map(OsStr::as_bytes) {
            Some(b"bash") => Self::bash(shell.clone(), &at),
            Some(b"zsh") => Self::zsh(shell.clone(), &at),
            Some(b"fish") => Ok(Self::fish(shell.clone(), &at)),
            _ => Ok(Self::by_variable(shell.clone(), &at)),
        };
        // Without a prompt of ours it is a shell all the same.
        with.unwrap_or_else(|_| Self::by_variable(shell, &at))
    }

    /// It has started: what it was started with is closed, and this is to stay until it is over.
    pub fn started(self) -> Option<Folder> {
        self.folder
    }

    fn by_variable(shell: OsString, at: &str) -> Self {
        let rest = env::var("PS1").unwrap_or_else(|_| "$ ".to_owned());
        let variable = ("PS1".into(), format!("{at}{rest}").into());
        Self { words: vec![shell], variable: Some(variable), startup: None, folder: None }
    }

    /// The user's own file sets PS1, whatever the environment says, and PROMPT_COMMAND is his: so ours stands in its place, and
    /// reads it. bash reads the machine's by itself.
    fn bash(shell: OsString, at: &str) -> io::Result<Self> {
        let mut file = fs::File::from(memfd_create("capuchin-bashrc", MemfdFlags::empty())?);
        let fd = file.as_raw_fd();
        let at = quoted(OsStr::new(at));
        // bash has read the file to its end before it does what it says.
        file.write_all(format!("exec {fd}<&-\n[ ! -f ~/.bashrc ] || . ~/.bashrc\nPS1={at}\"$PS1\"\n").as_bytes())?;
        let words = vec![shell, "--rcfile".into(), format!("/dev/fd/{fd}").into()];
        Ok(Self { words, variable: None, startup: Some(file.into()), folder: None })
    }

    /// zsh is told of a folder and not of a file: in ours are two that read the user's, wherever his own file for every zsh says that
    /// the other one is. Themes set the prompt anew each time.
    fn zsh(shell: OsString, at: &str) -> io::Result<Self> {
        let folder = Folder::new("capuchin-zsh")?;
        let own = quoted(folder.0.as_os_str());
        let before = match env::var_os("ZDOTDIR").filter(|folder| !folder.is_empty()) {
            Some(users) => format!("export ZDOTDIR={}", quoted(&users)),
            None => "unset ZDOTDIR".to_owned(),
        };
        let read = |file| format!("[[ ! -f ${{ZDOTDIR:-$HOME}}/{file} ]] || . \"${{ZDOTDIR:-$HOME}}/{file}\"\n");
        let for_each = format!("{before}\n{}_capuchin_folder=${{ZDOTDIR:-}}\nZDOTDIR={own}\n", read(".zshenv"));
        // In a prompt a percent sign begins something.
        let at = quoted(OsStr::new(&at.replace('%', "%%")));
        let interactive = format!(
            "if [[ -n $_capuchin_folder ]]; then export ZDOTDIR=$_capuchin_folder; else unset ZDOTDIR; fi\n\
             unset _capuchin_folder\n\
             # The machine's own file has seen our folder.\n\
             [[ ${{HISTFILE:-}} != {own}/* ]] || HISTFILE=${{ZDOTDIR:-$HOME}}/${{HISTFILE:t}}\n\
             {}\
             _capuchin_at={at}\n\
             _capuchin_prompt() {{ [[ $PS1 == \"$_capuchin_at\"* ]] || PS1=$_capuchin_at$PS1; }}\n\
             precmd_functions+=(_capuchin_prompt)\n",
            read(".zshrc")
        );
        fs::write(folder.0.join(".zshenv"), for_each)?;
        fs::write(folder.0.join(".zshrc"), interactive)?;
        let variable = ("ZDOTDIR".into(), folder.0.clone().into());
        Ok(Self { words: vec![shell], variable: Some(variable), startup: None, folder: Some(folder) })
    }

    /// fish's prompt is a function, which is wrapped when the user's files are read. His is called first: it looks at the status of
    /// the last command.
    fn fish(shell: OsString, at: &str) -> Self {
        let at = at.replace('\\', "\\\\").replace('\'', "\\'");
        let wrap = format!(
            "functions -c fish_prompt _capuchin_prompt\n\
             function fish_prompt\n\
             set -l lines (_capuchin_prompt)\n\
             printf %s '{at}'\n\
             string join -- \\n $lines\n\
             end"
        );
        Self { words: vec![shell, "-C".into(), wrap.into()], variable: None, startup: None, folder: None }
    }
}

impl Folder {
    /// A new one that nobody else can look into, in the folder for what is temporary.
    fn new(name: &str) -> io::Result<Self> {
        let path = env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let make = || DirBuilder::new().mode(0o700).create(&path);
        match make() {
            // Left behind by one of this number that was killed; somebody else's cannot be removed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_dir_all(&path).and_then(|()| make())
            }
            made => made,
        }?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// As a word of a shell.
fn quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_string_lossy().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_word_is_what_it_was() {
        assert_eq!(quoted(OsStr::new("it's $(x)")), "'it'\\''s $(x)'");
    }

    #[test]
    fn a_folder_is_for_its_user_alone_and_goes_with_what_is_in_it() {
        let name = "capuchin-shell-test";
        let folder = Folder::new(name).unwrap();
        let path = folder.0.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path.join("left"), "behind").unwrap();
        std::mem::forget(folder);
        let again = Folder::new(name).unwrap();
        assert!(!path.join("left").exists());
        drop(again);
        assert!(!path.exists());
        // Somebody may have put a link there: nothing is written through it.
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), &path).unwrap();
        let made = Folder::new(name).map(|folder| folder.0.is_symlink());
        assert_ne!(made.ok(), Some(true));
        assert!(elsewhere.path().exists());
        let _ = fs::remove_file(&path);
    }
}
