//! How the descriptor of a program's calls comes out of the process that makes them: under the filter it could not send it, since
//! that call would wait for whoever is to get it.
//!
//! The child writes the number, and its parent takes the descriptor out of it; that it can is what all else depends on.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};

use crate::sys;

/// Both directions, to be made before the fork.
pub struct Handing {
    number: (PipeReader, PipeWriter),
    taken: (PipeReader, PipeWriter),
}

impl Handing {
    /// Makes it.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { number: io::pipe()?, taken: io::pipe()? })
    }

    /// In the child: gives it away, and waits until it was taken.
    ///
    /// # Errors
    /// The parent is gone.
    pub fn give(&self, calls: &OwnedFd, can_wait: bool) -> io::Result<()> {
        // As it is by default from exec on.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        let mut said = calls.as_raw_fd().to_ne_bytes().to_vec();
        said.push(can_wait.into());
        (&self.number.1).write_all(&said)?;
        (&self.taken.0).read_exact(&mut [0])
    }

    /// In the parent: takes it; `None`: the child had none to give.
    ///
    /// # Errors
    /// Another process of this user is out of our reach.
    pub fn take(&self, child: Pid) -> io::Result<Option<(OwnedFd, bool)>> {
        let mut said = [0; 5];
        if !self.wait(child)? || (&self.number.0).read_exact(&mut said).is_err() {
            return Ok(None);
        }
        let [n0, n1, n2, n3, can_wait] = said;
        let calls = sys::duplicate_of_thread(child.as_raw_nonzero().get(), i32::from_ne_bytes([n0, n1, n2, n3]))?;
        Ok(Some((calls, can_wait != 0)))
    }

    /// In the parent: lets the child go on.
    pub fn taken(&self) {
        // A child that is gone does not wait.
        let _ = (&self.taken.1).write_all(&[1]);
    }

    /// Whether the child has said something; its end is no word, and our own end of the pipe keeps it from being seen there.
    fn wait(&self, child: Pid) -> io::Result<bool> {
        use rustix::{
            event::{PollFd, PollFlags, poll},
            process::{PidfdFlags, pidfd_open},
        };
        let watch = pidfd_open(child, PidfdFlags::empty())?;
        loop {
            let mut ready = [PollFd::new(&self.number.0, PollFlags::IN), PollFd::new(&watch, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) => return Ok(ready.first().is_some_and(|number| number.revents().contains(PollFlags::IN))),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
