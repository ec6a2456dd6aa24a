//! What the lender answered in a session counts as a fact about an address.

use super::*;
use crate::policy::{HostName, may_be_denied_by_alias};

fn name(text: &str) -> HostName {
    match Host::parse(text).unwrap() {
        Host::Name(name) => name,
        Host::Address(_) => panic!("{text} is an address"),
    }
}

fn answered(pairs: &[(&str, &str)]) -> Vec<Answered> {
    let answer =
        |(host, address): &(&str, &str)| Answered { name: name(host), address: address.parse().unwrap(), alias: false };
    pairs.iter().map(answer).collect()
}

fn ask(policy: &Policy, address: &str, pairs: &[(&str, &str)]) -> Result<Granted<Connect>, Refusal> {
    let answered = answered(pairs);
    let facts = Facts { answered: &answered, ..Facts::default() };
    decide(policy, &user("ana"), connect(address, 80, &[address]), &facts)
}

#[test]
fn an_address_that_was_answered_for_a_name_is_judged_by_the_rule_for_the_name() {
    let policy = ana_may(&["db.internal:80"], &[]);
    let granted = ask(&policy, "10.0.0.1", &[("db.internal", "10.0.0.1")]).unwrap();
    assert_eq!(granted.rule().text, "connect = \"db.internal:80\"");
    assert_eq!(granted.request().names, [name("db.internal")]);
    assert!(ask(&policy, "::ffff:10.0.0.1", &[("db.internal", "10.0.0.1")]).is_ok());
    assert!(ask(&policy, "10.0.0.1", &[("DB.internal.", "::ffff:10.0.0.1")]).is_ok());
    for facts in [&[][..], &[("db.internal", "10.0.0.2")], &[("web.internal", "10.0.0.1")]] {
        assert_eq!(ask(&policy, "10.0.0.1", facts).unwrap_err().reason, Reason::NoRule, "{facts:?}");
    }
    let other_port = decide(
        &policy,
        &user("ana"),
        connect("10.0.0.1", 81, &["10.0.0.1"]),
        &Facts { answered: &answered(&[("db.internal", "10.0.0.1")]), ..Facts::default() },
    );
    assert!(other_port.is_err());
}

/// Attack 43: the name is the attacker's, and leads to what no name may open.
#[test]
fn an_answer_never_opens_a_special_range_or_the_lenders_listener() {
    let policy = ana_may(&["*.evil.example:80", "*:80"], &[]);
    for address in ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "0.0.0.0"] {
        let refusal = ask(&policy, address, &[("a.evil.example", address)]).unwrap_err();
        assert!(matches!(refusal.reason, Reason::SpecialRange { .. }), "{address}: {refusal}");
    }
    let own = ["10.0.0.5:80".parse().unwrap()];
    let answered = answered(&[("a.evil.example", "10.0.0.5")]);
    let facts = Facts { own: &own, answered: &answered, ..Facts::default() };
    let refusal = decide(&policy, &user("ana"), connect("10.0.0.5", 80, &["10.0.0.5"]), &facts).unwrap_err();
    assert!(matches!(refusal.reason, Reason::OwnListener { .. }), "{refusal}");
}

#[test]
fn a_denied_name_denies_the_address_that_was_answered_for_it() {
    let policy = ana_may(&["*:80"], &["secret.internal:*"]);
    assert!(ask(&policy, "10.0.0.1", &[]).is_ok());
    let both = [("web.internal", "10.0.0.1"), ("secret.internal", "10.0.0.1")];
    assert_eq!(ask(&policy, "10.0.0.1", &both).unwrap_err().reason, Reason::Denied);
}

/// Attack 48: an alias that leads to a denied name is denied, and an alias that leads to an allowed one is not allowed.
#[test]
fn aliases_can_be_denied_and_allow_nothing() {
    let through = |policy: &Policy, alias: &str| {
        let request = Connect { aliases: vec![name(alias)], ..connect("www.example", 80, &["10.0.0.1"]) };
        decide(policy, &user("ana"), request, &Facts::default()).map(|_| ()).map_err(|refusal| refusal.reason)
    };
    let policy = ana_may(&["www.example:80"], &["*.secret.internal:*"]);
    assert_eq!(through(&policy, "a.SECRET.internal."), Err(Reason::Denied));
    assert_eq!(through(&policy, "public.internal"), Ok(()));
    assert_eq!(through(&ana_may(&["db.internal:80"], &[]), "db.internal"), Err(Reason::NoRule));
}

/// As attack 48, by a program that resolves for itself: the alias stands among the answers of the session.
#[test]
fn an_alias_that_was_answered_can_be_denied_and_allows_nothing() {
    let through = |policy: &Policy| {
        let address = "10.0.0.1".parse().unwrap();
        let answered = [("www.example", false), ("db.secret.internal", true)].map(|(text, alias)| Answered {
            name: name(text),
            address,
            alias,
        });
        let facts = Facts { answered: &answered, ..Facts::default() };
        let granted = decide(policy, &user("ana"), connect("10.0.0.1", 80, &["10.0.0.1"]), &facts);
        granted.map_err(|refusal| refusal.reason)
    };
    let granted = through(&ana_may(&["www.example:80"], &[])).unwrap();
    assert_eq!(
        (&granted.request().names, &granted.request().aliases),
        (&vec![name("www.example")], &vec![name("db.secret.internal")])
    );
    let denied = ana_may(&["*:80"], &["*.secret.internal:*"]);
    assert!(
        granted.again(&denied, &user("ana"), &Facts::default()).is_err(),
        "a handle is judged by its aliases again"
    );
    assert_eq!(through(&denied).unwrap_err(), Reason::Denied);
    assert_eq!(through(&ana_may(&["db.secret.internal:80"], &[])).unwrap_err(), Reason::NoRule);
}

#[test]
fn aliases_matter_only_where_a_deny_names_hosts_on_that_port() {
    let matters = |denies: &[&str], host: &str| {
        let policy = ana_may(&["*:*"], denies);
        may_be_denied_by_alias(&policy, &user("ana"), Transport::Tcp, &Host::parse(host).unwrap(), 80)
    };
    assert!(matters(&["*.secret.internal:80"], "www.example") && matters(&["secret.internal:*"], "www.example"));
    assert!(!matters(&[], "www.example") && !matters(&["10.0.0.0/8:*", "*.secret.internal:81"], "www.example"));
    assert!(!matters(&["*.secret.internal:80"], "10.0.0.1"));
}
