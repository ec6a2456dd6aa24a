//! Programs: what is to be run, and what both ends say to each other while it runs.
//!
//! ```text
//!   spawn        request, words …  ▶  ◀ answer    then ToProgram ▶ and ◀ FromProgram, until the program has ended
//!   spawn-stdio  request, bytes    ▶  ◀ bytes     one stream for each of stdin, stdout and stderr; no answer of its own
//! ```
//! A stream for each, so that each ends by itself and none waits for another, and its bytes travel as they are.

use minicbor::{Decode, Decoder, Encode, Encoder, bytes::ByteVec, decode, encode};

use super::{ProtocolError, message};

/// All arguments and variables of a program together, each with its NUL, in bytes: what Linux gives a program at the
/// usual limit of its stack (a quarter of 8 MiB).
pub const WORDS_BYTES_MAX: u32 = 2 * 1024 * 1024;
/// Arguments and variables of a program, in number: each costs the kernel a pointer and us an allocation.
pub const WORDS_MAX: u32 = 64 * 1024;
/// Longest folder or `TERM`, in bytes: PATH_MAX of Linux without its NUL.
pub const FOLDER_BYTES_MAX: usize = 4095;
/// Longest name of a terminal's kind (`TERM`), in bytes.
pub const TERM_BYTES_MAX: usize = 64;
/// Most modes of a terminal: twice as many as RFC 4254 has.
pub const MODES_MAX: usize = 128;

/// Most variables of a program that may be left out: twice as many as there are of `LC_*`.
pub const OFFERED_MAX: usize = 32;
/// All of them together, in bytes.
pub const OFFERED_BYTES_MAX: usize = 4096;

/// What a program is to be; its words follow the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spawn {
    /// A program with arguments, or the user's login shell.
    pub what: Program,
    /// How many of the words are arguments, the program's own name included; the rest are variables, `NAME=value`.
    pub arguments: u32,
    /// How many are variables.
    pub variables: u32,
    /// Length of the words that follow the request, each with a NUL behind it, in bytes.
    pub words_bytes: u32,
    /// The working directory; the user's home if there is none.
    pub folder: Option<Vec<u8>>,
    /// A terminal for stdin, stdout and stderr together.
    pub terminal: Option<Terminal>,
    /// Which of stdin, stdout and stderr are streams; the others are /dev/null.
    pub piped: [bool; 3],
    /// It is to outlive its stream.
    pub detach: bool,
    /// More variables, `NAME=value`: each is left out without a word where the policy does not let it through.
    pub offered: Words,
}

/// Arguments or variables.
pub type Words = Vec<Vec<u8>>;

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The first argument, found as `execvp` finds it, with all arguments.
    Exec,
    /// The login shell of the user whom programs run as.
    Shell,
}

/// A terminal as it is at the borrower.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Terminal {
    /// Its kind, as in `TERM`.
    #[n(0)]
    pub term: String,
    /// How large it is.
    #[n(1)]
    pub size: TerminalSize,
    /// Its modes, by the opcodes of RFC 4254 §8.
    #[n(2)]
    #[cbor(default)]
    pub modes: Vec<Mode>,
}

/// How large a terminal is, in characters and in pixels (0: not known).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TerminalSize {
    /// Characters in a line.
    #[n(0)]
    pub columns: u16,
    /// Lines.
    #[n(1)]
    pub rows: u16,
    /// Width in pixels.
    #[n(2)]
    #[cbor(default)]
    pub width: u16,
    /// Height in pixels.
    #[n(3)]
    #[cbor(default)]
    pub height: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self { columns: 80, rows: 24, width: 0, height: 0 }
    }
}

/// One mode of a terminal: a character, or a flag that is 0 or 1 (RFC 4254 §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Mode {
    /// Which.
    #[n(0)]
    pub opcode: u8,
    /// Its value.
    #[n(1)]
    pub value: u32,
}

/// One of a program's three streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stdio {
    /// What it reads.
    In,
    /// What it writes.
    Out,
    /// What it says beside it.
    Err,
}

