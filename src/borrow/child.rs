//! A program that runs at the lender: its streams, its end, and what can be said to it.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Output},
    sync::{Arc, Weak},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::Mutex,
};

use super::{
    BorrowError, Borrower,
    byte_stream::{read_by, write_by},
};
use crate::{
    proto::{FromProgram, Reset, TerminalSize, ToProgram, message, mux::Batch},
    session::Stream,
};

/// Read at once from the stream that says how a program ended, in bytes: all of it.
const END_BYTES: usize = 64;
/// SIGKILL.
const KILL: u8 = 9;

/// A program that runs at the lender.
///
/// # Cancellation
/// Dropping it ends the program and everything that descends from it, also what called setsid: SIGHUP, after 5 s SIGKILL. One
/// that was started with [`Command::detach`](crate::Command::detach) lives on.
///
#[cfg_attr(feature = "lend", doc = "```standalone_crate")]
#[cfg_attr(not(feature = "lend"), doc = "```text")]
/// use capuchin::Stdio;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if capuchin::lend::serve_as_worker().is_some() { return Ok(()); }
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # let (profiles, _web, _folder) = lab().await?;
/// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
///
/// let mut sort = lab.command("sort").stdin(Stdio::Piped).stdout(Stdio::Piped).spawn().await?;
/// let mut stdin = sort.stdin.take().expect("it was piped");
/// stdin.write_all(b"b\na\n").await?;
/// drop(stdin);
/// let mut sorted = String::new();
/// sort.stdout.take().expect("it was piped").read_to_string(&mut sorted).await?;
/// assert_eq!(sorted, "a\nb\n");
/// assert!(sort.wait().await?.success());
/// # Ok(())
/// # })
/// # }
/// ```
pub struct Child {
    /// What it reads, if that was piped; dropping it is the end of its input.
    pub stdin: Option<ChildStdin>,
    /// What it writes, if that was piped.
    pub stdout: Option<ChildStdout>,
    /// What it says beside it, if that was piped.
    pub stderr: Option<ChildStderr>,
    borrower: Borrower,
    name: String,
    pid: u32,
    /// It was asked for as one that lives on without us.
    is_detached: bool,
    stream: Arc<Stream>,
    control: ChildControl,
    /// What came of how it ended.
    heard: BytesMut,
    status: Option<ExitStatus>,
}

/// Says something to a program while another task waits for its end. Clones are the same; it keeps nothing alive, and once the
/// [`Child`] is dropped it does nothing.
#[derive(Clone)]
pub struct ChildControl {
    stream: Weak<Stream>,
    /// What waits for credit of the message that was said last: it must be whole before another begins, also where whoever said
    /// it does not wait.
    rest: Arc<Mutex<Bytes>>,
}

impl Child {
    pub(super) fn new(
        borrower: Borrower,
        name: String,
        (pid, is_detached): (u32, bool),
        stream: Stream,
        [stdin, stdout, stderr]: [Option<Stream>; 3],
    ) -> Self {
        for stream in stdout.iter().chain(&stderr) {
            // Nothing is ever said on it.
            stream.finish();
        }
        let stream = Arc::new(stream);
        let control = ChildControl { stream: Arc::downgrade(&stream), rest: Arc::default() };
        Self {
            stdin: stdin.map(ChildStdin),
            stdout: stdout.map(ChildStdout),
            stderr: stderr.map(ChildStderr),
            borrower,
            name,
            pid,
            is_detached,
            stream,
            control,
            heard: BytesMut::new(),
            status: None,
        }
    }

    /// Its process number at the lender; `None` once it has been waited for.
    pub fn id(&self) -> Option<u32> {
        self.status.is_none().then_some(self.pid)
    }

    /// A handle to signal and resize it by, from another task.
    pub fn control(&self) -> ChildControl {
        self.control.clone()
    }

    /// Waits for its end. Its stdin is closed first, if it is still here, so that it does not wait for us.
    ///
    /// # Errors
    /// The session ends, or the handle is taken back.
    ///
    /// # Cancellation
    /// Nothing is lost; wait again.
    pub async fn wait(&mut self) -> Result<ExitStatus, BorrowError> {
        self.stdin = None;
        self.ended().await
    }

