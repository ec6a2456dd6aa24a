//! What the daemon and a supervisor say to each other, over a socket that nobody else has.

use std::io;

use minicbor::{Decode, Encode};

use crate::{
    proto::{Terminal, WORDS_BYTES_MAX, WORDS_MAX},
    sys::{Become, NotLaunched},
};

/// Longest job, in bytes: all words, what CBOR needs for each, and the rest of it.
pub(super) const JOB_BYTES_MAX: usize = WORDS_BYTES_MAX as usize + 5 * WORDS_MAX as usize + 64 * 1024;
/// An order or a report: what, and a number.
pub(super) const NOTE_BYTES: usize = 5;

/// What a process of the worker's is for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum Task {
    /// To run a program.
    #[n(0)]
    Program(#[n(0)] Job),
    /// To connect or bind a Unix socket.
    #[n(1)]
    Socket(#[n(0)] SocketJob),
}

/// A Unix socket that a user is to connect or bind.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(in crate::lend) struct SocketJob {
    /// Where: a path without links.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub(in crate::lend) path: Vec<u8>,
    /// As whom: uid, gid, name.
    #[n(1)]
    pub(in crate::lend) who: (u32, u32, String),
    /// What for.
    #[n(2)]
    pub(in crate::lend) to: Use,
}

/// What a Unix socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(in crate::lend) enum Use {
    /// Connected to what listens there.
    #[n(0)]
    Connect,
    /// Bound there.
    #[n(1)]
    Listen,
}

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
    /// The folder or interpreter that the system said it of; empty if it has no name.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(super) what: Vec<u8>,
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
    /// Listen with this backlog; answered by [`Report::Done`].
    Listen(u32),
}

/// From a supervisor to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Exited(u8),
    Signalled(u8),
    /// An order was carried out, or what the system said, 0 for nothing.
    Done(u32),
}

impl Outcome {
    pub(super) fn started(pid: u32) -> Self {
        Self { pid: Some(pid), errno: 0, step: 0, what: Vec::new() }
    }

    pub(super) fn failed(why: NotLaunched) -> Self {
        let NotLaunched { step, source, what } = why;
        Self { pid: None, errno: source.raw_os_error().unwrap_or(0), step: step as u8, what }
    }
}

impl Order {
    pub(super) fn encode(self) -> [u8; NOTE_BYTES] {
        match self {
            Self::Signal(number) => note(0, number.into()),
            Self::Detach => note(1, 0),
            Self::Kill => note(2, 0),
            Self::Listen(backlog) => note(3, backlog),
        }
    }

    pub(super) fn decode(bytes: [u8; NOTE_BYTES]) -> Option<Self> {
        let [what, number @ ..] = bytes;
        let number = u32::from_be_bytes(number);
        match what {
            0 => u8::try_from(number).ok().map(Self::Signal),
            1 => Some(Self::Detach),
            2 => Some(Self::Kill),
            3 => Some(Self::Listen(number)),
            _ => None,
        }
    }
}

impl Report {
    pub(super) fn encode(self) -> [u8; NOTE_BYTES] {
        match self {
            Self::Exited(status) => note(0, status.into()),
            Self::Signalled(number) => note(1, number.into()),
            Self::Done(errno) => note(2, errno),
        }
    }

    pub(super) fn decode(bytes: [u8; NOTE_BYTES]) -> Option<Self> {
        let [what, number @ ..] = bytes;
        let number = u32::from_be_bytes(number);
        match what {
            0 => u8::try_from(number).ok().map(Self::Exited),
            1 => u8::try_from(number).ok().map(Self::Signalled),
            2 => Some(Self::Done(number)),
            _ => None,
        }
    }
}

fn note(what: u8, number: u32) -> [u8; NOTE_BYTES] {
    let [a, b, c, d] = number.to_be_bytes();
    [what, a, b, c, d]
}

impl SocketJob {
    /// As whom it is done.
    pub(super) fn who(&self) -> io::Result<Become> {
        let (uid, gid, name) = &self.who;
        Ok(Become { uid: *uid, gid: *gid, name: std::ffi::CString::new(name.as_str())? })
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
