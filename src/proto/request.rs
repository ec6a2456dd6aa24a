//! What a stream asks for in its first message; `answer` has what the lender says to it.
//!
//! A request is a map whose key 0 is its name, so that a lender that does not know it can refuse it by name. Everything
//! behind the request and behind the answer are the resource's own bytes.

mod bounds;

use minicbor::{Decode, Encode, Encoder, encode};

use super::{
    ProtocolError, ServiceListen, Spawn, SpawnStdio, TcpListen, UdpBind, UnixListen, WireAddr, message, service,
};

/// Longest host in a request, in bytes: the longest DNS name (RFC 1035 §2.3.4), or an address.
pub const HOST_BYTES_MAX: usize = 255;
/// Longest kind in an [`Ask`], in bytes: twice the longest that there is.
pub const ASK_KIND_MAX: usize = 32;
/// Longest target in an [`Ask`], in bytes: a command line of several of the longest paths, half of a message.
pub const ASK_TARGET_MAX: usize = 32 * 1024;
/// Longest path of a Unix socket, in bytes: PATH_MAX of Linux without its NUL.
pub const SOCKET_PATH_MAX: usize = 4095;
/// The requests that are planned, by name, each with the kinds that it can be.
pub const PLANNED: [(&str, &[&str]); 2] = [("files", &["read", "write"]), ("objects", &["python"])];
/// A borrowed resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// A TCP connection made by the lender; answered with [`TcpConnected`](super::TcpConnected).
    TcpConnect(Target),
    /// A TCP port bound by the lender; answered with [`Listening`](super::Listening).
    TcpListen(TcpListen),
    /// A UDP socket of the lender; answered with [`Listening`](super::Listening), and followed by
    /// [`UdpMessage`](super::UdpMessage)s.
    UdpBind(UdpBind),
    /// A connection to the Unix socket at this path of the lender; answered with [`Ready`](super::Ready).
    UnixConnect(Vec<u8>),
    /// A Unix socket created by the lender; answered with [`Ready`](super::Ready).
    UnixListen(UnixListen),
    /// A name that other borrowers may connect to; answered with [`Ready`](super::Ready), and then a listener.
    ServiceListen(ServiceListen),
    /// A connection to the service of this name; answered with [`Ready`](super::Ready).
    ServiceConnect(String),
    /// Names from the lender's resolvers; answered with [`Resolving`](super::Resolving).
    Resolve,
    /// The lender's machine as its programs see it, and these variables of its environment; answered with a
    /// [`Machine`](super::Machine).
    Profile(Vec<String>),
    /// Asks the gate about a request of any kind and does nothing; answered with a [`Verdict`](super::Verdict).
    Check(Ask),
    /// What the policy lets this user do; answered with [`OwnRules`](super::OwnRules).
    OwnRules,
    /// A new certificate for the key of this device, before the old one ends: a PKCS #10 request in DER, of which only
    /// the key counts. Answered with [`RenewedCertificate`](super::RenewedCertificate).
    RenewCertificate(Vec<u8>),
    /// A program; answered with [`Spawned`](super::Spawned).
    Spawn(Spawn),
    /// One of a program's streams, which has no answer of its own.
    SpawnStdio(SpawnStdio),
    /// A new ticket that goes back to the same login; answered with an [`IssuedTicket`](super::IssuedTicket).
    RenewTicket,
    /// A request that has its name and its place at the gate, and that no lender of this version serves: one of
    /// [`PLANNED`]. It is decided, and refused by the policy or as not offered.
    Planned {
        /// Its name.
        name: &'static str,
        /// What it wants.
        ask: Ask,
    },
}

/// A request in words: what the policy calls its kind, and its target as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// The kind, e.g. `connect`; the lender says whether it knows it.
    pub kind: String,
    /// What is wanted, e.g. `db.internal:5432`; empty where a kind needs nothing more.
    pub target: String,
}

/// `host:port` as the borrower wrote it; the lender resolves and judges it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

