//! A program's stdin and stdout that are the two directions of a service.
//!
//! ```text
//!   who offers it ══ lender ══▶ ServiceFeed ──pipe──▶ stdin   the program
//!                 ◀══════════                ◀─pipe── stdout
//! ```
//! Each direction ends by itself. A program that reads no more leaves the rest where it is; what it writes still goes out. A
//! pipe cannot say that a service broke off, so whoever has started us says it.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    net::unix::pipe::{Receiver, Sender},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};

use crate::{
    ServiceStream,
    session::{Meter, PipeWriter, Stalled, Stream, Unended, pipe_to_stream, stream_to_pipe},
};

/// What a program that is over has said is delivered for as long as bytes move; after such a pause nobody takes them.
const STALLED: Duration = Duration::from_secs(5);

/// Our ends of a program's stdin and stdout.
pub struct ProgramPipes {
    stdin: OwnedFd,
    stdout: OwnedFd,
    began: Arc<Notify>,
}

/// Our ends, and the program's: its stdin and its stdout.
pub(super) fn pipes() -> io::Result<(ProgramPipes, [OwnedFd; 2])> {
    let (their_stdin, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((ProgramPipes { stdin, stdout, began: Arc::default() }, [their_stdin, their_stdout]))
}

impl ProgramPipes {
    /// To be told once the program has begun: the end of what one says that never did is no end in good order.
    pub(super) fn began(&self) -> Arc<Notify> {
        self.began.clone()
    }

    /// Joins them with a service.
    ///
    /// # Errors
    /// What the system says of the pipes.
    pub fn join(self, service: ServiceStream) -> io::Result<ServiceFeed> {
        self.join_stream(service.into_stream())
    }

    fn join_stream(self, stream: Stream) -> io::Result<ServiceFeed> {
        let mut stdin = PipeWriter::Pipe(Sender::from_owned_fd(self.stdin)?);
        let stdout = Receiver::from_owned_fd(self.stdout)?;
        let (stream, meter) = (Arc::new(stream), Arc::new(Meter::default()));
        let (mut input, mut output) = (JoinSet::new(), JoinSet::new());
        let broke_off = Arc::<Mutex<Option<io::Error>>>::default();
        let (from, counts, note) = (stream.clone(), meter.clone(), broke_off.clone());
        input.spawn(async move {
            let ended = stream_to_pipe(&from, &mut stdin, &counts).await;
            // If the program reads no more, that is its own affair.
            let why = ended.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
            // Noted before the program sees the end: it may be over before this task is.
            *note.lock().unwrap_or_else(PoisonError::into_inner) = why;
            drop(stdin);
        });
        let stalled = Arc::<Stalled>::default();
        let (to, counts, stalls) = (stream.clone(), meter.clone(), stalled.clone());
        output.spawn(async move {
            self.began.notified().await;
            // A service that hears no more is a closed pipe to the program.
            let _ = pipe_to_stream(&stdout, &to, &counts, &stalls).await;
        });
        Ok(ServiceFeed { unended: Unended::of(&stream), input, output, broke_off, stream, meter, stalled })
    }
}

/// Moves the bytes, until it is dropped: before its program has begun, or ended, the service breaks off then, so that who offers
/// it does not take what was sent for read.
pub struct ServiceFeed {
    /// The first that is dropped.
    unended: Unended,
    input: JoinSet<()>,
    output: JoinSet<()>,
    broke_off: Arc<Mutex<Option<io::Error>>>,
    stream: Arc<Stream>,
    meter: Arc<Meter>,
    stalled: Arc<Stalled>,
}

impl ServiceFeed {
    /// After the program's end: delivers what it has said, as long as somebody takes it, and ends the connection.
    ///
    /// # Errors
    /// The service broke off while the program read, so that not everything came, or takes nothing of what is left: who offers it
    /// sees that it breaks off, too.
    ///
    /// # Cancellation
    /// As dropping it, as long as some of what the program has said is not on its way.
    pub async fn drain(mut self) -> io::Result<()> {
        loop {
            let before = self.meter.to_stream();
            match timeout(STALLED, self.output.join_next()).await {
                Ok(_) => break,
                Err(_) if self.meter.to_stream() > before => {}
                // Somebody outside keeps it open, and all of it is with the service.
                Err(_) if !self.stalled.is_stalled() => break,
                Err(_) => {
                    let why = format!("the service took nothing of the program's output for {} s", STALLED.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
            }
        }
        let Self { unended, mut input, mut output, broke_off, stream, .. } = self;
        unended.has_ended();
        output.shutdown().await;
        let broke_off = broke_off.lock().unwrap_or_else(PoisonError::into_inner).take();
        input.shutdown().await;
        if let Some(stream) = Arc::into_inner(stream) {
            // What is not confirmed by then is on its way; dropping delivers it, too.
            let _ = timeout(STALLED, stream.close()).await;
        }
        let told = |why: io::Error| io::Error::new(why.kind(), format!("the service broke off before its end: {why}"));
        broke_off.map_or(Ok(()), |why| Err(told(why)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::pipe::fcntl_setpipe_size;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::session::{Session, both_ends_of_a_stream};

    /// More than a stream has room for, and as much as fits into one pipe.
    const SAID_BYTES: usize = 512 * 1024;

    /// What a program has said that is over, and what feeds it to the service, whose end is the second.
    async fn said() -> (ServiceFeed, Stream, [Session; 2]) {
        let [(borrower, stream), (lender, service)] = both_ends_of_a_stream().await;
        let (pipes, [_their_stdin, their_stdout]) = pipes().unwrap();
        fcntl_setpipe_size(&their_stdout, SAID_BYTES).unwrap();
        std::fs::File::from(their_stdout).write_all(&vec![7; SAID_BYTES]).unwrap();
        pipes.began().notify_one();
        (pipes.join_stream(stream).unwrap(), service, [borrower, lender])
    }

    #[tokio::test(start_paused = true)]
    async fn last_words_that_nobody_takes_are_told_to_both_sides() {
        let (feed, mut service, _sessions) = said().await;
        let error = feed.drain().await.unwrap_err();
        assert_eq!(error.to_string(), "the service took nothing of the program's output for 5 s");
        // It may go on, and must not take what came for all of it.
        service.read_to_end(&mut Vec::new()).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_for_last_words_breaks_off() {
        let (feed, mut service, _sessions) = said().await;
        timeout(STALLED / 2, feed.drain()).await.unwrap_err();
        service.read_to_end(&mut Vec::new()).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn last_words_that_are_taken_arrive() {
        let (feed, mut service, _sessions) = said().await;
        let mut heard = Vec::new();
        let (drained, read) = tokio::join!(feed.drain(), service.read_to_end(&mut heard));
        assert_eq!(read.unwrap(), SAID_BYTES);
        drained.unwrap();
    }

    /// As one that was handed to a process which was there before.
    #[tokio::test(start_paused = true)]
    async fn a_stdout_that_somebody_else_keeps_open_is_over_when_all_is_said() {
        let [(_borrower, stream), (_lender, mut service)] = both_ends_of_a_stream().await;
        let (pipes, [_their_stdin, their_stdout]) = pipes().unwrap();
        rustix::io::write(&their_stdout, b"all").unwrap();
        pipes.began().notify_one();
        let feed = pipes.join_stream(stream).unwrap();
        let mut heard = String::new();
        let (drained, read) = tokio::join!(feed.drain(), service.read_to_string(&mut heard));
        assert!(drained.is_ok() && read.is_ok_and(|length| length == 3), "{heard}");
    }
}
