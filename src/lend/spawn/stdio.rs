//! A program's streams: brought together as the borrower opens them, and joined with the program's own.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{Interest, copy, sink},
    net::unix::pipe::{Receiver, Sender},
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot},
    time::timeout,
};

use super::{REQUEST_MAX, places::PROGRAMS_MAX};
use crate::{
    proto::{Errno, Reset, Spawn, SpawnStdio, Stdio, StreamId, WORDS_BYTES_MAX},
    session::{Meter, PipeWriter, Stalled, Stream, pipe_to_stream, stream_to_pipe},
};

/// What a terminal reads as the end of its input, where the program has not changed it: once for a line that was begun,
/// once for the end.
const END_OF_INPUT: [u8; 2] = [4, 4];

/// A program that is ended has been killed by then (`worker/supervisor`).
const LAST_WORDS_MAX: Duration = Duration::from_secs(6);

/// Words of programs that a session may have here before each has been judged and has its place, in bytes: four of the longest
/// requests. They are here before anybody has said that there may be a program at all.
const WORDS_BYTES_AT_ONCE: usize = 4 * WORDS_BYTES_MAX as usize;

/// The programs of a session: how many, and the streams that wait for theirs.
pub(in crate::lend) struct Programs {
    waiting: Mutex<HashMap<(u64, Stdio), Waiting>>,
    arrived: Notify,
    places: Arc<Semaphore>,
    /// A place for each byte of the words.
    words: Semaphore,
}

/// Asks the task that keeps a stream for it.
type Waiting = oneshot::Sender<oneshot::Sender<Stream>>;

impl Default for Programs {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            places: Arc::new(Semaphore::new(PROGRAMS_MAX)),
            words: Semaphore::new(WORDS_BYTES_AT_ONCE),
        }
    }
}

impl Programs {
    /// A place for one more program.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Waits for room for the words of a request.
    pub(super) async fn room_for_words(&self, wanted: &Spawn) -> Option<SemaphorePermit<'_>> {
        // Never closed.
        self.words.acquire_many(wanted.words_bytes).await.ok()
    }

    /// Gives streams back that came for this request and were not taken, when it is dropped.
    pub(super) fn expect(&self, spawn: StreamId) -> Expected<'_> {
        Expected { programs: self, spawn }
    }

    /// Keeps a stream until its program takes it, the borrower does not want it any more, or it has waited for too long.
    pub(super) async fn offer(&self, stdio: SpawnStdio, stream: Stream) {
        let key = (stdio.spawn, stdio.which);
        let (waiting, asked) = oneshot::channel();
        // One that is there twice takes the place of the first, which is given back.
        drop(self.lock().insert(key, waiting));
        self.arrived.notify_waiters();
        let taker = tokio::select! {
            taker = timeout(REQUEST_MAX, asked) => taker.ok().and_then(Result::ok),
            _ = stream.write_closed() => None,
        };
        let left = match taker {
            Some(taker) => taker.send(stream).err(),
            None => Some(stream),
        };
        if let Some(stream) = left {
            stream.reset(Reset::Refused);
        }
        let mut waiting = self.lock();
        // Another may have come in its place.
        if waiting.get(&key).is_some_and(Waiting::is_closed) {
            waiting.remove(&key);
        }
    }

    /// The streams that a program is to have, once all are there.
    pub(super) async fn streams(&self, spawn: StreamId, wanted: &Spawn) -> [Option<Stream>; 3] {
        let mut streams = [None, None, None];
        for ((which, piped), place) in Stdio::ALL.into_iter().zip(wanted.piped).zip(&mut streams) {
            if piped {
                *place = Some(self.stream((spawn.number(), which)).await);
            }
        }
        streams
    }

    async fn stream(&self, key: (u64, Stdio)) -> Stream {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            // Before the look, so that none that comes behind it is missed.
            arrived.as_mut().enable();
            let waiting = self.lock().remove(&key);
            if let Some(waiting) = waiting {
                let (taker, taken) = oneshot::channel();
                // Whoever has given it up meanwhile does not answer.
                if waiting.send(taker).is_ok()
                    && let Ok(stream) = taken.await
                {
                    return stream;
                }
            }
            arrived.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, Stdio), Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request whose streams may wait.
pub(super) struct Expected<'a> {
    programs: &'a Programs,
    spawn: StreamId,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let mut waiting = self.programs.lock();
        for which in Stdio::ALL {
            waiting.remove(&(self.spawn.number(), which));
        }
    }
}

/// A program's streams at both sides.
pub(super) struct Ends {
    pub(super) input: Option<Input>,
    pub(super) outputs: Vec<Output>,
    /// The terminal, if it has one.
    pub(super) terminal: Option<OwnedFd>,
}

/// What a program reads. Dropped before its end it stays open for as long as the program may take to end: what broke off must not
/// look like something whole to whoever would then put it in the place of what there was.
pub(super) struct Input {
    stream: Stream,
    /// `None` once it has ended in good order.
    pipe: Option<PipeWriter>,
}

/// What a program writes.
pub(super) struct Output {
    stream: Stream,
    pipe: Mouth,
    stalled: Arc<Stalled>,
}

