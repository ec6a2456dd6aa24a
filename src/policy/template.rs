//! The policies that a new lender begins with.

use crate::proto::UserName;

/// A policy that refuses everything, with every key explained and shown. Lines that begin with `#` and no space are
/// examples.
pub fn starter() -> &'static str {
    include_str!("template/starter.toml")
}

/// A policy that lets `user` do all that the same user of the operating system can, and nobody else anything.
///
/// ```
/// use capuchin::policy::{Policy, for_owner};
/// assert!(Policy::parse(&for_owner(&"ana".parse()?), "policy.toml").is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn for_owner(user: &UserName) -> String {
    include_str!("template/owner.toml").replace("OWNER", user.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Connect, Facts, Host, Policy, Principal, decide},
        proto::DeviceId,
    };

    fn reaches(policy: &Policy, user: &str, address: &str) -> bool {
        let principal = Principal { user: user.parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
        let host = Host::parse(address).unwrap();
        let request = Connect { host, port: 22, addresses: vec![address.parse().unwrap()] };
        decide(policy, &principal, request, &Facts::default()).is_ok()
    }

    #[test]
    fn the_starter_refuses_everything() {
        let policy = Policy::parse(starter(), "policy.toml").unwrap();
        assert!(!reaches(&policy, "alice", "10.0.0.1"));
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
    fn the_owner_reaches_what_the_machine_reaches_and_nobody_else_does() {
        let policy = Policy::parse(&for_owner(&"ana".parse().unwrap()), "policy.toml").unwrap();
        for address in
            ["127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "fd00:ec2::254", "fe80::1", "10.0.0.1", "2001:db8::1"]
        {
            assert!(reaches(&policy, "ana", address), "{address}");
            assert!(!reaches(&policy, "bob", address), "{address}");
        }
    }
}
