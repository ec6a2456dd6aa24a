//! The outer half of `run`: logs in while the network is being made, serves it, and stands for the program towards whoever
//! started us.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, mpsc},
};

use super::{
    PASSED_ON, Run, RunError, SIGNALLED,
    control::{self, FromInner, ToInner},
    doors::{Doors, Way},
    listening::Publish,
    local::Local,
    tun,
    with_namespaces::WithNamespaces,
    without_namespaces::WithoutNamespaces,
};
use crate::{
    BorrowError, Borrower,
    borrow::share,
    sys::{self, ReceivedSignal},
};

/// How long the lender may take to confirm that it has everything that the program sent last.
const CONFIRMED_MAX: Duration = Duration::from_secs(5);

/// How a borrowed network is served.
pub struct Serve<R, O> {
    /// What stays on this machine.
    pub local: Vec<Local>,
    /// What of the program is met at the lender.
    pub publish: Publish,
    /// Hears of each connection, and each name, that the lender refuses.
    pub refused: R,
    /// Is called once if the network is not made in the first way.
    pub told: fn(Way),
    /// Is called once if the program is over, and what it left in the background is to end as well.
    pub left: fn(),
    /// Is called when the program is over, and what it has sent is with the lender or given up, with its exit status if that was
    /// heard: when it is done the session ends.
    pub over: O,
}

impl Run {
    /// Serves the program from its start to its end, and gives its exit status: its own, or 128 and the number of the
    /// signal that ended it. `log_in` is awaited while the network is being made.
    ///
    /// # Errors
    /// That of `log_in`, or why there is no program.
    pub async fn serve<E: From<RunError>>(
        self,
        log_in: impl Future<Output = Result<Borrower, E>>,
        serve: Serve<impl FnMut(BorrowError), impl AsyncFnOnce(Option<u8>)>,
    ) -> Result<u8, E> {
        let Self { control, program, lender_variables, local_unix, pipes: _, began } = self;
        let failed = |error: io::Error| RunError::local("cannot serve the program", error);
        let inner = Inner { control: sys::await_readable(control).map_err(failed)?, program, began };
        let signals = sys::signal_fd(&PASSED_ON).and_then(sys::await_readable).map_err(failed)?;
        let doors = async { inner.doors().await.map_err(E::from) };
        let meet = async {
            let borrower = log_in.await?;
            let variables: Vec<_> = lender_variables.iter().map(String::as_str).collect();
            let machine = borrower.profile(&variables).await.map_err(RunError::from)?;
            Ok::<_, E>((borrower, machine))
        };
        let (doors, (borrower, machine)) = tokio::select! {
            both = async { tokio::try_join!(doors, meet) } => both?,
            number = interrupted(&signals) => return Err(RunError::Interrupted(number).into()),
        };
        let Serve { local, publish, refused, told, left, over } = serve;
        let Some(doors) = doors else {
            let served = WithoutNamespaces::serve(borrower.clone(), &machine, local, &local_unix)?;
            inner.say(&ToInner::Begin(machine))?;
            return Ok(attend(&inner, &signals, (served, borrower), (refused, left, over)).await?);
        };
        let way = doors.way();
        let machine = match way {
            Way::Nftables => machine,
            Way::Tun => {
                if let Some(local) = local.iter().find(|local| tun::is_out_of_reach(local.address())) {
                    return Err(RunError::OutOfReach(local.address()).into());
                }
                told(way);
                tun::within_reach(machine)
            }
        };
        let network = WithNamespaces::serve(doors, borrower.clone(), &machine, local, publish)?;
        inner.say(&ToInner::Begin(machine))?;
        Ok(attend(&inner, &signals, (network, borrower), (refused, left, over)).await?)
    }
}

/// From the start of the program to the end of everything that came of it.
async fn attend(
    inner: &Inner,
    signals: &AsyncFd<OwnedFd>,
    (mut network, borrower): (impl Served, Borrower),
    (mut refused, left, over): (impl FnMut(BorrowError), fn(), impl AsyncFnOnce(Option<u8>)),
) -> Result<u8, RunError> {
    let status = until_alone(inner, signals, (&mut network, &borrower), (&mut refused, left)).await?;
    // What has come so far was meant for the program; from here on there is nobody to pass it to.
    while sys::read_signal(signals.get_ref()).is_ok() {}
    // It may have been refused something and ended at once.
    while let Some(refusal) = network.untold() {
        refused(refusal);
    }
    let drain = async {
        let Drained { is_unconfirmed, mut untold } = network.drain().await;
        while let Ok(refusal) = untold.try_recv() {
            refused(refusal);
        }
        over(status).await;
        if is_unconfirmed {
            // With the session the lender delivers what had come. One that cannot say so has told its end already.
            let _ = tokio::time::timeout(CONFIRMED_MAX, borrower.clone().close()).await;
        }
        borrower.leave().await;
    };
    tokio::select! {
        () = drain => status.ok_or(RunError::Lost),
        number = interrupted(signals) => Ok(number),
    }
}