impl Ends {
    /// Joins the borrower's streams with the lender's ends.
    pub(super) fn join(streams: [Option<Stream>; 3], ends: Vec<OwnedFd>, is_terminal: bool) -> io::Result<Self> {
        let [stdin, stdout, stderr] = streams;
        let mut ends = ends.into_iter();
        let mut next = || ends.next().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData));
        let mut this = Self { input: None, outputs: Vec::new(), terminal: None };
        if is_terminal {
            let master = next()?;
            rustix::io::ioctl_fionbio(&master, true)?;
            let writer = PipeWriter::Terminal(master.try_clone()?);
            let receiver = Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
            this.input = stdin.map(|stream| Input::new(stream, writer));
            this.outputs.extend(stdout.map(|stream| Output::new(stream, Mouth::of_terminal(receiver))));
            this.terminal = Some(master);
            return Ok(this);
        }
        if let Some(stream) = stdin {
            this.input = Some(Input::new(stream, PipeWriter::Pipe(Sender::from_owned_fd(next()?)?)));
        }
        for stream in [stdout, stderr].into_iter().flatten() {
            this.outputs.push(Output::new(stream, Mouth::of_pipe(Receiver::from_owned_fd(next()?)?)));
        }
        Ok(this)
    }
}

impl Input {
    fn new(stream: Stream, pipe: PipeWriter) -> Self {
        // Nothing is said to the borrower on it.
        stream.finish();
        Self { stream, pipe: Some(pipe) }
    }

    /// Feeds the program until its input ends or it reads no more, which the borrower's writes then say.
    pub(super) async fn copy(mut self, meter: &Meter) {
        let Some(pipe) = &mut self.pipe else { return };
        match stream_to_pipe(&self.stream, pipe, meter).await {
            // A terminal stays open for what the program has to say.
            Ok(()) if matches!(pipe, PipeWriter::Terminal(_)) => {
                drop(pipe.write_all(&mut END_OF_INPUT.as_slice()).await)
            }
            Ok(()) => self.pipe = None,
            Err(error) => self.stream.reset(reset_of(&error)),
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let (Some(PipeWriter::Pipe(pipe)), Ok(runtime)) = (self.pipe.take(), Handle::try_current()) {
            // An error there is that nobody reads it any more.
            runtime.spawn(async move { timeout(LAST_WORDS_MAX, pipe.ready(Interest::ERROR)).await });
        }
    }
}

impl Output {
    fn new(stream: Stream, pipe: Mouth) -> Self {
        Self { stream, pipe, stalled: Arc::default() }
    }

    /// Passes on what the program says until it ends, or until nobody reads it, which the program's writes then say.
    async fn copy(mut self, meter: &Meter) {
        let Some(pipe) = &self.pipe.open else { return };
        let copied = pipe_to_stream(pipe, &self.stream, meter, &self.stalled).await;
        // With the session the program ends as well, in good order.
        if self.stream.over().is_none() {
            self.pipe.close();
        }
        if let Err(error) = copied {
            self.stream.reset(reset_of(&error));
        }
    }
}

/// Where a program is heard. Dropped before its end it goes on to be heard, by nobody, for as long as the program may take to end: whoever
/// cleans up and says so must not be ended by the first word.
struct Mouth {
    open: Option<Receiver>,
    is_pipe: bool,
}

impl Mouth {
    fn of_pipe(receiver: Receiver) -> Self {
        Self { open: Some(receiver), is_pipe: true }
    }

    /// One that is closed has hung up, which is what its program is to hear.
    fn of_terminal(receiver: Receiver) -> Self {
        Self { open: Some(receiver), is_pipe: false }
    }

    fn close(&mut self) {
        self.open = None;
    }
}

impl Drop for Mouth {
    fn drop(&mut self) {
        let pipe = self.open.take().filter(|_| self.is_pipe);
        // Places of programs bound how many there are: theirs are held until nothing of them is left.
        if let (Some(mut pipe), Ok(runtime)) = (pipe, Handle::try_current()) {
            runtime.spawn(async move { timeout(LAST_WORDS_MAX, copy(&mut pipe, &mut sink())).await });
        }
    }
}

/// Passes on what the program says on all of its outputs.
pub(super) async fn copy_all(outputs: Vec<Output>, meter: &Meter) {
    let mut outputs = outputs.into_iter();
    let copy = async |output: Option<Output>| {
        if let Some(output) = output {
            output.copy(meter).await;
        }
    };
    tokio::join!(copy(outputs.next()), copy(outputs.next()));
}

/// Which of them wait for the borrower.
pub(super) fn stalls(outputs: &[Output]) -> Vec<Arc<Stalled>> {
    outputs.iter().map(|output| output.stalled.clone()).collect()
}

/// Ready when the program has said nothing for so long although it could.
pub(super) async fn fall_silent(stalls: &[Arc<Stalled>], meter: &Meter, pause: Duration) {
    loop {
        let before = meter.to_stream();
        tokio::time::sleep(pause).await;
        if meter.to_stream() == before && !stalls.iter().any(|stalled| stalled.is_stalled()) {
            return;
        }
    }
}

fn reset_of(error: &io::Error) -> Reset {
    Errno::of(error).map_or(Reset::Cancelled, |errno| Reset::Failed(errno.0))
}
