//! TCP connections: by name before the lender resolves, by address afterwards.

use std::net::IpAddr;

use super::{
    Policy,
    decide::{Facts, Granted, Judged, Principal},
    host::{Host, HostName},
    reach::{Reach, Transport, add_answered},
    refusal::{Refusal, RuleRef},
};

/// A connection to `host`, with what the lender's one resolution of it gave. Granted, `addresses` holds those that may
/// be dialled, in their canonical form and in the same order, and nothing else may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// What the borrower asked for.
    pub host: Host,
    /// The port, from 1.
    pub port: u16,
    /// What `host` resolved to; a literal address is itself. Those after the first
    /// [`ADDRESSES_MAX`](super::ADDRESSES_MAX) are dropped.
    pub addresses: Vec<IpAddr>,
    /// Other names of an address: granted, those of [`Facts::answered`] that it was judged by.
    pub names: Vec<HostName>,
    /// The names (CNAME) that a resolution went through: a deny covers them too, and they allow nothing.
    pub aliases: Vec<HostName>,
}

impl Connect {
    /// A connection to what `host` resolved to, without aliases.
    pub fn new(host: Host, port: u16, addresses: Vec<IpAddr>) -> Self {
        Self { host, port, addresses, names: Vec::new(), aliases: Vec::new() }
    }

    fn reach<'a>(&'a self, facts: &Facts<'a>) -> Reach<'a> {
        let Self { host, port, names, aliases, .. } = self;
        Reach { transport: Transport::Tcp, host, port: *port, names, aliases, own: facts.own }
    }
}

impl Granted<Connect> {
    /// The grant for the one of its addresses that was connected to; `None` when it is none of them.
    pub fn at_address(self, address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        self.map(|connect| {
            connect.addresses.contains(&address).then(|| Connect { addresses: vec![address], ..connect })
        })
    }
}

impl Judged for Connect {
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
