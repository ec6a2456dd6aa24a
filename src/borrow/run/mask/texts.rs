//! The texts of the files that a program sees.

use std::{fmt::Write as _, net::IpAddr};

use crate::proto::{HostsLine, Machine};

/// hosts(5): the lender's names of loopback addresses, this machine's own name, and the rest as comments.
pub(super) fn hosts(machine: &Machine, own_name: &str) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    let (local, other): (Vec<_>, Vec<_>) = machine.hosts.iter().partition(|line| is_loopback(line.address));
    for line in &local {
        write_line(&mut text, "", line, |name| name != "localhost");
    }
    // Many programs look themselves up, and uname still says what this machine is called.
    let is_told = local.iter().any(|line| line.names.iter().any(|name| name == own_name));
    if is_name(own_name) && own_name != "localhost" && !is_told {
        let _ = writeln!(text, "127.0.1.1 {own_name}");
    }
    if !other.is_empty() {
        text.push_str("# Asked for by name, and answered from the lender's hosts:\n");
    }
    for line in other {
        write_line(&mut text, "# ", line, |_| true);
    }
    text
}

fn write_line(text: &mut String, before: &str, line: &HostsLine, counts: impl Fn(&str) -> bool) {
    let names: Vec<_> = line.names.iter().map(String::as_str).filter(|name| is_name(name) && counts(name)).collect();
    if !names.is_empty() {
        let _ = writeln!(text, "{before}{} {}", line.address, names.join(" "));
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// What may stand in the file, and on a terminal: a lender wrote it.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// nsswitch.conf(5) with names from hosts and from resolvers only: no other module asks where we hear it.
pub(super) fn nsswitch(own: &str) -> String {
    let mut text = String::new();
    for line in own.lines().filter(|line| !line.trim_start().starts_with("hosts:")) {
        let _ = writeln!(text, "{line}");
    }
    text.push_str("hosts: files dns\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(address: &str, names: &[&str]) -> HostsLine {
        HostsLine { address: address.parse().unwrap(), names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_name_of_the_lender_is_asked_for_and_not_read() {
        let machine = Machine {
            hosts: vec![
                line("127.0.0.1", &["localhost"]),
                line("127.0.1.1", &["lab.example", "lab"]),
                line("10.0.0.7", &["db.internal", "evil\n6.6.6.6 bank.example"]),
            ],
            ..Machine::default()
        };
        assert_eq!(
            hosts(&machine, "laptop"),
            "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 lab.example lab\n127.0.1.1 laptop\n\
             # Asked for by name, and answered from the lender's hosts:\n# 10.0.0.7 db.internal\n"
        );
        assert!(!hosts(&machine, "lab").contains("127.0.1.1 lab\n"), "the lender's word counts");
    }

    #[test]
    fn only_the_hosts_line_of_nsswitch_is_another() {
        let own = "passwd: files systemd\n  hosts: mymachines resolve [!UNAVAIL=return] files mdns4 dns\n# end\n";
        assert_eq!(nsswitch(own), "passwd: files systemd\n# end\nhosts: files dns\n");
        assert_eq!(nsswitch(""), "hosts: files dns\n");
    }
}
