//! A request of any kind, as a person writes it: a kind and a text.
//!
//! `check`, `[[test]]` and the wire's requests by name are read here, so that a target means the same wherever it stands.

use std::net::IpAddr;

use super::{
    Connect, Datagram, Exec, Listen, OfferService, Policy, Profile, Python, ReadPath, ReadVariable, Resolve,
    SendVariable, Shell, UnixConnect, UnixListen, UseService, WritePath,
    decide::{Facts, Judged, Principal},
    host::{Host, HostError, HostName},
    kind::Kind,
    path::{LenderPath, PathError},
    pattern::{PatternError, parse_port, split_port},
    program::ProgramError,
    reach::Transport,
    refusal::{Refusal, RuleRef},
    word::WordError,
};

/// A request of any kind.
///
/// ```
/// use capuchin::{policy::*, proto::DeviceId};
/// let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nread = [\"/srv/data\"]", "policy.toml")?;
/// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
/// let ask = |path: &str| decide(&policy, &ana, AnyRequest::parse(Kind::Read, path).unwrap(), &Facts::default());
/// assert!(ask("/srv/data/in").is_ok() && ask("/srv/data2").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant holds the type of its name, documented there")]
pub enum AnyRequest {
    Connect(Connect),
    Datagram(Datagram),
    Listen(Listen),
    UnixConnect(UnixConnect),
    UnixListen(UnixListen),
    Resolve(Resolve),
    ReadPath(ReadPath),
    WritePath(WritePath),
    Exec(Exec),
    Shell(Shell),
    Python(Python),
    SendVariable(SendVariable),
    ReadVariable(ReadVariable),
    OfferService(OfferService),
    UseService(UseService),
    Profile(Profile),
}

/// Why a text is not a target of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?}: {why}")]
pub struct TargetError {
    /// The kind that was asked about.
    pub kind: Kind,
    /// What was given, cut at 300 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// Its host is none, or one that resolvers disagree about: the policy's to refuse, whatever the rules say.
    #[error(transparent)]
    Host(#[from] HostError),
    /// It does not have the shape that its kind needs.
    #[error("{0}")]
    Shape(String),
}

impl AnyRequest {
    /// Reads `target` as [`Kind`] says it is written. A name is not resolved: see [`Self::host`].
    ///
    /// # Errors
    /// [`TargetError`] if it is none.
    pub fn parse(kind: Kind, target: &str) -> Result<Self, TargetError> {
        read(kind, target).map_err(|why| TargetError::new(kind, target, why))
    }

    /// The host and port that have to be resolved before it can be decided, and what for.
    pub fn host(&self) -> Option<(Transport, &Host, u16)> {
        match self {
            Self::Connect(Connect { host, port, .. }) => Some((Transport::Tcp, host, *port)),
            Self::Datagram(Datagram { host, port, .. }) => Some((Transport::Udp, host, *port)),
            _ => None,
        }
    }

    /// With what its host resolved to; a request without one stays as it is.
    #[must_use]
    pub fn resolved(self, addresses: Vec<IpAddr>) -> Self {
        match self {
            Self::Connect(connect) => Self::Connect(Connect { addresses, ..connect }),
            Self::Datagram(datagram) => Self::Datagram(Datagram { addresses, ..datagram }),
            other => other,
        }
    }

    /// With the names (CNAME) that its resolution went through.
    #[must_use]
    pub fn through(self, aliases: Vec<HostName>) -> Self {
        match self {
            Self::Connect(connect) => Self::Connect(Connect { aliases, ..connect }),
            Self::Datagram(datagram) => Self::Datagram(Datagram { aliases, ..datagram }),
            other => other,
        }
    }

    /// The addresses of its host; granted, those that are allowed.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Connect(Connect { addresses, .. }) | Self::Datagram(Datagram { addresses, .. }) => addresses,
            _ => &[],
        }
    }
}

fn read(kind: Kind, target: &str) -> Result<AnyRequest, Why> {
    if kind.takes_target() == target.is_empty() {
        return Err(Why::of_presence(kind));
    }
    let path = || LenderPath::parse(target);
    Ok(match kind {
        Kind::Connect => {
            let (host, port) = host_and_port(target)?;
            AnyRequest::Connect(Connect::new(host, port, Vec::new()))
        }
        Kind::Udp => {
            let (host, port) = host_and_port(target)?;
            AnyRequest::Datagram(Datagram::new(host, port, Vec::new()))
        }
        Kind::Listen => AnyRequest::Listen(Listen::parse(target)?),
        Kind::Unix => AnyRequest::UnixConnect(UnixConnect { path: path()? }),
        Kind::UnixListen => AnyRequest::UnixListen(UnixListen { path: path()? }),
        Kind::Resolve => AnyRequest::Resolve(Resolve { name: HostName::parse(target)? }),
        Kind::Read => AnyRequest::ReadPath(ReadPath { path: path()? }),
        Kind::Write => AnyRequest::WritePath(WritePath { path: path()? }),
        Kind::Exec => AnyRequest::Exec(Exec::parse(target)?),
        Kind::Shell => AnyRequest::Shell(Shell),
        Kind::Python => AnyRequest::Python(Python),
        Kind::EnvSend => AnyRequest::SendVariable(SendVariable::parse(target)?),
        Kind::EnvRead => AnyRequest::ReadVariable(ReadVariable::parse(target)?),
        Kind::ServiceOffer => AnyRequest::OfferService(OfferService::parse(target)?),
        Kind::ServiceUse => AnyRequest::UseService(UseService::parse(target)?),
        Kind::Profile => AnyRequest::Profile(Profile::default()),
    })
}