    /// As [`Self::wait`], with stdin left as it is.
    ///
    /// # Errors
    /// As [`Self::wait`].
    ///
    /// # Cancellation
    /// As [`Self::wait`].
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus, BorrowError> {
        loop {
            if let Some(status) = self.status {
                return Ok(status);
            }
            let failed = |error| BorrowError::answer(self.borrower.host(), &self.name, error);
            if let Some(ended) = take_message(&mut self.heard).map_err(failed)? {
                self.status = Some(match ended {
                    FromProgram::Exited(status) => ExitStatus::from_raw(i32::from(status) << 8),
                    FromProgram::Signalled(number) => ExitStatus::from_raw(i32::from(number & 0x7f)),
                });
                continue;
            }
            let mut batch = Batch::default();
            match self.stream.read_batch(&mut batch, END_BYTES).await {
                Ok(true) => self.heard.extend_from_slice(&batch.copy_to_bytes(batch.remaining())),
                Ok(false) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Its output broke off before its end.
    #[cfg(feature = "cli")]
    pub(crate) fn output_broke_off(&self, why: io::Error) -> BorrowError {
        BorrowError::output(self.borrower.host(), why)
    }

    /// Ends it with SIGKILL, and waits for that.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub async fn kill(&mut self) -> Result<(), BorrowError> {
        self.control.signal(KILL).await?;
        self.wait().await.map(drop)
    }

    /// Waits for its end, with everything that it says on the streams that are still here.
    ///
    /// # Errors
    /// As [`Self::wait`].
    ///
    /// # Cancellation
    /// Dropping the future ends the program.
    pub async fn wait_with_output(mut self) -> Result<Output, BorrowError> {
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let host = self.borrower.host().to_owned();
        let read = async |stream: Option<&mut (dyn AsyncRead + Send + Unpin)>| {
            let mut bytes = Vec::new();
            match stream {
                Some(stream) => stream.read_to_end(&mut bytes).await.map(|_| bytes),
                None => Ok(bytes),
            }
        };
        let (mut stdout, mut stderr) = (stdout, stderr);
        let stdout = read(stdout.as_mut().map(|it| it as _));
        let stderr = read(stderr.as_mut().map(|it| it as _));
        let (status, stdout, stderr) = tokio::join!(self.wait(), stdout, stderr);
        let status = status?;
        let failed = |error| BorrowError::output(&host, error);
        Ok(Output { status, stdout: stdout.map_err(failed)?, stderr: stderr.map_err(failed)? })
    }

    /// Lets it live on without us; its piped streams end. It must have been started with
    /// [`Command::detach`](crate::Command::detach), since the policy is asked before it runs.
    ///
    /// # Errors
    /// It was not ([`BorrowError::Usage`]), and ends as if it were dropped; the session is over.
    ///
    /// # Cancellation
    /// Dropping the future ends it, unless the lender was told before.
    pub async fn detach(self) -> Result<(), BorrowError> {
        if !self.is_detached {
            let text = format!("{} was not started with Command::detach, and ends with its Child", self.name);
            return Err(BorrowError::usage(text));
        }
        self.control.say(&ToProgram::Detach).await
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // What was said before still arrives; the end behind it is what ends the program.
        self.stream.finish();
    }
}

impl ChildControl {
    /// Sends a signal to its process group, by Linux's number. After its end nothing happens.
    ///
    /// # Errors
    /// The session is over.
    ///
    /// # Cancellation
    /// It is sent whole or not at all, or with the next.
    pub async fn signal(&self, number: u8) -> Result<(), BorrowError> {
        self.say(&ToProgram::Signal(number)).await
    }

    /// Says how large its terminal is now.
    ///
    /// # Errors
    /// The session is over.
    ///
    /// # Cancellation
    /// As [`Self::signal`].
    pub async fn resize(&self, size: TerminalSize) -> Result<(), BorrowError> {
        self.say(&ToProgram::Resize(size)).await
    }

    async fn say(&self, message: &ToProgram) -> Result<(), BorrowError> {
        let Some(stream) = self.stream.upgrade() else { return Ok(()) };
        let mut rest = self.rest.lock().await;
        let said = async {
            stream.write_rest(&mut rest).await?;
            *rest = message::encode_prefixed(message);
            stream.write_rest(&mut rest).await
        };
        match said.await {
            // It has ended already.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            said => said.map_err(|error| BorrowError::answer("the lender", "a program", error)),
        }
    }
}

/// A whole message, if there is one.
fn take_message(heard: &mut BytesMut) -> io::Result<Option<FromProgram>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let Some(prefix) = heard.first_chunk::<{ message::LENGTH_BYTES }>() else { return Ok(None) };
    let length = message::decode_length("end of a program", *prefix).map_err(invalid)?;
    if heard.len() < message::LENGTH_BYTES + length {
        return Ok(None);
    }
    heard.advance(message::LENGTH_BYTES);
    message::decode("end of a program", &heard.split_to(length)).map(Some).map_err(invalid)
}

/// What a program reads. A write fails with `BrokenPipe` once it reads no more. Dropping it delivers what was written, and
/// then the end.
#[derive(Debug)]
pub struct ChildStdin(Stream);

/// What a program writes. Dropping it gives the program SIGPIPE at its next write.
#[derive(Debug)]
pub struct ChildStdout(Stream);

/// What a program says beside its output. Dropping it gives the program SIGPIPE at its next write there.
#[derive(Debug)]
pub struct ChildStderr(Stream);

/// One of a program's streams, for who passes its bytes on.
#[cfg(feature = "cli")]
pub(crate) trait ProgramStream: Send + 'static {
    fn stream(&self) -> &Stream;
}

