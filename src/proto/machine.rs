//! What a lender tells of its machine, so that a program elsewhere sees the network as a program there does.
//!
//! Every list has a bound of its own, and all of them together fit into one message: a lender cuts what is longer, a
//! borrower refuses it.

use std::net::IpAddr;

use ipnet::IpNet;
use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use super::{HOST_BYTES_MAX, ProtocolError, message::MESSAGE_BYTES_MAX};

/// Most routes: a machine that knows more has a default route that says the same.
pub const ROUTES_MAX: usize = 256;
/// Most addresses of the machine.
pub const MACHINE_ADDRESSES_MAX: usize = 64;
/// Most resolvers: as many as the C library reads (MAXNS).
pub const RESOLVERS_MAX: usize = 3;
/// Most domains of a search list, and most resolver options; people have a handful.
pub const SEARCH_MAX: usize = 32;
/// Longest resolver option, in bytes: twice the longest of resolv.conf(5).
pub const OPTION_BYTES_MAX: usize = 32;
/// Names and addresses of the hosts file together, in bytes; a longer one is a block list, and is asked by name.
pub const HOSTS_BYTES_MAX: usize = 10 * 1024;
/// Most variables that are asked for at once.
pub const VARIABLES_MAX: usize = 64;
/// Longest name of a variable, in bytes.
pub const VARIABLE_NAME_MAX: usize = 255;
/// Names and values of the variables together, in bytes.
pub const VARIABLES_BYTES_MAX: usize = 24 * 1024;

/// What an entry of a list may cost beyond its text, in bytes.
const OVERHEAD_BYTES: usize = 24;
const _: () = assert!(
    ROUTES_MAX * (34 + OVERHEAD_BYTES)
        + MACHINE_ADDRESSES_MAX * OVERHEAD_BYTES
        + SEARCH_MAX * (HOST_BYTES_MAX + OPTION_BYTES_MAX + OVERHEAD_BYTES)
        + HOSTS_BYTES_MAX
        + VARIABLES_BYTES_MAX
        <= MESSAGE_BYTES_MAX
);

/// The lender's machine as the programs on it see it; the answer to [`Request::Profile`](super::Request::Profile).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its own addresses, but for loopback and those that need an interface to mean anything.
    pub addresses: Vec<IpAddr>,
    /// Where it can send to, and from which address; the longest prefix that fits is the one that counts.
    pub routes: Vec<MachineRoute>,
    /// Its resolvers, by resolv.conf(5); none is one on loopback.
    pub resolvers: Vec<IpAddr>,
    /// The domains that are appended to a short name.
    pub search: Vec<String>,
    /// Options of its resolver library, as `ndots:2`.
    pub options: Vec<String>,
    /// Lines of hosts(5), without names that the policy does not let the borrower look up.
    pub hosts: Vec<HostsLine>,
    /// The variables that were asked for and are set, by name.
    pub variables: Vec<Variable>,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineRoute {
    /// Which addresses.
    pub prefix: IpNet,
    /// The address that a connection there comes from; `None` where the machine can send nothing.
    pub source: Option<IpAddr>,
}

/// One line of hosts(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsLine {
    /// The address.
    pub address: IpAddr,
    /// Its names, the canonical one first.
    pub names: Vec<String>,
}

/// A variable of the environment.
#[derive(Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value, in whatever encoding the lender has it.
    pub value: Vec<u8>,
}

/// The value may be a secret.
impl std::fmt::Debug for Variable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Variable").field("name", &self.name).finish_non_exhaustive()
    }
}

impl HostsLine {
    /// What it adds to [`HOSTS_BYTES_MAX`], in bytes.
    pub fn cost(&self) -> usize {
        OVERHEAD_BYTES + self.names.iter().map(|name| 3 + name.len()).sum::<usize>()
    }
}

impl Variable {
    /// What it adds to [`VARIABLES_BYTES_MAX`], in bytes.
    pub fn cost(&self) -> usize {
        OVERHEAD_BYTES + self.name.len() + self.value.len()
    }
}

