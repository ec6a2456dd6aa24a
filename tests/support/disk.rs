//! A disk that a test has hang, for a real lender: what it writes to one of its files waits, as on a server of files that is gone.

use std::{fs::File, os::unix::fs::FileExt, path::Path, process::Command};

use super::{Daemon, Lab, run, wait_until};

pub struct Disk {
    folder: tempfile::TempDir,
    file: File,
}

impl Disk {
    /// A disk that works.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/disk.c");
        run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.path().join("disk.so")).arg(source));
        let file = File::options().read(true).write(true).create_new(true).open(folder.path().join("state")).unwrap();
        file.write_all_at(&[0; 8], 0).unwrap();
        Self { folder, file }
    }

    /// Starts the daemon of this lab again, with the file of this name on the disk.
    pub fn serve(&self, mut lab: Lab, name: &str) -> Lab {
        lab.daemon.kill();
        let path = |name| self.folder.path().join(name);
        let mut command = lab.admin();
        command.arg("serve").env("LD_PRELOAD", path("disk.so")).env("TEST_DISK", path("state"));
        let daemon = Daemon::spawn(command.env("TEST_DISK_NAME", name));
        let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
        Lab { folder: lab.folder, daemon, address }
    }

    pub fn hang(&self) {
        self.set(1);
    }

    /// From the moment on at which the file is made larger.
    pub fn hang_from_growth(&self) {
        self.set(2);
    }

    pub fn work_again(&self) {
        self.set(0);
    }

    fn set(&self, state: i32) {
        self.file.write_all_at(&state.to_ne_bytes(), 0).unwrap();
    }

    /// Until something waits for it.
    pub fn wait_for_a_call(&self) {
        wait_until("a call that hangs", || self.has_a_call());
    }

    /// Whether something waits for it.
    pub fn has_a_call(&self) -> bool {
        let mut waiting = [0; 4];
        self.file.read_exact_at(&mut waiting, 4).unwrap();
        i32::from_ne_bytes(waiting) > 0
    }
}
