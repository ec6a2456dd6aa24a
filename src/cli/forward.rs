//! `capuchin forward`: ports and sockets of this machine whose connections the lender makes, and the other way round.
//!
//! All or nothing at the start: every target is asked for and every port bound before the first line is printed. A
//! target that is merely down may come up later, and does not end the command.

mod open;
mod spec;
mod stdio;

use std::{collections::HashSet, net::SocketAddr};

use tokio::{sync::mpsc, task::JoinSet};

use self::{open::Open, spec::Specs};
use super::{
    background::Background,
    connection, descriptors,
    host::HostArgument,
    presence::Presence,
    report::{Failure, escape, print, warn},
    signals::Stop,
};
use crate::{
    BorrowError, Borrower, Host, Profiles,
    proto::{ErrorKind, Target},
};

/// Failures of connections that wait to be printed; more at once are not new.
const FAILURES_MAX: usize = 64;

/// Make ports of the lender's network reachable here, and ports of ours there, until interrupted
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin forward lab -L 8080:intranet:80        its intranet at 127.0.0.1:8080
  capuchin forward lab -L 0:db.internal:5432      any free port; it is printed
  capuchin forward lab -L 8000-8010:a:8000-8010   a range of ports
  capuchin forward lab -L '*:8080:[fd00::1]:80'   for all machines around here
  capuchin forward lab -L /tmp/docker.sock:/run/docker.sock
  capuchin forward lab -L 5353:dns.internal:53/udp   datagrams, to its resolver
  capuchin forward lab -R 8080:localhost:3000     our port 3000 at its 8080
  capuchin forward lab -D 1080                    a SOCKS and HTTP proxy
  ssh -o ProxyCommand='capuchin forward lab -W %h:%p' host.internal

A lost connection is made again by itself, as long as the login lasts; local ports stay open meanwhile, and the \
lender's are opened again.

Without an option it opens the `forwards` that config.toml has for the host.

Exit status: 255 after a failure or when the lender takes the session or a port back, 129 when its terminal is \
closed (SIGHUP), 130 after Ctrl-C, 143 after SIGTERM.")]
pub struct Arguments {
    #[command(flatten)]
    host: HostArgument,
    #[command(flatten)]
    wanted: Wanted,
    /// Connect stdin and stdout to it, and nothing else: for ProxyCommand of ssh
    #[arg(short = 'W', long = "stdio", value_name = "HOST:PORT", conflicts_with_all = ["local", "remote", "dynamic", "background"])]
    stdio: Option<Target>,
    /// Go into the background once every forward is open; nothing is printed after that
    #[arg(short = 'f', long)]
    background: bool,
    /// Only forward; accepted for the habit of ssh, as nothing else is done anyway
    #[arg(short = 'N', long)]
    no_command: bool,
}

/// What is forwarded.
#[derive(clap::Args)]
struct Wanted {
    /// Listen here and connect there, as in ssh; the address is 127.0.0.1 if left out, and all if empty or *. Either side may
    /// be the path of a Unix socket, and ports may be ranges; a socket is for this user alone, and replaces one that nobody
    /// has any more. With /udp datagrams are sent there, and answered
    #[arg(short = 'L', long = "local", value_name = "[BIND:]PORT:HOST:HOSTPORT[/udp]", value_parser = spec::local)]
    local: Vec<Specs>,
    /// Listen there and connect here; the rest as for -L
    #[arg(short = 'R', long = "remote", value_name = "[BIND:]PORT:HOST:HOSTPORT[/udp]", value_parser = spec::remote)]
    remote: Vec<Specs>,
    /// Be a SOCKS (5, 4 and 4a) and HTTP proxy here, whose connections the lender makes
    #[arg(short = 'D', long = "dynamic", value_name = "[BIND:]PORT", value_parser = spec::dynamic)]
    dynamic: Vec<SocketAddr>,
}

impl Wanted {
    fn is_empty(&self) -> bool {
        self.local.is_empty() && self.remote.is_empty() && self.dynamic.is_empty()
    }
}

