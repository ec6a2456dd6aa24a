//! What a request has at most. Who reads one that has more takes it for a break of the protocol, which ends the whole session: who
//! writes one looks first.

use super::{ASK_KIND_MAX, ASK_TARGET_MAX, Ask, HOST_BYTES_MAX, PLANNED, Request, SOCKET_PATH_MAX, Target};
use crate::proto::{UnixListen, VARIABLE_NAME_MAX, VARIABLES_MAX, service};

impl Request {
    /// Whether it is within the bounds of its kind.
    ///
    /// # Errors
    /// What it needs.
    pub fn check(&self) -> Result<(), &'static str> {
        let (fits, needed) = match self {
            Self::TcpConnect(Target { host, port }) => (
                (1..=HOST_BYTES_MAX).contains(&host.len()) && *port > 0,
                "a host of 1 to 255 bytes and a port above 0 are needed",
            ),
            Self::UdpBind(bind) => {
                (bind.listen || bind.address.port() == 0, "a port of its own is for a socket that listens")
            }
            Self::UnixConnect(path) | Self::UnixListen(UnixListen { path, .. }) => {
                ((1..=SOCKET_PATH_MAX).contains(&path.len()), "a path of 1 to 4,095 bytes is needed")
            }
            Self::ServiceListen(listen) if listen.at_once == Some(0) => {
                (false, "a service takes one connection at a time at least")
            }
            Self::ServiceListen(listen) => (service::is_name(&listen.name), service::NAME_NEEDED),
            Self::ServiceConnect(name) => (service::is_name(name), service::NAME_NEEDED),
            Self::Profile(variables) => {
                let is_name = |name: &String| (1..=VARIABLE_NAME_MAX).contains(&name.len());
                (
                    variables.len() <= VARIABLES_MAX && variables.iter().all(is_name),
                    "at most 64 variables, with names of 1 to 255 bytes, can be asked for",
                )
            }
            Self::Planned { name, ask }
                if !PLANNED.iter().any(|(known, kinds)| known == name && ask.is_one_of(kinds)) =>
            {
                (false, "the kind is none of this request")
            }
            Self::Check(ask) | Self::Planned { ask, .. } => (
                (1..=ASK_KIND_MAX).contains(&ask.kind.len()) && ask.target.len() <= ASK_TARGET_MAX,
                "a kind of 1 to 32 bytes and a target of at most 32,768 are needed",
            ),
            Self::Spawn(spawn) => return spawn.check(),
            Self::TcpListen(_)
            | Self::Resolve
            | Self::OwnRules
            | Self::RenewCertificate(_)
            | Self::RenewTicket
            | Self::SpawnStdio(_) => return Ok(()),
        };
        if fits { Ok(()) } else { Err(needed) }
    }
}

impl Ask {
    fn is_one_of(&self, kinds: &[&str]) -> bool {
        kinds.contains(&self.kind.as_str())
    }
}
