//! What the lender's machine says about names: /etc/hosts and /etc/resolv.conf, read again when they change.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use crate::lend::{blocking::blocking, file_version::FileVersion};

/// Resolvers that are asked, the first of resolv.conf, as in the C library (MAXNS).
const RESOLVERS_MAX: usize = 3;
/// Domains of a search list that are looked at; people have a handful.
const DOMAINS_MAX: usize = 32;
const DNS_PORT: u16 = 53;

/// The files of this machine.
#[derive(Clone)]
pub(in crate::lend) struct Machine {
    hosts: Arc<Followed<Hosts>>,
    resolvers: Arc<Followed<Vec<SocketAddr>>>,
    search: Arc<Followed<Vec<String>>>,
}

impl Machine {
    pub(in crate::lend) fn new() -> Self {
        let hosts = Followed { path: Path::new("/etc/hosts"), parse: Hosts::parse, seen: Mutex::default() };
        let resolvers =
            Followed { path: Path::new("/etc/resolv.conf"), parse: parse_resolvers, seen: Mutex::default() };
        let search = Followed { path: Path::new("/etc/resolv.conf"), parse: parse_search, seen: Mutex::default() };
        Self { hosts: Arc::new(hosts), resolvers: Arc::new(resolvers), search: Arc::new(search) }
    }

    /// The hosts of now.
    pub(super) async fn hosts(&self) -> Arc<Hosts> {
        read(&self.hosts).await
    }

    /// The domains that the C library appends to a name to find it.
    pub(super) async fn search(&self) -> Arc<Vec<String>> {
        read(&self.search).await
    }

    /// The resolvers of now, in the order in which they are asked.
    pub(super) async fn resolvers(&self) -> Arc<Vec<SocketAddr>> {
        read(&self.resolvers).await
    }
}

async fn read<T: Send + Sync + 'static>(file: &Arc<Followed<T>>) -> Arc<T> {
    let file = file.clone();
    blocking(move || file.read()).await
}

/// A file, and what it held when it was last read.
struct Followed<T> {
    path: &'static Path,
    parse: fn(&str) -> T,
    seen: Mutex<Option<(Option<FileVersion>, Arc<T>)>>,
}

impl<T> Followed<T> {
    /// What it holds now; one that cannot be read is empty.
    fn read(&self) -> Arc<T> {
        // Followed, as it often is a link.
        let version = std::fs::metadata(self.path).ok().map(FileVersion::from);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some((before, parsed)) if *before == version => parsed.clone(),
            _ => {
                let text = std::fs::read(self.path).unwrap_or_default();
                let parsed = Arc::new((self.parse)(&String::from_utf8_lossy(&text)));
                *seen = Some((version, parsed.clone()));
                parsed
            }
        }
    }
}

/// The names of hosts(5).
#[derive(Debug, Default, PartialEq)]
pub(super) struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    fn parse(text: &str) -> Self {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
            for name in words {
                let name = name.to_ascii_lowercase();
                let addresses = hosts.entry(name.strip_suffix('.').unwrap_or(&name).to_owned()).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Self(hosts)
    }

    /// The addresses of a name in lower case; `None` if it is to be asked for elsewhere. Whatever the file says, nobody
    /// else is asked for localhost (RFC 6761 §6.3).
    pub(super) fn of(&self, name: &str) -> Option<Vec<IpAddr>> {
        let is_localhost = || name == "localhost" || name.ends_with(".localhost");
        let loopback = || vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        self.0.get(name).cloned().or_else(|| is_localhost().then(loopback))
    }
}

/// The `nameserver` lines of resolv.conf(5); without one, this machine's own.
fn parse_resolvers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // An address with a zone (fe80::1%eth0) is left out, as one that cannot be read is.
    let addresses = lines.filter_map(|word| word.parse::<IpAddr>().ok());
    let mut resolvers: Vec<_> = addresses.take(RESOLVERS_MAX).map(|address| (address, DNS_PORT).into()).collect();
    if resolvers.is_empty() {
        resolvers.push((Ipv4Addr::LOCALHOST, DNS_PORT).into());
    }
    resolvers
}

/// The last `search` or `domain` line of resolv.conf(5).
fn parse_search(text: &str) -> Vec<String> {
    let mut lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        matches!(words.next(), Some("search" | "domain")).then_some(words)
    });
    let words = lines.next_back().into_iter().flatten().take(DOMAINS_MAX);
    words.map(|domain| domain.trim_matches('.').to_ascii_lowercase()).filter(|domain| !domain.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_search_list_is_the_one_that_counts() {
        assert_eq!(parse_search("domain old.example\nsearch Corp.Example. lan .\n"), ["corp.example", "lan"]);
        assert!(parse_search("nameserver 10.0.0.1\n# search commented\n").is_empty());
    }

    #[test]
    fn hosts_are_read_as_the_c_library_reads_them() {
        let hosts = Hosts::parse(
            "127.0.0.1\tlocalhost\n# 9.9.9.9 old\n10.0.0.1 DB.Internal db. # the database\n::1 db\nnonsense line\n\n10.0.0.1 db\n",
        );
        let addresses = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>());
        assert_eq!(hosts.of("db.internal"), addresses(&["10.0.0.1"]));
        assert_eq!(hosts.of("db"), addresses(&["10.0.0.1", "::1"]));
        assert_eq!(hosts.of("localhost"), addresses(&["127.0.0.1"]));
        assert_eq!(hosts.of("a.localhost"), addresses(&["127.0.0.1", "::1"]));
        assert_eq!(hosts.of("old"), None);
        assert_eq!(hosts.of("notlocalhost"), None);
    }

    #[test]
    fn resolvers_are_the_first_three_or_this_machine() {
        let text = "# nameserver 1.1.1.1\nsearch lan\nnameserver 10.0.0.1\nnameserver x\nnameserver fe80::1%eth0\n\
                    nameserver\tfd00::1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n";
        let expected = ["10.0.0.1:53", "[fd00::1]:53", "10.0.0.2:53"].map(|text| text.parse().unwrap());
        assert_eq!(parse_resolvers(text), expected);
        assert_eq!(parse_resolvers(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_file_is_read_again_when_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path: &'static Path = Box::leak(folder.path().join("resolv.conf").into_boxed_path());
        let file = Followed { path, parse: parse_resolvers, seen: Mutex::default() };
        assert_eq!(*file.read(), parse_resolvers(""));
        std::fs::write(path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(*file.read(), parse_resolvers("nameserver 10.0.0.1"));
        let first = file.read();
        assert!(Arc::ptr_eq(&first, &file.read()), "what has not changed is not read again");
        std::fs::write(folder.path().join("new"), "nameserver 10.0.0.2\n").unwrap();
        std::fs::rename(folder.path().join("new"), path).unwrap();
        assert_eq!(*file.read(), parse_resolvers("nameserver 10.0.0.2"));
    }
}
