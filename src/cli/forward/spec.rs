//! `-L`, `-R` and `-D` as ssh writes them: ports, ranges of ports, addresses and Unix sockets, and `/udp` behind it for datagrams.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use crate::{Destination, Endpoint, proto::Target};

/// Most ports of one range: each is a socket here or at the lender.
const RANGE_MAX: usize = 1024;

/// One listener, and where what comes to it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Connections.
    Stream { listen: Endpoint, destination: Destination },
    /// Datagrams.
    Datagrams { listen: SocketAddr, target: Target },
}

/// What one option says: several, of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specs(pub Vec<Spec>);

/// Reads what `-L` takes.
pub fn local(text: &str) -> Result<Specs, String> {
    specs(text, if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() })
}

/// Reads what `-R` takes. Every address of the lender is asked for as IPv6, and as IPv4 where it has none.
pub fn remote(text: &str) -> Result<Specs, String> {
    if dynamic(text).is_ok() {
        return Err("a proxy at the lender, as ssh -R has with a port alone, is not there; -D is one here".to_owned());
    }
    specs(text, Ipv6Addr::UNSPECIFIED.into())
}

/// Reads what `-D` takes.
pub fn dynamic(text: &str) -> Result<SocketAddr, String> {
    let wrong = |why: &str| format!("{why}; write [BIND:]PORT, as in 1080");
    let every = if has_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let fields = fields(text).ok_or_else(|| wrong("a bracket is not closed"))?;
    let (bind, port) = match fields.as_slice() {
        [port] => (Ipv4Addr::LOCALHOST.into(), port),
        [bind, port] => (bind_address(bind, every).ok_or_else(|| wrong("the address to listen on is not one"))?, port),
        _ => return Err(wrong("it has not one or two parts")),
    };
    let port = port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
    Ok(SocketAddr::new(bind, port))
}

fn specs(text: &str, every: IpAddr) -> Result<Specs, String> {
    let wrong = |why: &str| {
        format!(
            "{why}; write [BIND:]PORT:HOST:HOSTPORT, as in 8080:intranet:80, or the path of a socket; /udp behind it for datagrams"
        )
    };
    // A path may end so, too.
    let is_port = |rest: &&str| rest.rsplit(':').next().is_some_and(|last| !last.is_empty() && !last.contains('/'));
    let datagrams = text.strip_suffix("/udp").filter(is_port);
    let fields = fields(datagrams.unwrap_or(text)).ok_or_else(|| wrong("a bracket is not closed"))?;
    // As in ssh; 80/udp in its place is a slip.
    let is_path =
        |field: &&str| field.split_once('/').is_some_and(|(first, _)| first.is_empty() || range(first).is_none());
    // From both ends: a path is one part, an address and port are two.
    let (listen, destination) = match fields.as_slice() {
        [rest @ .., path] if is_path(path) => (rest, vec![*path]),
        [rest @ .., host, port] => (rest, vec![*host, *port]),
        _ => return Err(wrong("it has not two to four parts")),
    };
    let listeners: Vec<Endpoint> = match listen {
        [path] if is_path(path) => vec![Endpoint::Unix(PathBuf::from(path))],
        [port] => endpoints(Ipv4Addr::LOCALHOST.into(), port).ok_or_else(|| wrong(NO_PORT))?,
        [bind, port] => {
            let bind = bind_address(bind, every).ok_or_else(|| wrong("the address to listen on is not one"))?;
            endpoints(bind, port).ok_or_else(|| wrong(NO_PORT))?
        }
        _ => return Err(wrong("it has not two to four parts")),
    };
    let destinations: Vec<Destination> = match destination.as_slice() {
        [host, ports] => targets(host, ports).map_err(|error| wrong(&error))?,
        _ => destination.iter().map(|path| Destination::Unix(PathBuf::from(path))).collect(),
    };
    if listeners.len() != destinations.len() {
        let (left, right) = (listeners.len(), destinations.len());
        return Err(wrong(&format!("{left} to listen on cannot go to {right}")));
    }
    let pairs = listeners.into_iter().zip(destinations).map(|pair| match pair {
        (Endpoint::Tcp(listen), Destination::Tcp(target)) if datagrams.is_some() => {
            Ok(Spec::Datagrams { listen, target })
        }
        _ if datagrams.is_some() => Err(wrong("datagrams go from a port to a port")),
        (listen, destination) => Ok(Spec::Stream { listen, destination }),
    });
    pairs.collect::<Result<_, _>>().map(Specs)
}

const NO_PORT: &str = "the port to listen on is not a number from 0 to 65535, nor a range of at most 1024";

fn endpoints(bind: IpAddr, ports: &str) -> Option<Vec<Endpoint>> {
    let ports = range(ports)?;
    Some(ports.map(|port| Endpoint::Tcp(SocketAddr::new(bind, port))).collect())
}

fn targets(host: &str, ports: &str) -> Result<Vec<Destination>, String> {
    let one = |port: &str| {
        // Without its brackets a host may be anything that Target takes.
        let whole = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        whole.parse::<Target>().map(Destination::Tcp).map_err(|error| error.to_string())
    };
    match range(ports).filter(|ports| ports.start() != ports.end()) {
        Some(ports) => ports.map(|port| one(&port.to_string())).collect(),
        None => Ok(vec![one(ports)?]),
    }
}

