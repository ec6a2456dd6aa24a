use std::net::IpAddr;

use super::*;
use crate::policy::{Connect, Host, HostError, Kind, Reason, Transport, may_match};

fn policy(rules: &str) -> Policy {
    Policy::parse(rules, "policy.toml").unwrap()
}

/// A policy that allows ana `allow` and denies her `deny`, each a list of patterns.
fn ana_may(allow: &[&str], deny: &[&str]) -> Policy {
    policy(&format!("[[allow]]\nwho = \"ana\"\nconnect = {allow:?}\n[[deny]]\nwho = \"ana\"\nconnect = {deny:?}\n"))
}

fn user(name: &str) -> Principal {
    Principal { user: name.parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn connect(host: &str, port: u16, resolved: &[&str]) -> Connect {
    Connect::new(Host::parse(host).unwrap(), port, addresses(resolved))
}

/// What is left of `resolved` for ana.
fn kept(policy: &Policy, host: &str, port: u16, resolved: &[&str]) -> Result<Vec<IpAddr>, Refusal> {
    decide(policy, &user("ana"), connect(host, port, resolved), &Facts::default()).map(|it| it.into_parts().0.addresses)
}

/// Whether ana reaches one literal address.
fn reaches(policy: &Policy, address: &str) -> bool {
    let address = address.parse::<IpAddr>().unwrap();
    let request = Connect::new(Host::Address(address), 80, vec![address]);
    decide(policy, &user("ana"), request, &Facts::default()).is_ok()
}

fn reason(policy: &Policy, host: &str, port: u16, resolved: &[&str]) -> Reason {
    kept(policy, host, port, resolved).unwrap_err().reason
}

#[test]
fn no_match_is_no() {
    for policy in [Policy::default(), ana_may(&["other.internal:80"], &[])] {
        assert_eq!(reason(&policy, "db.internal", 80, &["10.0.0.1"]), Reason::NoRule);
    }
    assert_eq!(reason(&ana_may(&["*:*"], &[]), "db.internal", 0, &["10.0.0.1"]), Reason::NoRule, "port 0 is no port");
}

#[test]
fn a_rule_holds_for_its_users_and_its_groups_and_for_nobody_else() {
    let policy =
        policy("groups.dev = [\"ana\"]\n[[allow]]\nwho = [\"group:dev\", \"bob\"]\nconnect = \"db.internal:80\"\n");
    for (name, allowed) in [("ana", true), ("bob", true), ("eve", false), ("dev", false)] {
        let decision = decide(&policy, &user(name), connect("db.internal", 80, &["10.0.0.1"]), &Facts::default());
        assert_eq!(decision.is_ok(), allowed, "{name}");
    }
}

#[test]
fn deny_beats_allow_by_name_by_port_and_by_address() {
    for deny in ["db.internal:80", "*.internal:*", "*:80", "10.0.0.1:80", "10.0.0.0/8:1-100"] {
        let policy = ana_may(&["*:*", "db.internal:80", "10.0.0.1:80"], &[deny]);
        let refusal = kept(&policy, "db.internal", 80, &["10.0.0.1"]).unwrap_err();
        assert_eq!(refusal.reason, Reason::Denied, "{deny}");
        assert_eq!(refusal.rule.unwrap().to_string(), format!("policy.toml:6 connect = \"{deny}\""));
    }
}

#[test]
fn a_grant_names_its_rule_and_holds_the_request() {
    let policy = ana_may(&["db.internal:5432"], &[]);
    let request = connect("DB.internal.", 5432, &["10.0.0.1"]);
    let granted = decide(&policy, &user("ana"), request.clone(), &Facts::default()).unwrap();
    assert_eq!(granted.request(), &request);
    assert_eq!(granted.rule().to_string(), "policy.toml:3 connect = \"db.internal:5432\"");
}

#[test]
fn a_name_without_an_address_is_refused_as_such() {
    assert_eq!(reason(&ana_may(&["*:*"], &[]), "db.internal", 80, &[]), Reason::NothingResolved);
}

/// Attacks 42 and 45.
#[test]
fn a_name_pattern_never_opens_a_special_range_whatever_form_the_address_has() {
    for allow in [&["*:*"][..], &["evil.internal:*"], &["*.internal:80", "0.0.0.0/0:*", "[::/0]:*", "169.0.0.0/8:*"]] {
        let policy = ana_may(allow, &[]);
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::",
            "127.0.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "fd00:ec2::254",
        ] {
            let reason = reason(&policy, "evil.internal", 80, &[address]);
            assert!(matches!(reason, Reason::SpecialRange { .. }), "{allow:?} {address}: {reason:?}");
        }
    }
}

#[test]
fn an_address_rule_inside_a_special_range_opens_what_it_covers() {
    for rule in ["169.254.169.254:80", "169.254.0.0/16:80", "[::ffff:169.254.169.254]:80"] {
        let policy = ana_may(&["*:*", rule], &[]);
        assert!(reaches(&policy, "169.254.169.254") && reaches(&policy, "::ffff:169.254.169.254"), "{rule}");
        assert!(!reaches(&policy, "127.0.0.1"), "{rule}");
        assert!(!reaches(&policy, "64:ff9b::169.254.169.254"), "{rule} says nothing about a gateway");
        assert!(kept(&policy, "meta.internal", 80, &["169.254.169.254"]).is_ok(), "{rule}");
    }
    assert!(reaches(&ana_may(&["[64:ff9b::a9fe:a9fe]:80"], &[]), "64:ff9b::169.254.169.254"));
    assert!(!reaches(&ana_may(&["[64:ff9b::/96]:80"], &[]), "64:ff9b::169.254.169.254"));
}

#[test]
fn a_star_covers_literal_addresses_outside_the_special_ranges() {
    let policy = ana_may(&["*:80"], &[]);
    assert!(reaches(&policy, "10.0.0.1") && reaches(&policy, "2001:db8::1"));
    assert!(!reaches(&ana_may(&["*.internal:80"], &[]), "10.0.0.1"));
}

/// Attack 44.
#[test]
fn of_mixed_answers_only_the_allowed_ones_are_kept_once_and_in_order() {
    let policy = ana_may(&["*.internal:80"], &["10.0.0.2:*"]);
    let answers =
        ["127.0.0.1", "10.0.0.3", "10.0.0.2", "::ffff:10.0.0.3", "::ffff:10.0.0.2", "fd00::1", "169.254.169.254"];
    assert_eq!(kept(&policy, "db.internal", 80, &answers), Ok(addresses(&["10.0.0.3", "fd00::1"])));
}

#[test]
fn the_address_rule_and_not_the_name_decides_where_no_rule_names_the_host() {
    let policy = ana_may(&["10.0.0.0/8:80"], &[]);
    assert_eq!(kept(&policy, "db.internal", 80, &["11.0.0.1", "10.0.0.1"]), Ok(addresses(&["10.0.0.1"])));
    assert_eq!(reason(&policy, "db.internal", 80, &["11.0.0.1"]), Reason::NoRule);
}

/// Attack 46: numbers never become a host, and so never a request.
#[test]
fn numbers_that_resolvers_read_as_loopback_are_no_host() {
    for text in ["2130706433", "0x7f.1", "0177.1", "127.1", "0", "0x7f000001", "0177.0.0.1"] {
        let error = Host::parse(text).unwrap_err();
        assert!(matches!(error, HostError::Numeric(_)), "{text}");
        assert_eq!(Refusal::bad_host(Kind::Connect, text, error.clone()).reason, Reason::BadHost(error));
    }
}

/// Attack 47.
#[test]
fn a_deny_covers_an_address_in_every_form_that_carries_it() {
    let policy = ana_may(&["*:*", "[::/0]:*"], &["10.0.0.1:*"]);
    for form in [
        "10.0.0.1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::10.0.0.1",
        "2002:a00:1::5",
        "2001:0:102:304::f5ff:fffe",
        "2001:db8::5efe:10.0.0.1",
    ] {
        assert_eq!(reason(&policy, "db.internal", 80, &[form]), Reason::Denied, "{form}");
        assert!(!reaches(&policy, form), "{form}");
    }
    assert!(reaches(&policy, "10.0.0.2") && reaches(&policy, "64:ff9b::10.0.0.2"));
}

/// A connection to the unspecified address is one to loopback.
#[test]
fn a_deny_of_loopback_covers_the_unspecified_address() {
    let policy = ana_may(&["0.0.0.0:*", "[::]:*"], &["127.0.0.0/8:80", "[::1]:80"]);
    for host in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
        assert!(!reaches(&policy, host), "{host}");
        assert_eq!(reason(&policy, host, 80, &[host]), Reason::Denied, "{host}");
        assert!(kept(&policy, host, 81, &[host]).is_ok(), "{host}");
    }
}