#[cfg(feature = "cli")]
impl ProgramStream for Arc<Stream> {
    fn stream(&self) -> &Stream {
        self
    }
}

#[cfg(feature = "cli")]
impl ProgramStream for ChildStdin {
    fn stream(&self) -> &Stream {
        &self.0
    }
}

#[cfg(feature = "cli")]
impl ProgramStream for ChildStdout {
    fn stream(&self) -> &Stream {
        &self.0
    }
}

#[cfg(feature = "cli")]
impl ProgramStream for ChildStderr {
    fn stream(&self) -> &Stream {
        &self.0
    }
}

write_by!(ChildStdin, 0);
read_by!(ChildStdout, 0);
read_by!(ChildStderr, 0);

impl Drop for ChildStdout {
    fn drop(&mut self) {
        self.0.reset(Reset::Cancelled);
    }
}

impl Drop for ChildStderr {
    fn drop(&mut self) {
        self.0.reset(Reset::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::{proto::mux::Config, session::both_ends};

    #[tokio::test]
    async fn what_is_said_to_a_program_and_not_waited_for_is_sent_whole_before_the_next() {
        // Less than a message has.
        let config = Config { initial_credit: 8, peer_initial_credit: 8, ..Config::default() };
        let [borrower, lender] = both_ends(&config);
        let stream = Arc::new(borrower.open(Bytes::new()).unwrap());
        let program = lender.accept().await.unwrap();
        let control = ChildControl { stream: Arc::downgrade(&stream), rest: Arc::default() };
        let size = TerminalSize { columns: 132, rows: 43, width: 0, height: 0 };
        let mut saying = Box::pin(control.resize(size));
        assert!(poll_fn(|cx| std::task::Poll::Ready(saying.as_mut().poll(cx).is_pending())).await, "it has no credit");
        drop(saying);
        let hear = async || program.read_message::<ToProgram>("order to a program").await.unwrap();
        let both = async { tokio::join!(control.signal(15), async { [hear().await, hear().await] }) };
        let (said, heard) = tokio::time::timeout(std::time::Duration::from_secs(30), both).await.expect("two messages");
        said.unwrap();
        assert_eq!(heard, [ToProgram::Resize(size), ToProgram::Signal(15)]);
    }
}