/// `8000` or `8000-8010`; 0 only by itself.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (start.parse().ok().filter(|start| *start > 0)?, end.parse().ok()?),
        None => {
            let port = text.parse().ok()?;
            (port, port)
        }
    };
    let ports: RangeInclusive<u16> = start..=end;
    (!ports.is_empty() && ports.len() <= RANGE_MAX).then_some(ports)
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

/// As in ssh: nothing and `*` are every address, of both families where there are both.
fn bind_address(text: &str, every: IpAddr) -> Option<IpAddr> {
    match text {
        "" | "*" => Some(every),
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

    fn read(text: &str) -> Vec<(String, String)> {
        let Specs(specs) = local(text).unwrap();
        let words = specs.iter().map(|spec| match spec {
            Spec::Stream { listen, destination } => (listen.to_string(), destination.to_string()),
            Spec::Datagrams { listen, target } => (format!("{listen}/udp"), format!("{target}/udp")),
        });
        words.collect()
    }

    #[test]
    fn forwards_read_as_in_ssh() {
        for (text, listen, destination) in [
            ("8080:intranet:80", "127.0.0.1:8080", "intranet:80"),
            ("0:10.0.0.1:80", "127.0.0.1:0", "10.0.0.1:80"),
            ("10.0.0.2:80:a:81", "10.0.0.2:80", "a:81"),
            ("localhost:80:a:81", "127.0.0.1:80", "a:81"),
            ("[::1]:80:[fd00::1]:81", "[::1]:80", "[fd00::1]:81"),
            ("80:[::1]:81", "127.0.0.1:80", "[::1]:81"),
            ("0.0.0.0:80:a:81", "0.0.0.0:80", "a:81"),
            ("/run/local:a:81", "/run/local", "a:81"),
            ("/run/local:[::1]:81", "/run/local", "[::1]:81"),
            ("80:/run/remote", "127.0.0.1:80", "/run/remote"),
            ("[::1]:80:/run/remote", "[::1]:80", "/run/remote"),
            ("/run/local:/run/remote", "/run/local", "/run/remote"),
            ("53:a:54/udp", "127.0.0.1:53/udp", "a:54/udp"),
            ("[::1]:53:[fd00::1]:54/udp", "[::1]:53/udp", "[fd00::1]:54/udp"),
            ("80:/run/8/udp", "127.0.0.1:80", "/run/8/udp"),
            ("/run/8/udp:a:81", "/run/8/udp", "a:81"),
            ("80:/udp", "127.0.0.1:80", "/udp"),
            ("./x.sock:a:81", "./x.sock", "a:81"),
            ("x/y.sock:./z", "x/y.sock", "./z"),
        ] {
            assert_eq!(read(text), [(listen.to_owned(), destination.to_owned())], "{text}");
        }
        for text in ["*:80:a:81", ":80:a:81"] {
            let Specs(specs) = remote(text).unwrap();
            let every = Endpoint::Tcp((Ipv6Addr::UNSPECIFIED, 80).into());
            assert!(matches!(&specs[0], Spec::Stream { listen, .. } if *listen == every), "{text}");
        }
        assert_eq!(dynamic("1080"), Ok(([127, 0, 0, 1], 1080).into()));
        assert_eq!(dynamic("[::1]:0"), Ok((Ipv6Addr::LOCALHOST, 0).into()));
    }

    #[test]
    fn a_range_is_one_forward_for_each_port() {
        let pairs = read("8000-8010:a:9000-9010");
        assert_eq!(pairs.len(), 11);
        assert_eq!(pairs[10], ("127.0.0.1:8010".to_owned(), "a:9010".to_owned()));
        assert_eq!(read("[::1]:8000-8000:a:80")[0].0, "[::1]:8000");
        assert_eq!(read("8000-8010:a:9000-9010/udp")[10], ("127.0.0.1:8010/udp".to_owned(), "a:9010/udp".to_owned()));
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
            "8000-8010:a:80",
            "8000-8010:a:80-81",
            "80:a:8000-8010",
            "8010-8000:a:8010-8000",
            "0-3:a:0-3",
            "1-5000:a:1-5000",
            "8000-8001:/run/remote",
            "/run/local",
            "/udp",
            "53/udp",
            "53/udp:a:53",
            "53:a:53/tcp",
            "53:a:53/udp/udp",
            "53:a:/udp",
            "/run/local:a:53/udp",
            "1-2:a:1/udp",
        ] {
            let error = local(text).unwrap_err();
            assert!(error.contains("[BIND:]PORT:HOST:HOSTPORT"), "{text}: {error}");
        }
        for text in ["1080", "localhost:1080", "[::1]:1080"] {
            assert!(remote(text).unwrap_err().contains("a proxy at the lender"), "{text}");
        }
        for text in ["", "x", "1:2:3", "nowhere.example:1", "1-2"] {
            assert!(dynamic(text).unwrap_err().contains("[BIND:]PORT"), "{text}");
        }
    }
}
