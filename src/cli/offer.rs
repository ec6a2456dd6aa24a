//! `capuchin offer`: our stdin and stdout as a service at the lender, for one borrower after the other.

use std::{io, sync::Arc};

use bytes::Bytes;
use rustix::stdio::stdout;

use super::{
    exec::streams::{Input, Output, write_out},
    host::HostArgument,
    presence::Presence,
    report::{Failure, escape, of_stdin, of_stdout, warn},
    runtime::no_threads,
    signals,
};
use crate::{
    ServiceListener, ServiceStream,
    proto::{ErrorKind, Reset},
    session::{Stream, Unended},
    sys,
};

/// Offer our stdin and stdout to other borrowers of a lender, as a service with a name
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  tar c . | capuchin offer lab backup stdio --once   and on another machine:
  capuchin run lab --stdio service:backup -- tar x
  capuchin offer lab console stdio <>/dev/ttyS0 >&0  a serial line, for one

Who connects reads what comes in at our stdin, and writes what goes to our stdout. One more meanwhile is refused as \
busy. The next may come when one has gone: what was read of stdin and not sent by then is lost. Once somebody has \
come, it ends with stdin, when he has ended too; else with --once, or with the session. A program that ends before \
it has read everything has taken what it wanted, as in `tar c . | ssh HOST PROGRAM`, and how it ended is not told \
here. The policy says who may: `services = { offer = [...], use = [...] }`.")]
pub struct Arguments {
    #[command(flatten)]
    host: HostArgument,
    /// The service's name: letters, digits, _ . and -
    name: String,
    /// What is offered: stdio, which is our stdin and stdout
    #[arg(value_parser = ["stdio"])]
    provider: String,
    /// End with the first borrower, whose end of input closes our stdout
    #[arg(long)]
    once: bool,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { host, name, provider: _, once } = arguments;
    let borrower = host.connect_or_share().await?;
    let offer = borrower.offer(&name, Some(1)).await?;
    warn(&format!("Offering service {name} at {}", escape(borrower.host())));
    let _presence = Presence::announce(&borrower, "offer", vec![format!("service:{name} stdio")]);
    let served = signals::interruptible(serve(offer, once)).await;
    borrower.leave().await;
    served
}

/// Serves one after the other, until stdin has ended.
async fn serve(offer: ServiceListener, once: bool) -> Result<(), Failure> {
    let mut stdin: Option<Stdin> = None;
    loop {
        let next = match &mut stdin {
            Some(stdin) => next_or_end(&offer, stdin).await?,
            // What nobody has asked for yet stays where it is.
            None => Some(offer.accept().await?),
        };
        let Some(next) = next else { return Ok(offer.close().await?) };
        let stream = Arc::new(next.into_stream());
        let unended = Unended::of(&stream);
        let stdin = match &mut stdin {
            Some(stdin) => stdin,
            none => none.insert(Stdin::open()?),
        };
        let down = async {
            let failed = |error: io::Error| of_stdout(&error);
            let whole = write_out(stream.clone(), Output::open(stdout())).await.map_err(failed)?;
            if once {
                sys::close_stdout().map_err(failed)?;
            }
            Ok(whole)
        };
        let (has_ended, whole) = tokio::try_join!(up(stdin, &stream), down)?;
        unended.has_ended();
        if once || has_ended {
            // What was written is there; with the session gone it may not be.
            let closed = match Arc::into_inner(stream) {
                Some(stream) => stream.close().await,
                None => Ok(()),
            };
            offer.close().await?;
            // Who reads our stdout takes its end for the end of everything.
            let broken = whole.and(if has_ended { closed } else { Ok(()) });
            return broken.map_err(|error| {
                let text = format!("who was connected has gone before the end: {error}");
                Failure::new(ErrorKind::Target, text)
            });
        }
        tracing::debug!("who was connected has gone: the next may come");
    }
}

/// Our stdin, with what was read of it while nobody was there.
struct Stdin {
    input: Input,
    held: Option<io::Result<Bytes>>,
}

impl Stdin {
    fn open() -> Result<Self, Failure> {
        let input = Input::open().map_err(|error| no_threads(&error.to_string()))?;
        Ok(Self { input, held: None })
    }

    async fn read(&mut self) -> Option<io::Result<Bytes>> {
        match self.held.take() {
            Some(bytes) => Some(bytes),
            None => self.input.read().await,
        }
    }
}

/// Who comes next, or `None` if stdin ends before: then there is nothing to come for. What comes in there meanwhile is the next one's.
async fn next_or_end(offer: &ServiceListener, stdin: &mut Stdin) -> Result<Option<ServiceStream>, Failure> {
    let mut next = std::pin::pin!(offer.accept());
    loop {
        tokio::select! {
            biased;
            next = &mut next => return Ok(Some(next?)),
            bytes = stdin.input.read(), if stdin.held.is_none() => match bytes {
                None => return Ok(None),
                Some(Err(error)) => return Err(of_stdin(&error)),
                held => stdin.held = held,
            },
        }
    }
}

/// Sends what comes in at stdin; `true` at its end, `false` if nobody takes it any more.
///
/// # Errors
/// It fails before its end, and who is connected is told so.
async fn up(stdin: &mut Stdin, stream: &Stream) -> Result<bool, Failure> {
    loop {
        tokio::select! {
            biased;
            _ = stream.write_closed() => return Ok(false),
            bytes = stdin.read() => match bytes {
                Some(Ok(bytes)) => {
                    if stream.write_all_bytes(bytes).await.is_err() {
                        return Ok(false);
                    }
                }
                Some(Err(error)) => {
                    stream.reset(Reset::Cancelled);
                    return Err(of_stdin(&error));
                }
                None => {
                    stream.finish();
                    return Ok(true);
                }
            },
        }
    }
}