impl Machine {
    /// Checks what a lender sent against the bounds.
    ///
    /// # Errors
    /// The first bound that does not hold.
    pub fn check(&self) -> Result<(), ProtocolError> {
        let total = |costs: &mut dyn Iterator<Item = usize>| costs.sum::<usize>();
        let too_long = |texts: &[String], bytes: usize| texts.iter().any(|text| !(1..=bytes).contains(&text.len()));
        let no_name = |line: &HostsLine| line.names.is_empty() || too_long(&line.names, HOST_BYTES_MAX);
        let of_two_families =
            |route: &MachineRoute| route.source.is_some_and(|source| source.is_ipv4() != route.prefix.addr().is_ipv4());
        for (broken, what) in [
            (self.addresses.len() > MACHINE_ADDRESSES_MAX, "more addresses than a profile may have"),
            (self.routes.len() > ROUTES_MAX, "more routes than a profile may have"),
            (self.routes.iter().any(of_two_families), "a route from an address of another family"),
            (self.resolvers.len() > RESOLVERS_MAX, "more resolvers than a profile may have"),
            (
                self.search.len() > SEARCH_MAX || too_long(&self.search, HOST_BYTES_MAX),
                "a search list that is too long",
            ),
            (self.options.len() > SEARCH_MAX || too_long(&self.options, OPTION_BYTES_MAX), "options that are too long"),
            (self.hosts.iter().any(no_name), "a line of hosts with an empty or overlong name"),
            (
                total(&mut self.hosts.iter().map(HostsLine::cost)) > HOSTS_BYTES_MAX,
                "more hosts than a profile may have",
            ),
            (self.variables.len() > VARIABLES_MAX, "more variables than a profile may have"),
            (
                total(&mut self.variables.iter().map(Variable::cost)) > VARIABLES_BYTES_MAX,
                "longer variables than a profile may have",
            ),
        ] {
            if broken {
                return Err(ProtocolError::Malformed { what: "profile", why: what.to_owned() });
            }
        }
        Ok(())
    }
}

/// Wire form of the whole: what the types above hold as values of the standard library stands here as bytes.
#[derive(Encode, Decode)]
#[cbor(map)]
struct Wire {
    #[n(0)]
    addresses: Vec<Address>,
    #[n(1)]
    routes: Vec<WireRoute>,
    #[n(2)]
    resolvers: Vec<Address>,
    #[n(3)]
    search: Vec<String>,
    #[n(4)]
    options: Vec<String>,
    #[n(5)]
    hosts: Vec<WireHosts>,
    #[n(6)]
    variables: Vec<WireVariable>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct WireRoute {
    #[n(0)]
    network: Address,
    #[n(1)]
    prefix_bits: u8,
    #[n(2)]
    source: Option<Address>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct WireHosts {
    #[n(0)]
    address: Address,
    #[n(1)]
    names: Vec<String>,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct WireVariable {
    #[n(0)]
    name: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    value: Vec<u8>,
}

/// 4 or 16 bytes.
#[derive(Clone, Copy)]
struct Address(IpAddr);

impl<C> Encode<C> for Address {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        match self.0 {
            IpAddr::V4(ip) => e.bytes(&ip.octets())?.ok(),
            IpAddr::V6(ip) => e.bytes(&ip.octets())?.ok(),
        }
    }
}

impl<'b, C> Decode<'b, C> for Address {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let bytes = d.bytes()?;
        match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(ip), _) => Ok(Self(ip.into())),
            (_, Ok(ip)) => Ok(Self(ip.into())),
            _ => Err(decode::Error::message("an address has 4 or 16 bytes")),
        }
    }
}

impl<C> Encode<C> for Machine {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, context: &mut C) -> Result<(), encode::Error<W::Error>> {
        let Self { addresses, routes, resolvers, search, options, hosts, variables } = self.clone();
        let route = |route: MachineRoute| WireRoute {
            network: Address(route.prefix.network()),
            prefix_bits: route.prefix.prefix_len(),
            source: route.source.map(Address),
        };
        let hosts =
            hosts.into_iter().map(|HostsLine { address, names }| WireHosts { address: Address(address), names });
        let variables = variables.into_iter().map(|Variable { name, value }| WireVariable { name, value });
        let wire = Wire {
            addresses: addresses.into_iter().map(Address).collect(),
            routes: routes.into_iter().map(route).collect(),
            resolvers: resolvers.into_iter().map(Address).collect(),
            search,
            options,
            hosts: hosts.collect(),
            variables: variables.collect(),
        };
        wire.encode(e, context)
    }
}

impl<'b, C> Decode<'b, C> for Machine {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, decode::Error> {
        let Wire { addresses, routes, resolvers, search, options, hosts, variables } = Wire::decode(d, context)?;
        let plain = |addresses: Vec<Address>| addresses.into_iter().map(|Address(address)| address).collect();
        let route = |WireRoute { network, prefix_bits, source }: WireRoute| {
            let wrong = |_| decode::Error::message("a prefix is longer than its address");
            let prefix = IpNet::new(network.0, prefix_bits).map_err(wrong)?.trunc();
            Ok(MachineRoute { prefix, source: source.map(|Address(source)| source) })
        };
        let hosts = hosts.into_iter().map(|WireHosts { address, names }| HostsLine { address: address.0, names });
        let variables = variables.into_iter().map(|WireVariable { name, value }| Variable { name, value });
        Ok(Self {
            addresses: plain(addresses),
            routes: routes.into_iter().map(route).collect::<Result<_, decode::Error>>()?,
            resolvers: plain(resolvers),
            search,
            options,
            hosts: hosts.collect(),
            variables: variables.collect(),
        })
    }
}

#[cfg(test)]
mod tests;