impl Request {
    /// The request's name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TcpConnect(_) => "tcp-connect",
            Self::TcpListen(_) => "tcp-listen",
            Self::UdpBind(_) => "udp-bind",
            Self::UnixConnect(_) => "unix-connect",
            Self::UnixListen(_) => "unix-listen",
            Self::ServiceListen(_) => "service-listen",
            Self::ServiceConnect(_) => "service-connect",
            Self::Resolve => "resolve",
            Self::Profile(_) => "profile",
            Self::Check(_) => "check",
            Self::OwnRules => "own-rules",
            Self::RenewCertificate(_) => "renew-certificate",
            Self::RenewTicket => "renew-ticket",
            Self::Spawn(_) => "spawn",
            Self::SpawnStdio(_) => "spawn-stdio",
            Self::Planned { name, .. } => name,
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// What cannot be read breaks the protocol; a name that is not known is an [`UnknownRequest`] and only refused.
    pub fn decode(bytes: &[u8]) -> Result<Result<Self, UnknownRequest>, ProtocolError> {
        let Head { name } = message::decode("request", bytes)?;
        let request = match name.as_str() {
            "tcp-connect" => {
                let TargetBody { host, port } = message::decode("request", bytes)?;
                Self::TcpConnect(Target { host, port })
            }
            "tcp-listen" => {
                let TcpListenBody { address, backlog, v6_only, reuse_address } = message::decode("request", bytes)?;
                Self::TcpListen(TcpListen { address: address.0, backlog, v6_only, reuse_address })
            }
            "udp-bind" => {
                let UdpBindBody { address, listen, v6_only } = message::decode("request", bytes)?;
                Self::UdpBind(UdpBind { address: address.0, listen, v6_only })
            }
            "unix-connect" => {
                let UnixBody { path, backlog: _ } = message::decode("request", bytes)?;
                Self::UnixConnect(path)
            }
            "unix-listen" => {
                let UnixBody { path, backlog } = message::decode("request", bytes)?;
                Self::UnixListen(UnixListen { path, backlog })
            }
            "service-listen" => Self::ServiceListen(ServiceListen::decode(bytes)?),
            "service-connect" => Self::ServiceConnect(service::decode_connect(bytes)?),
            "resolve" => Self::Resolve,
            "profile" => {
                let ProfileBody { variables } = message::decode("request", bytes)?;
                Self::Profile(variables)
            }
            "check" => Self::Check(Ask::decode(bytes)?),
            "own-rules" => Self::OwnRules,
            "renew-certificate" => {
                let CertificateRequest { csr } = message::decode("request", bytes)?;
                Self::RenewCertificate(csr)
            }
            "renew-ticket" => Self::RenewTicket,
            "spawn" => Self::Spawn(Spawn::decode(bytes)?),
            "spawn-stdio" => Self::SpawnStdio(SpawnStdio::decode(bytes)?),
            other => match PLANNED.into_iter().find(|(name, _)| *name == other) {
                Some((name, _)) => Self::Planned { name, ask: Ask::decode(bytes)? },
                None => return Ok(Err(UnknownRequest { name: name.chars().take(64).collect() })),
            },
        };
        let malformed = |why: &str| ProtocolError::Malformed { what: "request", why: why.to_owned() };
        request.check().map_err(malformed)?;
        Ok(Ok(request))
    }
}

impl Ask {
    fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let AskBody { kind, target } = message::decode("request", bytes)?;
        Ok(Self { kind, target })
    }
}

impl<C> Encode<C> for Request {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let length = match self {
            Self::Resolve | Self::OwnRules | Self::RenewTicket => 1,
            Self::RenewCertificate(_) | Self::Profile(_) | Self::UnixConnect(_) | Self::ServiceConnect(_) => 2,
            Self::ServiceListen(listen) => 1 + listen.entries(),
            Self::UnixListen(UnixListen { backlog, .. }) => 2 + u64::from(backlog.is_some()),
            Self::UdpBind(_) => 4,
            Self::TcpListen(TcpListen { backlog, .. }) => 4 + u64::from(backlog.is_some()),
            Self::TcpConnect(_) | Self::Check(_) | Self::SpawnStdio(_) | Self::Planned { .. } => 3,
            Self::Spawn(spawn) => 1 + spawn.entries(),
        };
        e.map(length)?.u8(0)?.str(self.name())?;
        match self {
            Self::Resolve | Self::OwnRules | Self::RenewTicket => Ok(()),
            Self::TcpConnect(Target { host, port }) => e.u8(1)?.str(host)?.u8(2)?.u16(*port)?.ok(),
            Self::TcpListen(TcpListen { address, backlog, v6_only, reuse_address }) => {
                e.u8(1)?.encode(WireAddr(*address))?;
                if let Some(backlog) = backlog {
                    e.u8(2)?.u32(*backlog)?;
                }
                e.u8(3)?.bool(*v6_only)?.u8(4)?.bool(*reuse_address)?.ok()
            }
            Self::UdpBind(UdpBind { address, listen, v6_only }) => {
                e.u8(1)?.encode(WireAddr(*address))?.u8(2)?.bool(*listen)?.u8(3)?.bool(*v6_only)?.ok()
            }
            Self::UnixConnect(path) => e.u8(1)?.bytes(path)?.ok(),
            Self::UnixListen(UnixListen { path, backlog }) => {
                e.u8(1)?.bytes(path)?;
                match backlog {
                    Some(backlog) => e.u8(2)?.u32(*backlog)?.ok(),
                    None => Ok(()),
                }
            }
            Self::ServiceListen(listen) => listen.encode_body(e),
            Self::ServiceConnect(name) => e.u8(1)?.str(name)?.ok(),
            Self::RenewCertificate(csr) => e.u8(1)?.bytes(csr)?.ok(),
            Self::Profile(variables) => e.u8(1)?.encode(variables)?.ok(),
            Self::Spawn(spawn) => spawn.encode_body(e),
            Self::SpawnStdio(stdio) => stdio.encode_body(e),
            Self::Check(Ask { kind, target }) | Self::Planned { ask: Ask { kind, target }, .. } => {
                e.u8(1)?.str(kind)?.u8(2)?.str(target)?.ok()
            }
        }
    }
}

