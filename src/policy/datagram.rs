//! Datagrams to a peer: judged like connections, and again for each destination that a socket sends to.

use std::net::{IpAddr, SocketAddr};

use super::{
    Policy,
    decide::{Facts, Judged, Principal},
    host::{Host, HostName},
    kind::Kind,
    reach::{Reach, Transport, add_answered},
    refusal::{Refusal, RuleRef},
};

/// Datagrams to `host`; the fields are those of [`Connect`](super::Connect).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What the borrower asked for.
    pub host: Host,
    /// The port, from 1.
    pub port: u16,
    /// What `host` resolved to; a literal address is itself.
    pub addresses: Vec<IpAddr>,
    /// Other names of an address.
    pub names: Vec<HostName>,
    /// The names that a resolution went through.
    pub aliases: Vec<HostName>,
}

impl Datagram {
    /// Datagrams to what `host` resolved to, without aliases.
    pub fn new(host: Host, port: u16, addresses: Vec<IpAddr>) -> Self {
        Self { host, port, addresses, names: Vec::new(), aliases: Vec::new() }
    }

    fn reach<'a>(&'a self, facts: &Facts<'a>) -> Reach<'a> {
        let Self { host, port, names, aliases, .. } = self;
        Reach { transport: Transport::Udp, host, port: *port, names, aliases, own: facts.own }
    }
}

impl Judged for Datagram {
    fn judge(mut self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        add_answered(&self.host, &mut self.names, &mut self.aliases, facts);
        let (kept, rule) = self.reach(facts).judge(policy, &principal.user, &self.addresses)?;
        self.addresses = kept;
        Ok((self, rule))
    }

    fn judge_again(&self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<RuleRef, Refusal> {
        self.reach(facts).judge_all(policy, &principal.user, &self.addresses)
    }
}

/// Whether `peer`, who has sent something to a port that strangers may reach, may be answered: no rule has to allow it, and a
/// deny holds all the same, since anybody can write somebody else's address into a datagram.
///
/// # Errors
/// The [`Refusal`] by the deny.
///
/// ```
/// use capuchin::{policy::*, proto::DeviceId};
/// let policy = "[[allow]]\nwho = \"ana\"\nlisten = \"*:5000/udp\"\n[[deny]]\nwho = \"ana\"\nudp = \"10.0.0.53:*\"";
/// let policy = Policy::parse(policy, "policy.toml")?;
/// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
/// assert!(may_answer(&policy, &ana, "10.0.0.1:53".parse()?, &Facts::default()).is_ok());
/// assert!(may_answer(&policy, &ana, "10.0.0.53:53".parse()?, &Facts::default()).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn may_answer(policy: &Policy, principal: &Principal, peer: SocketAddr, facts: &Facts<'_>) -> Result<(), Refusal> {
    let ip = peer.ip().to_canonical();
    let mut answer = Datagram::new(Host::Address(ip), peer.port(), vec![ip]);
    add_answered(&answer.host, &mut answer.names, &mut answer.aliases, facts);
    answer.reach(facts).judge_denies(policy, &principal.user, ip)
}

/// A socket to send datagrams from: for whoever may send any. It does nothing by itself; each destination is a
/// [`Datagram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramSocket;

impl Judged for DatagramSocket {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let first = policy.allows(&principal.user).find_map(|patterns| patterns.udp.first());
        let rule = first.map(|entry| RuleRef::new(Kind::Udp, entry));
        rule.map(|rule| (self, rule)).ok_or_else(|| Refusal::no_datagrams(policy, &principal.user))
    }
}