/// Attaches a stream to a program that was asked for on another stream of the same session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnStdio {
    /// The stream of the `spawn` request, by its number.
    pub spawn: u64,
    /// Which of its streams this is.
    pub which: Stdio,
}

/// The program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Spawned {
    /// Its number at the lender.
    #[n(0)]
    pub pid: u32,
}

/// What the borrower says to a running program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToProgram {
    /// A signal for its process group, by Linux's number.
    Signal(u8),
    /// Its terminal is of another size.
    Resize(TerminalSize),
    /// It may outlive its stream.
    Detach,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromProgram {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal, by Linux's number.
    Signalled(u8),
}

impl Program {
    /// What the policy calls it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Shell => "shell",
        }
    }
}

impl Stdio {
    /// All three, in the order of their descriptors.
    pub const ALL: [Self; 3] = [Self::In, Self::Out, Self::Err];
}

impl Spawn {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let body: SpawnBody = message::decode("request", bytes)?;
        let what = match body.kind.as_str() {
            "exec" => Program::Exec,
            "shell" => Program::Shell,
            _ => return Err(malformed("the kind is exec or shell")),
        };
        if body.piped >= 8 {
            return Err(malformed("a program has the streams 0, 1 and 2"));
        }
        Ok(Self {
            what,
            arguments: body.arguments,
            variables: body.variables,
            words_bytes: body.words_bytes,
            folder: body.folder,
            terminal: body.terminal,
            piped: [1, 2, 4].map(|bit| body.piped & bit != 0),
            detach: body.detach,
            offered: body.offered.into_iter().map(Into::into).collect(),
        })
    }

    /// Whether a program can be so.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let plain = |variable: &Vec<u8>| variable.contains(&b'=') && !variable.contains(&0);
        let offered_bytes = self.offered.iter().map(Vec::len).sum::<usize>();
        for (fits, needed) in [
            (
                self.arguments.saturating_add(self.variables) <= WORDS_MAX && self.words_bytes <= WORDS_BYTES_MAX,
                "a program has at most 65,536 arguments and variables, of 2 MiB together",
            ),
            (
                (self.arguments > 0) == (self.what == Program::Exec),
                "a program has a name, and a login shell no arguments",
            ),
            (
                self.folder.as_ref().is_none_or(|folder| folder.len() <= FOLDER_BYTES_MAX),
                "a working directory has at most 4,095 bytes",
            ),
            (
                self.terminal.as_ref().is_none_or(Terminal::fits),
                "a terminal is called by at most 64 of the letters a-z A-Z 0-9 - _ . + and has at most 128 modes",
            ),
            (
                self.offered.len() <= OFFERED_MAX
                    && offered_bytes <= OFFERED_BYTES_MAX
                    && self.offered.iter().all(plain),
                "at most 32 variables of 4,096 bytes together can be left out, each NAME=value",
            ),
        ] {
            if !fits {
                return Err(needed);
            }
        }
        Ok(())
    }

    pub(super) fn encode_body<W: encode::Write>(&self, e: &mut Encoder<W>) -> Result<(), encode::Error<W::Error>> {
        e.u8(1)?.str(self.what.kind())?.u8(2)?.u32(self.arguments)?.u8(3)?.u32(self.variables)?;
        e.u8(4)?.u32(self.words_bytes)?;
        if let Some(folder) = &self.folder {
            e.u8(5)?.bytes(folder)?;
        }
        if let Some(terminal) = &self.terminal {
            e.u8(6)?.encode(terminal)?;
        }
        let piped = self.piped.iter().rev().fold(0, |bits, piped| bits * 2 + u8::from(*piped));
        e.u8(7)?.u8(piped)?.u8(8)?.bool(self.detach)?;
        if !self.offered.is_empty() {
            e.u8(9)?.array(self.offered.len() as u64)?;
            for variable in &self.offered {
                e.bytes(variable)?;
            }
        }
        Ok(())
    }

    /// Entries of its map, without the name.
    pub(super) fn entries(&self) -> u64 {
        let left_out = [self.folder.is_none(), self.terminal.is_none(), self.offered.is_empty()];
        9 - left_out.into_iter().map(u64::from).sum::<u64>()
    }

    /// Takes the words apart that followed the request: the arguments, then the variables.
    ///
    /// # Errors
    /// If they are not as many as the request says.
    pub fn split_words(&self, words: &[u8]) -> Result<(Words, Words), ProtocolError> {
        let (first, second) = (self.arguments as usize, self.variables as usize);
        // Counted before they are taken apart: there may be millions of empty ones, each with a place in memory.
        let count = words.iter().filter(|byte| **byte == 0).count();
        if count != first + second || words.last().is_some_and(|last| *last != 0) {
            return Err(malformed("the words are not what the request says"));
        }
        let mut arguments: Vec<Vec<u8>> = words
            .split_inclusive(|byte| *byte == 0)
            .map(|word| word.strip_suffix(&[0]).unwrap_or(word).to_vec())
            .collect();
        let variables = arguments.split_off(first);
        Ok((arguments, variables))
    }
}

