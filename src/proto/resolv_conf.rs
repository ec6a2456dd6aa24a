//! resolv.conf(5): what a profile says of it, out of a file and into one.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use super::{Machine, OPTION_BYTES_MAX, RESOLVERS_MAX, SEARCH_MAX};

/// What a resolver library reads in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// The first of its `nameserver` lines, as many as the C library reads; this machine's own where there is none.
    pub resolvers: Vec<IpAddr>,
    /// Its last `search` or `domain` line, in lower case.
    pub search: Vec<String>,
    /// The words of its `options` lines.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a file; what cannot be read says nothing. An address with a zone (`fe80::1%eth0`) is left out.
    pub fn parse(text: &str) -> Self {
        let mut file = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") if file.resolvers.len() < RESOLVERS_MAX => {
                    file.resolvers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => {
                    let domains = words.take(SEARCH_MAX).map(|domain| domain.trim_matches('.').to_ascii_lowercase());
                    file.search = domains.filter(|domain| is_domain(domain)).collect();
                }
                Some("options") => file.options.extend(words.filter(|word| is_option(word)).map(str::to_owned)),
                _ => {}
            }
        }
        file.options.truncate(SEARCH_MAX);
        if file.resolvers.is_empty() {
            file.resolvers.push(Ipv4Addr::LOCALHOST.into());
        }
        file
    }
}

impl Machine {
    /// A resolv.conf that says the same. What no resolver library takes is left out: a lender wrote it.
    pub fn resolv_conf(&self) -> String {
        let mut text = String::new();
        for resolver in self.resolvers.iter().take(RESOLVERS_MAX) {
            let _ = writeln!(text, "nameserver {resolver}");
        }
        let search: Vec<_> = self.search.iter().filter(|domain| is_domain(domain)).map(String::as_str).collect();
        let options: Vec<_> = self.options.iter().filter(|option| is_option(option)).map(String::as_str).collect();
        for (key, words) in [("search", search), ("options", options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{key} {}", words.join(" "));
            }
        }
        text
    }
}

/// Letters, digits, `-`, `_` and dots: what may stand in a file, and on a terminal.
pub(super) fn is_domain(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=super::HOST_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

fn is_option(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-:".contains(&byte);
    (1..=OPTION_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_as_the_c_library_reads_it() {
        let text = "# nameserver 9.9.9.9\nnameserver 10.0.0.1 # first\nnameserver fe80::1%eth0\nnameserver fd00::1\n\
                    domain one.test\nsearch Two.test. three.test\noptions ndots:2 edns0\noptions trust-ad EVIL\x1b[2J\n";
        let file = ResolvConf::parse(text);
        assert_eq!(file.resolvers, ["10.0.0.1", "fd00::1"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert_eq!(file.search, ["two.test", "three.test"]);
        assert_eq!(file.options, ["ndots:2", "edns0", "trust-ad"]);
        assert_eq!(ResolvConf::parse("search").resolvers, [IpAddr::from(Ipv4Addr::LOCALHOST)]);
        assert_eq!(ResolvConf::parse(&"nameserver 10.0.0.1\n".repeat(9)).resolvers.len(), RESOLVERS_MAX);
    }

    #[test]
    fn what_a_lender_writes_stays_within_its_lines() {
        let hostile = |text: &str| vec![text.to_owned(), "good.test".to_owned()];
        let machine = Machine {
            resolvers: vec!["10.0.0.1".parse().unwrap()],
            search: hostile("a\nnameserver 6.6.6.6"),
            options: vec!["\x1b[2J".to_owned(), "ndots:1".to_owned()],
            ..Machine::default()
        };
        assert_eq!(machine.resolv_conf(), "nameserver 10.0.0.1\nsearch good.test\noptions ndots:1\n");
    }
}
