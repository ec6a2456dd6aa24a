//! What the daemon and a supervisor say to each other, over a socket that nobody else has.

use std::io;

use minicbor::{Decode, Encode};

use crate::{
    proto::{Terminal, WORDS_BYTES_MAX, WORDS_MAX},
    sys::{Become, Step},
};

/// Longest job, in bytes: all words, what CBOR needs for each, and the rest of it.
pub(super) const JOB_BYTES_MAX: usize = WORDS_BYTES_MAX as usize + 5 * WORDS_MAX as usize + 64 * 1024;
/// An order or a report: what, and a number.
pub(super) const NOTE_BYTES: usize = 2;

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(in crate::lend) struct Job {
    /// The file to execute.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(in crate::lend) file: Vec<u8>,
    /// Its arguments, its own name first.
    #[n(1)]
    pub(in crate::lend) arguments: Vec<minicbor::bytes::ByteVec>,
    /// Its whole environment, each `NAME=value`.
    #[n(2)]
    pub(in crate::lend) variables: Vec<minicbor::bytes::ByteVec>,
    /// Its working directory: the first that can be entered.
    #[n(3)]
    pub(in crate::lend) folders: Vec<minicbor::bytes::ByteVec>,
    /// A terminal for all three streams.
    #[n(4)]
    pub(in crate::lend) terminal: Option<Terminal>,
    /// Which of stdin, stdout and stderr are pipes; the others are /dev/null.
    #[n(5)]
    pub(in crate::lend) piped: Vec<bool>,
    /// As whom: uid, gid, name.
    #[n(6)]
    pub(in crate::lend) who: Option<(u32, u32, String)>,
    /// Whether it may gain privileges.
    #[n(7)]
    pub(in crate::lend) setuid: bool,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Outcome {
    /// The program's number; none if it did not start.
    #[n(0)]
    pub(super) pid: Option<u32>,
    /// What the system said otherwise, 0 if nothing.
    #[n(1)]
    pub(super) errno: i32,
    /// The step that failed.
    #[n(2)]
    pub(super) step: u8,
}

/// From the daemon to a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A signal for the program's group.
    Signal(u8),
    /// It may outlive the socket.
    Detach,
    /// End everything at once.
    Kill,
}

/// From a supervisor to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Exited(u8),
    Signalled(u8),
}

impl Outcome {
    pub(super) fn started(pid: u32) -> Self {
        Self { pid: Some(pid), errno: 0, step: 0 }
    }

    pub(super) fn failed(step: Step, error: &io::Error) -> Self {
        Self { pid: None, errno: error.raw_os_error().unwrap_or(0), step: step as u8 }
    }
}

impl Order {
    pub(super) fn encode(self) -> [u8; NOTE_BYTES] {
        match self {
            Self::Signal(number) => [0, number],
            Self::Detach => [1, 0],
            Self::Kill => [2, 0],
        }
    }

    pub(super) fn decode(bytes: [u8; NOTE_BYTES]) -> Option<Self> {
        match bytes {
            [0, number] => Some(Self::Signal(number)),
            [1, _] => Some(Self::Detach),
            [2, _] => Some(Self::Kill),
            _ => None,
        }
    }
}

impl Report {
    pub(super) fn encode(self) -> [u8; NOTE_BYTES] {
        match self {
            Self::Exited(status) => [0, status],
            Self::Signalled(number) => [1, number],
        }
    }

    pub(super) fn decode(bytes: [u8; NOTE_BYTES]) -> Option<Self> {
        match bytes {
            [0, status] => Some(Self::Exited(status)),
            [1, number] => Some(Self::Signalled(number)),
            _ => None,
        }
    }
}

impl Job {
    /// As whom it is to run, if not as the worker.
    pub(super) fn becomes(&self) -> io::Result<Option<Become>> {
        let Some((uid, gid, name)) = &self.who else { return Ok(None) };
        let name = std::ffi::CString::new(name.as_str())?;
        Ok(Some(Become { uid: *uid, gid: *gid, name }))
    }
}