/// Until nothing of the program is left; gives its exit status, if it was heard.
async fn until_alone(
    inner: &Inner,
    signals: &AsyncFd<OwnedFd>,
    (network, borrower): (&mut impl Served, &Borrower),
    (refused, left): (&mut impl FnMut(BorrowError), fn()),
) -> Result<Option<u8>, RunError> {
    let mut status = None;
    loop {
        tokio::select! {
            heard = inner.hear() => match heard? {
                Some((FromInner::Ended(code), _)) => status = Some(code),
                Some((FromInner::Background, _)) => left(),
                // Whoever started us must see that we stopped; when we go on, so does the program.
                Some((FromInner::Stopped, _)) => {
                    let _ = kill_process(getpid(), Signal::STOP);
                    inner.say(&ToInner::Signal(Signal::CONT.as_raw()))?;
                }
                Some((FromInner::Failed(step, errno), _)) => return Err(inner.failed(step, errno)),
                Some((FromInner::Alone, _)) => return Ok(status),
                Some((FromInner::Confined(can_wait), fds)) => {
                    let calls = fds.into_iter().next().ok_or(RunError::Lost)?;
                    network.confined(calls, can_wait)?;
                }
                Some((FromInner::Sockets(is_ipv6), made)) => network.put_sockets(is_ipv6, made),
                Some((FromInner::Started, _)) => inner.began.notify_one(),
                Some((FromInner::Ready(..) | FromInner::NoNetwork, _)) => {}
                None => {
                    // The program died with inner; what it started came to us. So would a session in the background that we
                    // began, and which others share.
                    let sharing = share::keeper(borrower.shared().access()).await.and_then(Pid::from_raw);
                    sys::signal_descendants(getpid(), sharing.as_slice(), Signal::KILL);
                    return Err(RunError::Lost);
                }
            },
            signal = next_signal(signals) => match signal {
                // It has got it too.
                Ok(ReceivedSignal { from_terminal: true, .. }) => {}
                Ok(ReceivedSignal { number, .. }) => inner.say(&ToInner::Signal(number))?,
                Err(error) => return Err(RunError::local("cannot read signals", error)),
            },
            asked = network.next() => match asked? {
                Asked::Sockets(is_ipv6) => inner.say(&ToInner::Sockets(is_ipv6))?,
                Asked::Tell(refusal) => refused(refusal),
            },
        }
    }
}

/// What serves a program while it runs.
pub trait Served {
    /// The program is about to begin; its calls come on `calls`, and can wait for long, or not.
    ///
    /// # Errors
    /// They cannot be served.
    fn confined(&mut self, calls: OwnedFd, can_wait: bool) -> Result<(), RunError>;

    /// Takes the sockets that were asked for.
    fn put_sockets(&mut self, is_ipv6: bool, made: Vec<OwnedFd>);

    /// What is to be done next by who attends; works meanwhile.
    ///
    /// # Errors
    /// The program cannot be served any more.
    ///
    /// # Cancellation
    /// Nothing is lost.
    async fn next(&mut self) -> Result<Asked, RunError>;

    /// A refusal that nobody was told of yet.
    fn untold(&mut self) -> Option<BorrowError>;

    /// Delivers what a program that is over has sent.
    async fn drain(self) -> Drained;
}

/// What is left to do when nothing of a program is served any more.
pub struct Drained {
    /// Some of what it sent may be on its way still, and only the end of the session can tell.
    pub is_unconfirmed: bool,
    /// What was refused meanwhile.
    pub untold: mpsc::Receiver<BorrowError>,
}

/// What is to be done for a network.
pub enum Asked {
    /// More sockets are needed; of IPv6, or of IPv4.
    Sockets(bool),
    /// Somebody is to hear of a refusal.
    Tell(BorrowError),
}

/// The inner half, as this one sees it.
struct Inner {
    control: AsyncFd<OwnedFd>,
    program: String,
    began: Arc<Notify>,
}

impl Inner {
    /// Its sockets, once they are open; `None` of a program that has no network of its own.
    async fn doors(&self) -> Result<Option<Doors>, RunError> {
        match self.hear().await? {
            Some((FromInner::NoNetwork, _)) => Ok(None),
            Some((FromInner::Ready(way, has_ipv6), fds)) => {
                Doors::from_fds(way, has_ipv6, fds).map(Some).ok_or(RunError::Lost)
            }
            Some((FromInner::Failed(step, errno), _)) => Err(self.failed(step, errno)),
            _ => Err(RunError::Lost),
        }
    }

    /// The next message; `None` when inner is gone. Dropping the future loses nothing.
    async fn hear(&self) -> Result<Option<(FromInner, Vec<OwnedFd>)>, RunError> {
        let failed = |error: io::Error| RunError::local("cannot read from the inner half", error);
        loop {
            let mut ready = self.control.readable().await.map_err(failed)?;
            match ready.try_io(|control| control::receive(control.as_fd(), false)) {
                // It went without reading what we said last; what it said before is still there.
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Ok(heard) => return heard.map_err(failed),
                Err(_) => {}
            }
        }
    }

    fn say(&self, message: &ToInner) -> Result<(), RunError> {
        match control::send(self.control.as_fd(), message, &[]) {
            // It is gone, or about to go: what it said last is still to be read.
            Err(error) if [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset].contains(&error.kind()) => Ok(()),
            said => said.map_err(|error| RunError::local("cannot write to the inner half", error)),
        }
    }

    fn failed(&self, step: control::Step, errno: i32) -> RunError {
        RunError::of_step(step, errno, &self.program)
    }
}

/// Ready with the number of a signal that ends us; one that stops us does so here.
async fn interrupted(signals: &AsyncFd<OwnedFd>) -> u8 {
    loop {
        match next_signal(signals).await {
            Ok(ReceivedSignal { number, .. }) if number == Signal::TSTP.as_raw() => {
                let _ = kill_process(getpid(), Signal::STOP);
            }
            Ok(ReceivedSignal { number, .. }) if number == Signal::WINCH.as_raw() => {}
            Ok(ReceivedSignal { number, .. }) => return SIGNALLED + number as u8,
            Err(_) => return SIGNALLED + Signal::TERM.as_raw() as u8,
        }
    }
}

async fn next_signal(signals: &AsyncFd<OwnedFd>) -> io::Result<ReceivedSignal> {
    sys::read_when_ready(signals, sys::read_signal).await
}