#[derive(Decode)]
#[cbor(map)]
struct Head {
    #[n(0)]
    name: String,
}

#[derive(Decode)]
#[cbor(map)]
struct TargetBody {
    #[n(1)]
    host: String,
    #[n(2)]
    port: u16,
}

#[derive(Decode)]
#[cbor(map)]
struct TcpListenBody {
    #[n(1)]
    address: WireAddr,
    #[n(2)]
    backlog: Option<u32>,
    #[n(3)]
    #[cbor(default)]
    v6_only: bool,
    #[n(4)]
    #[cbor(default)]
    reuse_address: bool,
}

#[derive(Decode)]
#[cbor(map)]
struct UdpBindBody {
    #[n(1)]
    address: WireAddr,
    #[n(2)]
    #[cbor(default)]
    listen: bool,
    #[n(3)]
    #[cbor(default)]
    v6_only: bool,
}

#[derive(Decode)]
#[cbor(map)]
struct UnixBody {
    #[cbor(n(1), with = "minicbor::bytes")]
    path: Vec<u8>,
    #[n(2)]
    backlog: Option<u32>,
}

#[derive(Decode)]
#[cbor(map)]
struct ProfileBody {
    #[n(1)]
    #[cbor(default)]
    variables: Vec<String>,
}

#[derive(Decode)]
#[cbor(map)]
struct AskBody {
    #[n(1)]
    kind: String,
    #[n(2)]
    target: String,
}

#[derive(Decode)]
#[cbor(map)]
struct CertificateRequest {
    #[cbor(n(1), with = "minicbor::bytes")]
    csr: Vec<u8>,
}

/// A request that this build does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this lender does not know the request {name:?}")]
pub struct UnknownRequest {
    /// The name, cut at 64 characters.
    pub name: String,
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kind)?;
        if self.target.is_empty() { Ok(()) } else { write!(f, " {}", self.target) }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is not a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not HOST:PORT: {why}")]
pub struct TargetError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Reads `host:port`; an IPv6 address stands in brackets.
impl std::str::FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = |why| TargetError { text: text.chars().take(300).collect(), why };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing, as in db.internal:5432"))?;
        // As strict as the policy is: `check` must not say no to what is asked for in another spelling.
        let port = match port.parse::<u16>() {
            Ok(number) if number > 0 && number.to_string() == port => number,
            _ => return Err(wrong("a port is a number from 1 to 65535")),
        };
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inside)) if inside.parse::<std::net::Ipv6Addr>().is_err() => {
                return Err(wrong("brackets stand around an IPv6 address alone, as in [::1]:80"));
            }
            Some(Some(inside)) => inside,
            Some(None) => return Err(wrong("the bracket is not closed")),
            None if host.contains(':') => return Err(wrong("an IPv6 address stands in brackets, as in [::1]:80")),
            None => host,
        };
        match host.len() {
            0 => Err(wrong("the host is missing")),
            1..=HOST_BYTES_MAX => Ok(Self { host: host.to_owned(), port }),
            _ => Err(wrong("the host is longer than 255 bytes")),
        }
    }
}

#[cfg(test)]
mod tests;
