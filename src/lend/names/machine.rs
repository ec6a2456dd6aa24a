//! What the lender's machine says about names: /etc/hosts and /etc/resolv.conf, read again when they change.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    lend::{blocking::blocking, file_version::FileVersion},
    proto::{HOST_BYTES_MAX, HOSTS_BYTES_MAX, HostsLine, ResolvConf},
};

const DNS_PORT: u16 = 53;

/// The files of this machine.
#[derive(Clone)]
pub(in crate::lend) struct Machine {
    hosts: Arc<Followed<Hosts>>,
    lines: Arc<Followed<Vec<HostsLine>>>,
    resolver: Arc<Followed<ResolvConf>>,
}

impl Machine {
    pub(in crate::lend) fn new() -> Self {
        let (hosts, resolv_conf) = (Path::new("/etc/hosts"), Path::new("/etc/resolv.conf"));
        Self {
            hosts: Arc::new(Followed { path: hosts, parse: Hosts::parse, seen: Mutex::default() }),
            lines: Arc::new(Followed { path: hosts, parse: first_lines, seen: Mutex::default() }),
            resolver: Arc::new(Followed { path: resolv_conf, parse: ResolvConf::parse, seen: Mutex::default() }),
        }
    }

    /// The hosts of now and resolv.conf, looked at together: each question asks.
    pub(super) async fn now(&self) -> (Arc<Hosts>, Arc<ResolvConf>) {
        let (hosts, resolver) = (self.hosts.clone(), self.resolver.clone());
        blocking(move || (hosts.read(), resolver.read())).await
    }

    /// The first lines of hosts, as many as a profile may have.
    pub(in crate::lend) async fn hosts_lines(&self) -> Arc<Vec<HostsLine>> {
        read(&self.lines).await
    }

    /// What resolv.conf says now.
    pub(in crate::lend) async fn resolver_file(&self) -> Arc<ResolvConf> {
        read(&self.resolver).await
    }
}

/// The resolvers that this file names, in the order in which they are asked.
pub(super) fn resolvers(file: &ResolvConf) -> Arc<[SocketAddr]> {
    file.resolvers.iter().map(|address| (*address, DNS_PORT).into()).collect()
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
pub(super) struct Hosts {
    addresses: HashMap<String, Vec<IpAddr>>,
    /// As the first line with the address has them.
    names: HashMap<IpAddr, Vec<String>>,
}

impl Hosts {
    fn parse(text: &str) -> Self {
        let mut hosts = Self::default();
        for HostsLine { address, names } in lines(text) {
            for name in &names {
                let addresses = hosts.addresses.entry(name.clone()).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if !names.is_empty() {
                hosts.names.entry(address).or_insert(names);
            }
        }
        hosts
    }

    /// The names of an address, the canonical one first; `None` if they are to be asked for elsewhere.
    pub(super) fn names_of(&self, address: IpAddr) -> Option<&[String]> {
        self.names.get(&address).map(Vec::as_slice)
    }

    /// The addresses of a name in lower case; `None` if it is to be asked for elsewhere. Whatever the file says, nobody
    /// else is asked for localhost (RFC 6761 §6.3).
    pub(super) fn of(&self, name: &str) -> Option<Vec<IpAddr>> {
        let is_localhost = || name == "localhost" || name.ends_with(".localhost");
        let loopback = || vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        self.addresses.get(name).cloned().or_else(|| is_localhost().then(loopback))
    }
}

/// The lines of hosts(5), with their names in lower case and without a trailing dot.
fn lines(text: &str) -> impl Iterator<Item = HostsLine> {
    text.lines().filter_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        let names = words.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
        Some(HostsLine { address, names: names.filter(|name| (1..=HOST_BYTES_MAX).contains(&name.len())).collect() })
    })
}

/// As many of its first lines as a profile may have.
fn first_lines(text: &str) -> Vec<HostsLine> {
    let mut left = HOSTS_BYTES_MAX;
    let fits = |line: &HostsLine| {
        let cost = line.cost();
        let fits = cost <= left;
        left = left.saturating_sub(cost);
        fits
    };
    lines(text).take_while(fits).filter(|line| !line.names.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let names = |address: &str| hosts.names_of(address.parse().unwrap()).map(<[String]>::to_vec);
        assert_eq!(names("10.0.0.1"), Some(vec!["db.internal".to_owned(), "db".to_owned()]), "those of the first line");
        assert_eq!(names("9.9.9.9"), None);
    }

    #[test]
    fn a_profile_has_the_first_lines_of_a_long_file() {
        let text = "10.0.0.1 a\n10.0.0.2\n".to_owned() + &"0.0.0.0 an-unwanted-name.example\n".repeat(5000);
        let lines = first_lines(&text);
        assert_eq!(lines[0], HostsLine { address: "10.0.0.1".parse().unwrap(), names: vec!["a".to_owned()] });
        assert!((100..1000).contains(&lines.len()) && lines.iter().all(|line| !line.names.is_empty()));
    }

    #[test]
    fn a_file_is_read_again_when_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path: &'static Path = Box::leak(folder.path().join("resolv.conf").into_boxed_path());
        let file = Followed { path, parse: ResolvConf::parse, seen: Mutex::default() };
        assert_eq!(*file.read(), ResolvConf::parse(""));
        std::fs::write(path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(*file.read(), ResolvConf::parse("nameserver 10.0.0.1"));
        let first = file.read();
        assert!(Arc::ptr_eq(&first, &file.read()), "what has not changed is not read again");
        std::fs::write(folder.path().join("new"), "nameserver 10.0.0.2\n").unwrap();
        std::fs::rename(folder.path().join("new"), path).unwrap();
        assert_eq!(*file.read(), ResolvConf::parse("nameserver 10.0.0.2"));
    }
}
