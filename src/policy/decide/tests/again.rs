//! Grants that live on while the policy changes.

use super::*;
use crate::policy::{Grant, Kind};

fn again(granted: &Granted<Connect>, policy: &Policy) -> Result<RuleRef, Reason> {
    granted.again(policy, &user("ana"), &Facts::default()).map_err(|refusal| refusal.reason)
}

fn granted(policy: &Policy, host: &str, resolved: &[&str]) -> Granted<Connect> {
    decide(policy, &user("ana"), connect(host, 80, resolved), &Facts::default()).unwrap()
}

#[test]
fn a_grant_stands_while_a_rule_covers_it_and_names_the_rule_of_the_new_policy() {
    let live = granted(&ana_may(&["db.internal:80"], &[]), "db.internal", &["10.0.0.1"]);
    let rule = again(&live, &ana_may(&["a:1", "*.internal:*"], &[])).unwrap();
    assert_eq!(rule.text, "connect = \"*.internal:*\"");
    assert_eq!(again(&live, &ana_may(&["web.internal:80"], &[])), Err(Reason::NoRule));
    assert_eq!(again(&live, &ana_may(&["db.internal:80"], &["10.0.0.0/8:*"])), Err(Reason::Denied));
    assert_eq!(again(&live, &Policy::default()), Err(Reason::NoRule));
}

#[test]
fn all_that_was_granted_must_still_be_or_what_the_handle_rests_on() {
    let live = granted(&ana_may(&["db.internal:80"], &[]), "db.internal", &["10.0.0.1", "10.0.0.2"]);
    let narrower = ana_may(&["db.internal:80"], &["10.0.0.1:*"]);
    assert_eq!(again(&live, &narrower), Err(Reason::Denied));
    let at = |address: &str| live.clone().at_address(address.parse().unwrap());
    assert_eq!(again(&at("10.0.0.1").unwrap(), &narrower), Err(Reason::Denied));
    assert!(again(&at("::ffff:10.0.0.2").unwrap(), &narrower).is_ok());
    assert!(at("10.0.0.3").is_none(), "it was not granted");
}

#[test]
fn an_answer_that_was_forgotten_still_carries_the_grant_that_it_made() {
    let policy = ana_may(&["db.internal:80"], &[]);
    let Host::Name(name) = Host::parse("db.internal").unwrap() else { panic!("a name") };
    let answered = [Answered { name, address: "10.0.0.1".parse().unwrap(), alias: false }];
    let facts = Facts { answered: &answered, ..Facts::default() };
    let live = decide(&policy, &user("ana"), connect("10.0.0.1", 80, &["10.0.0.1"]), &facts).unwrap();
    assert!(again(&live, &policy).is_ok());
    assert_eq!(again(&live, &ana_may(&["db.internal:80"], &["db.internal:*"])), Err(Reason::Denied));
    assert_eq!(again(&live, &Policy::default()), Err(Reason::NoRule));
}

#[test]
fn a_timed_grant_carries_a_handle_until_it_ends() {
    let grant = || Grant::parse("ana".parse().unwrap(), Kind::Connect, "db.internal:80", "grant 7").unwrap();
    let live = granted(&Policy::default().with_grants([grant()]), "db.internal", &["10.0.0.1"]);
    assert_eq!(live.rule().to_string(), "grant 7 connect = \"db.internal:80\"");
    assert!(again(&live, &ana_may(&["a:1"], &[]).with_grants([grant()])).is_ok());
    assert_eq!(again(&live, &ana_may(&["a:1"], &[])), Err(Reason::NoRule));
}