/// The port first: a port that is none is a slip of the pen, a host that is none may be an attack.
fn host_and_port(target: &str) -> Result<(Host, u16), Why> {
    let (host, port) = split_port(target)?;
    let port = parse_port(port)?;
    Ok((Host::parse(host)?, port))
}

impl Judged for AnyRequest {
    fn judge(self, policy: &Policy, who: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        fn judged<R: Judged>(
            request: R,
            (policy, who, facts): (&Policy, &Principal, &Facts<'_>),
            wrap: fn(R) -> AnyRequest,
        ) -> Result<(AnyRequest, RuleRef), Refusal> {
            request.judge(policy, who, facts).map(|(request, rule)| (wrap(request), rule))
        }
        let by = (policy, who, facts);
        match self {
            Self::Connect(request) => judged(request, by, Self::Connect),
            Self::Datagram(request) => judged(request, by, Self::Datagram),
            Self::Listen(request) => judged(request, by, Self::Listen),
            Self::UnixConnect(request) => judged(request, by, Self::UnixConnect),
            Self::UnixListen(request) => judged(request, by, Self::UnixListen),
            Self::Resolve(request) => judged(request, by, Self::Resolve),
            Self::ReadPath(request) => judged(request, by, Self::ReadPath),
            Self::WritePath(request) => judged(request, by, Self::WritePath),
            Self::Exec(request) => judged(request, by, Self::Exec),
            Self::Shell(request) => judged(request, by, Self::Shell),
            Self::Python(request) => judged(request, by, Self::Python),
            Self::SendVariable(request) => judged(request, by, Self::SendVariable),
            Self::ReadVariable(request) => judged(request, by, Self::ReadVariable),
            Self::OfferService(request) => judged(request, by, Self::OfferService),
            Self::UseService(request) => judged(request, by, Self::UseService),
            Self::Profile(request) => judged(request, by, Self::Profile),
        }
    }

    fn judge_again(&self, policy: &Policy, who: &Principal, facts: &Facts<'_>) -> Result<RuleRef, Refusal> {
        match self {
            // What can be granted in part.
            Self::Connect(request) => request.judge_again(policy, who, facts),
            Self::Datagram(request) => request.judge_again(policy, who, facts),
            Self::Listen(request) => request.judge_again(policy, who, facts),
            other => other.clone().judge(policy, who, facts).map(|(_, rule)| rule),
        }
    }
}

impl TargetError {
    pub(super) fn new(kind: Kind, text: &str, why: Why) -> Self {
        Self { kind, text: text.chars().take(TEXT_SHOWN_MAX).collect(), why }
    }

    /// The policy's refusal, when what is wrong is the host: such a request is well formed, and refused.
    pub fn refusal(&self) -> Option<Refusal> {
        match &self.why {
            Why::Host(error) => Some(Refusal::bad_host(self.kind, &self.text, error.clone())),
            Why::Shape(_) => None,
        }
    }
}

impl Why {
    /// A target where none belongs, or none where one does.
    pub(super) fn of_presence(kind: Kind) -> Self {
        Self::Shape(match kind.takes_target() {
            true => format!("a target is missing: write {kind} and what is wanted"),
            false => format!("{kind} is allowed as a whole or not at all: leave the target out"),
        })
    }
}

impl From<PatternError> for Why {
    fn from(error: PatternError) -> Self {
        match error {
            PatternError::Host(error) => Self::Host(error),
            other => Self::Shape(other.to_string()),
        }
    }
}

impl From<PathError> for Why {
    fn from(error: PathError) -> Self {
        Self::Shape(error.to_string())
    }
}

impl From<ProgramError> for Why {
    fn from(error: ProgramError) -> Self {
        Self::Shape(error.to_string())
    }
}

impl From<WordError> for Why {
    fn from(error: WordError) -> Self {
        Self::Shape(error.to_string())
    }
}

/// How much of a wrong target is shown, in characters.
const TEXT_SHOWN_MAX: usize = 300;

#[cfg(test)]
mod tests;
