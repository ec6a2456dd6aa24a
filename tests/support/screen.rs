//! Terminals, driven as a person drives them: in tmux.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{Home, ask_until, in_environment_of, run, text};

/// A tmux of its own with one shell, ended when dropped.
pub struct Screen<'a> {
    /// Starts tmux(1) as whoever it belongs to.
    tmux: Box<dyn Fn() -> Command + 'a>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Screen<'_> {
    /// With a shell of this machine's.
    pub fn with(home: &Home, shell: &[&str]) -> Self {
        let (environment, bin) = (home.capuchin(), Path::new(env!("CARGO_BIN_EXE_capuchin")).parent().unwrap());
        let tmux = move || {
            let mut tmux = Command::new("tmux");
            in_environment_of(&mut tmux, &environment);
            tmux
        };
        let folder = tempfile::tempdir().unwrap();
        Self::of(tmux, folder, bin, shell)
    }
}

impl<'a> Screen<'a> {
    /// Of somebody who has `folder`, and `capuchin` in `bin`.
    pub fn of(tmux: impl Fn() -> Command + 'a, folder: tempfile::TempDir, bin: &Path, shell: &[&str]) -> Self {
        let socket = folder.path().join("tmux");
        let screen = Self { tmux: Box::new(tmux), socket, _folder: folder };
        let mut tmux = screen.tmux();
        tmux.args(["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "env", "PS1=here> "]);
        tmux.args(shell);
        tmux.env("PATH", std::env::join_paths([bin, Path::new("/usr/bin"), Path::new("/bin")]).unwrap());
        run(&mut tmux);
        screen.wait_for("here>");
        screen
    }

    pub fn tmux(&self) -> Command {
        let mut tmux = (self.tmux)();
        tmux.arg("-S").arg(&self.socket);
        tmux
    }

    pub fn keys(&self, keys: &[&str]) {
        run(self.tmux().arg("send-keys").args(keys));
    }

    fn shown(&self) -> String {
        text(run(self.tmux().args(["capture-pane", "-p"])).stdout)
    }

    /// Waits until the screen shows it.
    pub fn wait_for(&self, what: &str) -> String {
        self.wait_until(what, |shown| shown.contains(what))
    }

    pub fn wait_until(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        ask_until(what, || {
            let shown = self.shown();
            if fits(&shown) { Ok(shown) } else { Err(shown) }
        })
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").output();
    }
}
