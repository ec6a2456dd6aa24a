//! The policies that a new lender begins with.

use crate::proto::UserName;

/// A policy that refuses everything, with every key explained and shown. Lines that begin with `#` and no space are
/// examples.
pub fn starter() -> &'static str {
    include_str!("template/starter.toml")
}

/// A policy that lets `user` do all that the same user of the operating system can, and nobody else anything. `is_root`: that
/// user is root, and what is lent to him is root's.
///
/// ```
/// use capuchin::policy::{Policy, for_owner};
/// assert!(Policy::parse(&for_owner(&"ana".parse()?, false), "policy.toml").is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn for_owner(user: &UserName, is_root: bool) -> String {
    let root = if is_root { include_str!("template/root.toml") } else { "" };
    include_str!("template/owner.toml").replace("OWNER", user.as_str()).replace("ROOT\n", root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{AnyRequest, Facts, Kind, PATTERNS_MAX, POLICY_BYTES_MAX, Policy, Principal, decide},
        proto::DeviceId,
    };

    fn may(policy: &Policy, user: &str, kind: Kind, target: &str) -> bool {
        let principal = Principal { user: user.parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
        let request = AnyRequest::parse(kind, target).unwrap();
        let address = target.rsplit_once(':').and_then(|(host, _)| host.trim_matches(['[', ']']).parse().ok());
        let request = request.resolved(address.into_iter().collect());
        decide(policy, &principal, request, &Facts::default()).is_ok()
    }

    /// One request of every kind.
    const EVERY_KIND: [(Kind, &str); 16] = [
        (Kind::Connect, "10.0.0.1:22"),
        (Kind::Udp, "10.0.0.1:53"),
        (Kind::Listen, "10.0.0.1:80"),
        (Kind::Unix, "/run/app.sock"),
        (Kind::UnixListen, "/tmp/a"),
        (Kind::Resolve, "db.internal"),
        (Kind::Read, "/etc/passwd"),
        (Kind::Write, "/tmp/a"),
        (Kind::Exec, "/bin/true x"),
        (Kind::Shell, ""),
        (Kind::Python, ""),
        (Kind::EnvSend, "LANG"),
        (Kind::EnvRead, "HOME"),
        (Kind::ServiceOffer, "a"),
        (Kind::ServiceUse, "a"),
        (Kind::Profile, ""),
    ];

    #[test]
    fn the_starter_refuses_everything() {
        let policy = Policy::parse(starter(), "policy.toml").unwrap();
        for (kind, target) in EVERY_KIND {
            assert!(!may(&policy, "alice", kind, target), "{kind}");
        }
    }

    #[test]
    fn the_starter_names_the_limits_of_a_file() {
        assert_eq!((PATTERNS_MAX, POLICY_BYTES_MAX), (10_000, 1 << 20));
        assert!(starter().contains("at most 10,000 patterns and names, and 1 MiB"));
    }

    #[test]
    fn the_examples_of_the_starter_parse_and_show_every_key() {
        let example =
            |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned();
        let text: String = starter().lines().map(|line| example(line) + "\n").collect();
        Policy::parse(&text, "policy.toml").unwrap();
        for place in
            [super::super::rule::Place::Allow, super::super::rule::Place::Deny, super::super::rule::Place::Test]
        {
            for key in place.keys() {
                assert!(text.contains(&format!("\n{key} = ")), "{key}");
            }
        }
    }

    #[test]
    fn the_owner_may_what_the_user_of_the_machine_may_and_nobody_else_does() {
        let policy = |is_root| Policy::parse(&for_owner(&"ana".parse().unwrap(), is_root), "policy.toml").unwrap();
        let terms = |is_root| policy(is_root).terms(&"ana".parse().unwrap());
        assert!(terms(true).allow_root && !terms(false).allow_root);
        let policy = policy(false);
        let special =
            ["127.0.0.1", "[::1]", "0.0.0.0", "169.254.169.254", "100.100.100.200", "[fd00:ec2::254]", "[fe80::1]"];
        let special = special.map(|address| format!("{address}:22"));
        let reached =
            special.iter().flat_map(|target| [(Kind::Connect, target.as_str()), (Kind::Udp, target.as_str())]);
        let bound = [(Kind::Listen, "0.0.0.0:80"), (Kind::Listen, "[::1]:0"), (Kind::Udp, "224.0.0.1:5353")];
        for (kind, target) in EVERY_KIND.into_iter().chain(reached).chain(bound) {
            assert!(may(&policy, "ana", kind, target), "{kind} {target}");
            assert!(!may(&policy, "bob", kind, target), "{kind} {target}");
        }
        assert!(!may(&policy, "ana", Kind::Read, "/proc/self/mem"), "it must be spelled out");
    }
}
