//! A terminal of a test's own, whose other end the test holds: what is typed, and every byte that comes.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    process::Pid,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::tcgetpgrp,
};

use super::{PATIENCE, run, text};

/// Both ends of a terminal. Unless a program makes it its own (`setsid --ctty`), no signal comes of it but what a test sends.
pub struct Pty {
    keys: File,
    line: OwnedFd,
}

impl Pty {
    /// With a mode that is not the usual one, so that "as before" and "as usual" are two things.
    pub fn open() -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let line = open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let pty = Self { keys: keys.into(), line };
        pty.stty(&["intr", "^G", "-ixon", "cols", "90"]);
        pty
    }

    fn stty(&self, words: &[&str]) -> String {
        text(run(Command::new("stty").args(words).stdin(self.line.try_clone().unwrap())).stdout)
    }

    /// All modes of it, as stty(1) saves them.
    pub fn modes(&self) -> String {
        self.stty(&["-g"])
    }

    /// Sets what [`Self::modes`] gave.
    pub fn set_modes(&self, saved: &str) {
        self.stty(&[saved.trim()]);
    }

    /// Starts a command on it.
    pub fn start(&self, command: &mut Command) -> Child {
        command.stdin(self.end()).stdout(self.end()).stderr(self.end()).spawn().unwrap()
    }

    /// What a program has that is on it.
    pub fn end(&self) -> Stdio {
        self.line.try_clone().unwrap().into()
    }

    /// The process group that has it, where it controls somebody.
    pub fn foreground(&self) -> Pid {
        tcgetpgrp(&self.keys).unwrap()
    }

    /// How much has been typed that nobody has read, in bytes.
    pub fn typed(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.line).unwrap()
    }

    pub fn types(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    /// Types what may be more than is taken, while the test goes on.
    pub fn pastes(&self, keys: Vec<u8>) {
        let mut end = self.keys.try_clone().unwrap();
        // Of a terminal that has gone nothing is left to type at.
        std::thread::spawn(move || drop(end.write_all(&keys)));
    }

    /// Reads until this has come.
    pub fn wait_for(&mut self, what: &str) -> String {
        let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            assert!(self.something_comes(), "{what:?} did not come behind {:?}", String::from_utf8_lossy(&heard));
            let length = self.keys.read(&mut piece).unwrap();
            heard.extend_from_slice(&piece[..length]);
            let said = String::from_utf8_lossy(&heard);
            if said.contains(what) {
                return said.into_owned();
            }
        }
    }

    /// Reads that much, whatever it is.
    pub fn read_exactly(&mut self, length: usize) {
        let (mut read, mut piece) = (0, vec![0; length]);
        while read < length {
            assert!(self.something_comes(), "{read} bytes of {length} came");
            read += self.keys.read(&mut piece[read..]).unwrap();
        }
    }

    /// Waits for as long as a test waits: we hold the other end as well, so that no end would come.
    fn something_comes(&self) -> bool {
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.keys, PollFlags::IN)], Some(&patience)).unwrap() > 0
    }

    /// Reads on until nobody has the other end any more, and says how much came.
    pub fn read_to_hang_up(self) -> usize {
        let Self { mut keys, line } = self;
        drop(line);
        let (mut count, mut piece) = (0, vec![0; 1 << 16]);
        // EIO is how a terminal says so (pty(7)).
        while let Ok(length) = keys.read(&mut piece) {
            count += length;
        }
        count
    }
}