/// Attack 48.
#[test]
fn a_denied_name_is_denied_in_every_spelling_and_before_it_is_resolved() {
    let policy = ana_may(&["*:*"], &["bücher.example:*", "Secret.Internal.:*"]);
    for name in ["secret.internal", "SECRET.internal.", "ｓecret。internal", "BÜCHER.example.", "xn--bcher-kva.example"]
    {
        let host = Host::parse(name).unwrap();
        assert_eq!(
            may_match(&policy, &user("ana"), Transport::Tcp, &host, 80).unwrap_err().reason,
            Reason::Denied,
            "{name}"
        );
        assert_eq!(reason(&policy, name, 80, &["10.0.0.1"]), Reason::Denied, "{name}");
    }
}

/// Attack 49.
#[test]
fn the_lenders_own_listener_is_opened_by_its_address_and_port_alone() {
    let own = ["0.0.0.0:7443".parse().unwrap(), "10.0.0.5:7443".parse().unwrap()];
    let judge = |allow: &str, address: &str, port| {
        let facts = Facts { own: &own, ..Facts::default() };
        let request = connect(address, port, &[address]);
        decide(&ana_may(&["*:*", allow], &[]), &user("ana"), request, &facts).map_err(|it| it.reason)
    };
    for (allow, address) in [
        ("*:7443", "10.0.0.5"),
        ("10.0.0.0/8:7443", "10.0.0.5"),
        ("10.0.0.5:*", "10.0.0.5"),
        ("10.0.0.5:7443-7444", "10.0.0.5"),
        ("127.0.0.0/8:*", "127.0.0.1"),
        ("0.0.0.0/8:*", "0.0.0.0"),
        ("10.0.0.5:7443", "64:ff9b::10.0.0.5"),
    ] {
        assert!(matches!(judge(allow, address, 7443), Err(Reason::OwnListener { .. })), "{allow} {address}");
    }
    for (allow, address, port) in [
        ("10.0.0.5:7443", "10.0.0.5", 7443),
        ("127.0.0.1:7443", "127.0.0.1", 7443),
        ("127.0.0.0/8:*", "127.0.0.1", 22),
        ("*:*", "10.0.0.6", 7443),
    ] {
        assert!(judge(allow, address, port).is_ok(), "{allow} {address}:{port}");
    }
}