/// Runs the command on a runtime of its own, which is made after the process has been split for `-f`.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { host, wanted, stdio, background, no_command: _ } = arguments;
    // First of all: it closes what is open, whosever it is.
    let background = background.then(Background::split).transpose()?;
    let wanted = if wanted.is_empty() && stdio.is_none() { settled(&host)? } else { wanted };
    // Each port and each connection is a descriptor.
    descriptors::raise_limit();
    super::block_on(async move {
        let mut stop = Stop::listen()?;
        let borrower = stop.interrupts(host.connect_or_share()).await?;
        let ended = match stdio {
            Some(target) => stop.interrupts(stdio::run(&borrower, &target)).await,
            None => forward(&borrower, &wanted, background, stop).await,
        };
        borrower.leave().await;
        ended
    })
}

/// What config.toml says for a host that is named without any option.
fn settled(host: &HostArgument) -> Result<Wanted, Failure> {
    #[derive(clap::Parser)]
    struct Settled {
        #[command(flatten)]
        wanted: Wanted,
    }
    let host = host.text()?;
    // The lender of this machine has no settings.
    let settings = host.parse::<Host>().ok().map(|host| Profiles::from_env()?.settings(&host.alias)).transpose()?;
    let options = settings.map(|settings| settings.forwards).unwrap_or_default();
    let words = std::iter::once("forwards").chain(options.iter().flat_map(|option| option.split_whitespace()));
    let Settled { wanted } = clap::Parser::try_parse_from(words).map_err(|error| {
        let failure = super::usage(&error.to_string());
        Failure {
            kind: ErrorKind::Config,
            text: format!("forwards of {host} in config.toml: {}", failure.text),
            ..failure
        }
    })?;
    if wanted.is_empty() {
        let text = "there is nothing to forward: give -L, -R, -D or -W, or settle it in config.toml";
        return Err(Failure::new(ErrorKind::Usage, text));
    }
    Ok(wanted)
}

async fn forward(
    borrower: &Borrower,
    wanted: &Wanted,
    background: Option<Background>,
    mut stop: Stop,
) -> Result<(), Failure> {
    borrower.keep_connected();
    let open = stop.interrupts(async { Ok(Open::bind(borrower, wanted).await?) }).await?;
    let purposes = open.purposes(borrower.host());
    let _presence = Presence::announce(borrower, "forward", purposes.clone());
    for purpose in &purposes {
        print(&format!("Forwarding {} (via {})", escape(purpose), borrower.host()))?;
    }
    background.map_or(Ok(()), Background::ready)?;
    let (failure_tx, failure_rx) = mpsc::channel::<String>(FAILURES_MAX);
    let mut serving = open.serve(&failure_tx);
    let end = stop.interrupts(watch(borrower, &mut serving, failure_rx)).await;
    // Before this process ends, so that the files of sockets go with it.
    serving.shutdown().await;
    end
}

/// Tells of failures until a forward ends.
async fn watch(
    borrower: &Borrower,
    serving: &mut JoinSet<BorrowError>,
    mut failure_rx: mpsc::Receiver<String>,
) -> Result<(), Failure> {
    let mut told = HashSet::new();
    let mut telling = std::pin::pin!(connection::tell(borrower));
    loop {
        tokio::select! {
            () = &mut telling => {}
            Some(failure) = failure_rx.recv() => {
                // One line for each way to fail, not for each connection; and not without end.
                if told.len() < FAILURES_MAX && told.insert(failure.clone()) {
                    warn(&format!("capuchin: {failure}"));
                    if told.len() == FAILURES_MAX {
                        warn("capuchin: failures of other kinds are not told any more");
                    }
                }
            }
            Some(ended) = serving.join_next() => {
                let broke_off = |panic| Failure::new(ErrorKind::Local, format!("a forward broke off: {panic}"));
                let end = ended.map_err(broke_off)?;
                if let BorrowError::Ended { .. } = end {
                    // Programs must see a reset and not an orderly end, which is what the end of this process would give them.
                    while serving.join_next().await.is_some() {}
                }
                return Err(end.into());
            }
        }
    }
}
