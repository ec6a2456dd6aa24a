//! `capuchin forward -L`: local ports whose connections are made by the lender.
//!
//! All or nothing at the start: every target is asked for and every port bound before the first line is printed. A
//! target that is merely down may come up later, and does not end the command.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use tokio::sync::mpsc;

use super::{
    connection,
    host::HostArgument,
    presence::Presence,
    report::{Failure, escape, print, warn},
    signals,
};
use crate::{
    BorrowError, Forward,
    proto::{ErrorKind, Target},
};

/// Failures of connections that wait to be printed; more at once are not new.
const FAILURES_MAX: usize = 64;

/// Make ports of the lender's network reachable here, until interrupted
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin forward lab -L 8080:intranet:80        its intranet at 127.0.0.1:8080
  capuchin forward lab -L 0:db.internal:5432      any free port; it is printed
  capuchin forward lab -L '*:8080:[fd00::1]:80'   for all machines around here

A lost connection is made again by itself, as long as the login lasts; local ports stay open meanwhile.

Exit status: 255 after a failure or when the lender takes the session back, 130 after Ctrl-C, 143 after SIGTERM.")]
pub struct Arguments {
    #[command(flatten)]
    host: HostArgument,
    /// Listen here and connect there, as in ssh; the address is 127.0.0.1 if left out, and all if empty or *
    #[arg(short = 'L', long = "local", value_name = "[BIND:]PORT:HOST:HOSTPORT", required = true)]
    local: Vec<Spec>,
    /// Only forward; accepted for the habit of ssh, as nothing else is done anyway
    #[arg(short = 'N', long)]
    no_command: bool,
}

/// What `-L` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    bind: SocketAddr,
    target: Target,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { host, local, no_command: _ } = arguments;
    signals::interruptible(forward(&host, &local)).await
}

async fn forward(host: &HostArgument, specs: &[Spec]) -> Result<(), Failure> {
    let borrower = host.connect().await?;
    borrower.keep_connected();
    let mut forwards = Vec::new();
    for Spec { bind, target } in specs {
        match borrower.check("connect", &target.to_string()).await {
            // Down, or without an address for now: not the policy's no.
            Ok(_) | Err(BorrowError::Dial { .. }) | Err(BorrowError::Refused { kind: ErrorKind::Target, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        forwards.push(Forward::bind(&borrower, *bind, target.clone()).await?);
    }
    let purposes: Vec<_> =
        forwards.iter().map(|forward| format!("{} -> {}", forward.local_addr(), forward.target())).collect();
    let _presence = Presence::announce(&borrower, "forward", purposes.clone());
    for purpose in &purposes {
        print(&format!("Forwarding {} (via {})", escape(purpose), borrower.host()))?;
    }
    let (failure_tx, mut failure_rx) = mpsc::channel::<String>(FAILURES_MAX);
    let mut serving = tokio::task::JoinSet::new();
    for forward in forwards {
        let failure_tx = failure_tx.clone();
        // A full queue holds enough of the same.
        serving.spawn(forward.serve(move |error| drop(failure_tx.try_send(error.to_string()))));
    }
    let mut told = HashSet::new();
    let mut telling = std::pin::pin!(connection::tell(&borrower));
    loop {
        tokio::select! {
            () = &mut telling => {}
            Some(failure) = failure_rx.recv() => {
                // One line for each way to fail, not for each connection; and not without end.
                if told.len() < FAILURES_MAX && told.insert(failure.clone()) {
                    warn(&format!("capuchin: {failure}"));
                }
            }
            end = borrower.ended() => {
                // Programs must see a reset and not an orderly end, which is what the end of this process would give them.
                while serving.join_next().await.is_some() {}
                return Err(end.into());
            }
        }
    }
}

impl FromStr for Spec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{why}; write [BIND:]PORT:HOST:HOSTPORT, as in 8080:intranet:80");
        let fields = fields(text).ok_or_else(|| wrong("a bracket is not closed"))?;
        let (bind, port, host, host_port) = match fields.as_slice() {
            [port, host, host_port] => (IpAddr::V4(Ipv4Addr::LOCALHOST), port, host, host_port),
            [bind, port, host, host_port] => {
                let bind = bind_address(bind).ok_or_else(|| wrong("the address to listen on is not one"))?;
                (bind, port, host, host_port)
            }
            _ => return Err(wrong("it has not three or four parts")),
        };
        let port = port.parse().map_err(|_| wrong("the local port is not a number from 0 to 65535"))?;
        // Without its brackets a host may be anything that Target takes.
        let bracket = if host.contains(':') { format!("[{host}]:{host_port}") } else { format!("{host}:{host_port}") };
        let target = bracket.parse().map_err(|error: crate::proto::TargetError| wrong(&error.to_string()))?;
        Ok(Self { bind: SocketAddr::new(bind, port), target })
    }
}

/// The parts between colons; those in brackets lose them and may hold colons. `None`: a bracket out of place.
fn fields(text: &str) -> Option<Vec<&str>> {
    let (mut fields, mut rest) = (Vec::new(), text);
    loop {
        let (field, behind) = match rest.strip_prefix('[') {
            Some(inside) => inside.split_once(']')?,
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        if field.contains(['[', ']']) {
            return None;
        }
        fields.push(field);
        match behind.strip_prefix(':') {
            Some(more) => rest = more,
            None => return behind.is_empty().then_some(fields),
        }
    }
}

/// As in ssh: nothing and `*` are every address, of both families where the kernel has both.
fn bind_address(text: &str) -> Option<IpAddr> {
    match text {
        "" | "*" => Some(if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }),
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        address => address.parse().ok(),
    }
}

fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, String) {
        let Spec { bind, target } = text.parse().unwrap();
        (bind.to_string(), target.to_string())
    }

    #[test]
    fn forwards_read_as_in_ssh() {
        for (text, bind, target) in [
            ("8080:intranet:80", "127.0.0.1:8080", "intranet:80"),
            ("0:10.0.0.1:80", "127.0.0.1:0", "10.0.0.1:80"),
            ("10.0.0.2:80:a:81", "10.0.0.2:80", "a:81"),
            ("localhost:80:a:81", "127.0.0.1:80", "a:81"),
            ("[::1]:80:[fd00::1]:81", "[::1]:80", "[fd00::1]:81"),
            ("80:[::1]:81", "127.0.0.1:80", "[::1]:81"),
            ("0.0.0.0:80:a:81", "0.0.0.0:80", "a:81"),
        ] {
            assert_eq!(read(text), (bind.to_owned(), target.to_owned()));
        }
        let all = bind_address("*").unwrap();
        for text in ["*:80:a:81", ":80:a:81"] {
            let spec: Spec = text.parse().unwrap();
            assert!(all.is_unspecified() && spec.bind == SocketAddr::new(all, 80), "{text}");
        }
    }

    #[test]
    fn what_is_no_forward_says_what_one_is() {
        for text in [
            "",
            "80",
            "80:a",
            "a:80:b:81:c",
            "80:a:0",
            "80:a:x",
            "x:a:80",
            "65536:a:80",
            "80::81",
            "[::1:80:a:81",
            "::1:80:a:81",
            "80:a]:81",
            "80:[::1]x:81",
            "nowhere.example:80:a:81",
            "80:a:81:",
        ] {
            let error = text.parse::<Spec>().unwrap_err();
            assert!(error.contains("[BIND:]PORT:HOST:HOSTPORT"), "{text}: {error}");
        }
    }
}