#[test]
fn a_name_that_no_rule_could_allow_is_refused_before_it_is_resolved() {
    let policy = ana_may(&["db.internal:5432", "10.0.0.0/8:443"], &["*:25"]);
    let ask = |host: &str, port| may_match(&policy, &user("ana"), Transport::Tcp, &Host::parse(host).unwrap(), port);
    assert!(ask("db.internal", 5432).is_ok());
    assert!(ask("any.example", 443).is_ok(), "it may resolve into 10.0.0.0/8");
    assert_eq!(ask("any.example", 5432).unwrap_err().reason, Reason::NoRule);
    assert_eq!(ask("db.internal", 25).unwrap_err().reason, Reason::Denied);
    assert!(ask("11.0.0.1", 443).is_ok(), "an address needs no resolving: it is decided at once");
}

#[test]
fn a_refusal_reads_like_a_compiler_and_names_the_line_to_add() {
    let policy = ana_may(&["api.internal:22", "db.internal:5432"], &[]);
    assert_eq!(
        kept(&policy, "db.internal", 22, &["10.0.0.1"]).unwrap_err().explain(),
        [
            "connect db.internal:22 is refused: no rule allows it",
            "  nearest: policy.toml:3 connect = \"db.internal:5432\"",
            "  help: ask the lender's admin to add `connect = [\"db.internal:22\"]` to an [[allow]] of policy.toml, \
             or to allow it for an hour:",
            "  capuchind allow ana connect db.internal:22 --for 1h",
        ]
    );
    assert_eq!(
        kept(&policy, "db.internal", 5432, &["::1"]).unwrap_err().explain(),
        [
            "connect db.internal:5432 is refused: ::1 is loopback, which a rule must name by its address",
            "  rule: policy.toml:3 connect = \"db.internal:5432\"",
            "  help: ask the lender's admin to add `connect = [\"[::1]:5432\"]` to an [[allow]] of policy.toml, \
             or to allow it for an hour:",
            "  capuchind allow ana connect '[::1]:5432' --for 1h",
        ]
    );
    let same_port = kept(&policy, "new.example", 5432, &["10.0.0.1"]).unwrap_err();
    assert_eq!(same_port.nearest.unwrap().text, "connect = \"db.internal:5432\"");
}

#[test]
fn a_borrower_is_shown_nothing_of_the_rules_of_others() {
    let policy = policy(
        "[[allow]]\nwho = \"bob\"\nconnect = [\"db.internal:5432\", \"db.internal:22\"]\n[[deny]]\nwho = \"bob\"\nconnect = \"*:*\"",
    );
    let refusal = kept(&policy, "db.internal", 22, &["10.0.0.1"]).unwrap_err();
    assert_eq!((refusal.rule.as_ref(), refusal.nearest.as_ref()), (None, None));
    assert_eq!(refusal.explain(), kept(&Policy::default(), "db.internal", 22, &["10.0.0.1"]).unwrap_err().explain());
}

#[test]
fn a_huge_dns_answer_is_judged_up_to_its_bound() {
    let answers: Vec<IpAddr> = (0..10_000u32).map(|n| IpAddr::V4((0x0a00_0000 + n).into())).collect();
    let request = Connect::new(Host::parse("db.internal").unwrap(), 80, answers);
    let granted = decide(&ana_may(&["*:*"], &[]), &user("ana"), request, &Facts::default()).unwrap();
    assert_eq!(granted.request().addresses.len(), crate::policy::ADDRESSES_MAX);
}

mod again;
mod answered;
mod grammar;
mod properties;
