//! A clock that a test moves, for real programs: what they read of time is what the kernel says and so much more or less.
//!
//! Who sleeps already sleeps as long as before. A program of tokio looks at its clock whenever it wakes, so that what is due by
//! then happens as soon as something reaches it.

use std::{
    cell::Cell,
    fs::{File, Permissions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Daemon, Lab, run};

/// To a session each step is one PING without an answer, and it bears no two; and its peer bears a hundred PINGs in a burst.
const STEP: Duration = Duration::from_secs(60);

pub struct Clock {
    folder: tempfile::TempDir,
    file: File,
    wall: Cell<i64>,
    steady: Cell<i64>,
    /// One more than it was let go on since the steady clock was stopped; 0 while it goes.
    stopped: Cell<i64>,
}

impl Clock {
    /// A clock that is right.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // For programs of any user.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
        run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.path().join("clock.so")).arg(source));
        let file = File::create(folder.path().join("ahead")).unwrap();
        let clock = Self { folder, file, wall: Cell::new(0), steady: Cell::new(0), stopped: Cell::new(0) };
        clock.show();
        clock
    }

    /// What a program that is to have this clock needs in its environment.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        let path = |name| self.folder.path().join(name);
        [("LD_PRELOAD", path("clock.so")), ("TEST_CLOCK", path("ahead"))]
    }

    /// Starts the daemon of this lab again, with this clock.
    pub fn serve(&self, mut lab: Lab) -> Lab {
        lab.daemon.kill();
        let daemon = Daemon::spawn(lab.admin().arg("serve").envs(self.environment()));
        let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
        Lab { folder: lab.folder, daemon, address }
    }

    /// Somebody sets the wall clock, by so many seconds.
    pub fn set_by(&self, seconds: i64) {
        self.wall.set(self.wall.get() + seconds);
        self.show();
    }

    /// Stops the clock that is never set, so that nothing is due before [`Self::pass`], however slow this machine is.
    pub fn stop(&self) {
        self.stopped.set(1);
        self.show();
    }

    /// It goes on from where it stood, so that nothing is due that waited meanwhile, however long that was.
    pub fn go_on(&self) {
        self.steady.set(self.steady.get() + self.stopped.replace(0) - 1);
        self.show();
    }

    /// Time passes. `busy` lets the program hear something, as otherwise it would think that its peer is gone.
    pub async fn pass(&self, time: Duration, mut busy: impl AsyncFnMut()) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP);
            left -= step;
            let steady = if self.stopped.get() == 0 { &self.steady } else { &self.stopped };
            steady.set(steady.get() + step.as_secs() as i64);
            self.set_by(step.as_secs() as i64);
            busy().await;
        }
    }

    fn show(&self) {
        let ahead = [self.wall.get(), self.steady.get(), self.stopped.get()].map(i64::to_ne_bytes).concat();
        self.file.write_all_at(&ahead, 0).unwrap();
    }
}