impl Terminal {
    fn fits(&self) -> bool {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.+".contains(&c);
        self.term.len() <= TERM_BYTES_MAX && self.term.bytes().all(plain) && self.modes.len() <= MODES_MAX
    }
}

impl SpawnStdio {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let StdioBody { spawn, which } = message::decode("request", bytes)?;
        let which = Stdio::ALL.get(usize::from(which)).copied();
        which.map(|which| Self { spawn, which }).ok_or_else(|| malformed("a program has the streams 0, 1 and 2"))
    }

    pub(super) fn encode_body<W: encode::Write>(self, e: &mut Encoder<W>) -> Result<(), encode::Error<W::Error>> {
        e.u8(1)?.u64(self.spawn)?.u8(2)?.u8(self.which as u8)?.ok()
    }
}

impl<C> Encode<C> for ToProgram {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.map(1)?;
        match self {
            Self::Signal(signal) => e.u8(0)?.u8(*signal)?.ok(),
            Self::Resize(size) => e.u8(1)?.encode(size)?.ok(),
            Self::Detach => e.u8(2)?.bool(true)?.ok(),
        }
    }
}

impl<'b> Decode<'b, ()> for ToProgram {
    fn decode(d: &mut Decoder<'b>, _: &mut ()) -> Result<Self, decode::Error> {
        message::decode_one_of(d, |d, key| {
            Ok(match key {
                0 => Some(Self::Signal(d.u8()?)),
                1 => Some(Self::Resize(d.decode()?)),
                2 => Some(d.bool().map(|_| Self::Detach)?),
                _ => None,
            })
        })
    }
}

impl<C> Encode<C> for FromProgram {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        match self {
            Self::Exited(status) => e.map(1)?.u8(0)?.u8(*status)?.ok(),
            Self::Signalled(signal) => e.map(1)?.u8(1)?.u8(*signal)?.ok(),
        }
    }
}

impl<'b> Decode<'b, ()> for FromProgram {
    fn decode(d: &mut Decoder<'b>, _: &mut ()) -> Result<Self, decode::Error> {
        message::decode_one_of(d, |d, key| {
            Ok(match key {
                0 => Some(Self::Exited(d.u8()?)),
                1 => Some(Self::Signalled(d.u8()?)),
                _ => None,
            })
        })
    }
}

#[derive(Decode)]
#[cbor(map)]
struct SpawnBody {
    #[n(1)]
    kind: String,
    #[n(2)]
    arguments: u32,
    #[n(3)]
    variables: u32,
    #[n(4)]
    words_bytes: u32,
    #[cbor(n(5), with = "minicbor::bytes")]
    folder: Option<Vec<u8>>,
    #[n(6)]
    terminal: Option<Terminal>,
    #[n(7)]
    piped: u8,
    #[n(8)]
    detach: bool,
    #[n(9)]
    #[cbor(default)]
    offered: Vec<ByteVec>,
}

#[derive(Decode)]
#[cbor(map)]
struct StdioBody {
    #[n(1)]
    spawn: u64,
    #[n(2)]
    which: u8,
}

fn malformed(why: &str) -> ProtocolError {
    ProtocolError::Malformed { what: "request", why: why.to_owned() }
}

#[cfg(test)]
mod tests;
