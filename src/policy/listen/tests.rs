use super::*;
use crate::{
    policy::{AnyRequest, decide},
    proto::DeviceId,
};

fn ana() -> Principal {
    Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) }
}

fn policy(allow: &[&str], deny: &[&str]) -> Policy {
    let text = format!("[[allow]]\nwho = \"ana\"\nlisten = {allow:?}\n[[deny]]\nwho = \"ana\"\nlisten = {deny:?}\n");
    Policy::parse(&text, "policy.toml").unwrap()
}

fn ask(policy: &Policy, target: &str) -> Result<Listen, Refusal> {
    match decide(policy, &ana(), AnyRequest::parse(Kind::Listen, target).unwrap(), &Facts::default())?.into_parts().0 {
        AnyRequest::Listen(listen) => Ok(listen),
        other => panic!("{other:?}"),
    }
}

fn may(allow: &[&str], deny: &[&str], target: &str) -> bool {
    ask(&policy(allow, deny), target).is_ok()
}

#[test]
fn patterns_bind_addresses_and_never_names() {
    for good in ["127.0.0.1:9000-9099", "*:8080/udp", "0.0.0.0:80", "[fd00::/8]:443", "10.0.0.1:80/tcp"] {
        assert!(ListenPattern::parse(good).is_ok(), "{good}");
    }
    for bad in ["localhost:80", "*.internal:80", "127.0.0.1:80/sctp", "127.0.0.1:0", "127.1:80"] {
        assert!(ListenPattern::parse(bad).is_err(), "{bad}");
    }
    for bad in ["localhost:80", "127.0.0.1:80-90", "127.0.0.1:*", "127.0.0.1", "2130706433:80"] {
        assert!(AnyRequest::parse(Kind::Listen, bad).is_err(), "{bad}");
    }
}

/// Attack 50.
#[test]
fn privileged_ports_the_wildcard_and_ports_outside_the_range_need_their_own_word() {
    for (allow, target, allowed) in [
        ("127.0.0.1:*", "127.0.0.1:80", false),
        ("127.0.0.1:*", "127.0.0.1:1023", false),
        ("127.0.0.1:*", "127.0.0.1:1024", true),
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80-90", "127.0.0.1:81", true),
        ("127.0.0.0/8:9000", "0.0.0.0:9000", false),
        ("0.0.0.0/0:9000", "0.0.0.0:9000", false),
        ("0.0.0.0/0:9000", "[::]:9000", false),
        ("[::/0]:9000", "[::]:9000", false),
        ("[::/0]:9000", "0.0.0.0:9000", false),
        ("*:9000", "0.0.0.0:9000", true),
        ("*:9000", "[::]:9000", true),
        ("0.0.0.0:9000", "[::]:9000", true),
        ("[::]:9000", "*:9000", true),
        ("*:9000", "10.1.2.3:9000", true),
        ("*:9000", "[::ffff:0.0.0.0]:9000", true),
        ("127.0.0.1:9000-9099", "127.0.0.1:9100", false),
        ("127.0.0.1:9000-9099", "127.0.0.2:9000", false),
        ("10.0.0.0/8:9000", "[::ffff:10.1.2.3]:9000", true),
        ("10.0.0.0/8:9000", "[64:ff9b::a01:203]:9000", false),
    ] {
        assert_eq!(may(&[allow], &[], target), allowed, "{allow} for {target}");
    }
}

#[test]
fn a_rule_covers_tcp_and_udp_unless_it_narrows() {
    for (allow, tcp, udp) in
        [("127.0.0.1:9000", true, true), ("127.0.0.1:9000/udp", false, true), ("127.0.0.1:9000/tcp", true, false)]
    {
        assert_eq!(may(&[allow], &[], "127.0.0.1:9000"), tcp, "{allow}");
        assert_eq!(may(&[allow], &[], "127.0.0.1:9000/udp"), udp, "{allow}");
    }
    assert!(may(&["127.0.0.1:9000"], &["127.0.0.1:9000/udp"], "127.0.0.1:9000"));
    assert!(!may(&["127.0.0.1:9000"], &["127.0.0.1:9000/udp"], "127.0.0.1:9000/udp"));
}

#[test]
fn a_deny_of_any_address_covers_the_wildcard_which_is_met_there() {
    assert!(!may(&["*:9000"], &["10.0.0.5:9000"], "0.0.0.0:9000"));
    assert!(may(&["*:9000"], &["10.0.0.5:9000"], "10.0.0.6:9000"));
    assert!(!may(&["*:1-65535"], &["10.0.0.0/8:*"], "10.0.0.5:80"), "a denied * is every port");
    assert!(!may(&["127.0.0.1:9000"], &["*:9000"], "127.0.0.1:9000"));
}

/// Attack 50: port 0 is what the rules leave, and nothing else.
#[test]
fn port_0_gives_the_ports_that_the_rules_leave() {
    let rules = policy(&["127.0.0.1:9000-9009", "127.0.0.1:9005-9012", "10.0.0.1:*"], &["*:9003-9004", "*:9012/udp"]);
    assert_eq!(ask(&rules, "127.0.0.1:0").unwrap().ports, [9000..=9002, 9005..=9009, 9010..=9012]);
    assert_eq!(ask(&rules, "127.0.0.1:0/udp").unwrap().ports, [9000..=9002, 9005..=9009, 9010..=9011]);
    assert_eq!(ask(&rules, "10.0.0.1:0").unwrap().ports, [1024..=9002, 9005..=65535]);
    assert_eq!(ask(&rules, "127.0.0.2:0").unwrap_err().reason, Reason::NoRule);
    assert_eq!(ask(&policy(&["127.0.0.1:9000"], &["*:*"]), "127.0.0.1:0").unwrap_err().reason, Reason::Denied);
    let refusal = ask(&rules, "127.0.0.2:0").unwrap_err();
    assert_eq!(&*refusal.send.unwrap(), "capuchind allow ana listen '127.0.0.2:*' --for 1h");
    assert_eq!(refusal.request, "listen 127.0.0.2:0");
}

/// Attack 49.
#[test]
fn the_lenders_own_port_is_never_lent() {
    let own = ["[::]:7443".parse().unwrap()];
    let facts = Facts { own: &own, ..Facts::default() };
    let rules = policy(&["*:7443", "127.0.0.1:7442-7444"], &[]);
    for target in ["0.0.0.0:7443", "127.0.0.1:7443", "10.0.0.1:7443"] {
        let refusal = decide(&rules, &ana(), Listen::parse(target).unwrap(), &facts).unwrap_err();
        assert_eq!(refusal.reason, Reason::OwnPort { address: own[0] }, "{target}");
    }
    assert!(decide(&rules, &ana(), Listen::parse("127.0.0.1:7443/udp").unwrap(), &facts).is_ok());
    let any = decide(&rules, &ana(), Listen::parse("127.0.0.1:0").unwrap(), &facts).unwrap();
    assert_eq!(any.request().ports, [7442..=7442, 7444..=7444]);
}

#[test]
fn a_listener_is_judged_again_by_the_port_it_has() {
    let old = policy(&["127.0.0.1:9000-9009"], &[]);
    let granted = decide(&old, &ana(), Listen::parse("127.0.0.1:0").unwrap(), &Facts::default()).unwrap();
    assert!(granted.clone().at_port(9010).is_none());
    let bound = granted.clone().at_port(9005).unwrap();
    let again = |grant: &Granted<Listen>, rules: &Policy| grant.again(rules, &ana(), &Facts::default());
    let narrower = policy(&["127.0.0.1:9005-9009"], &[]);
    assert!(again(&bound, &narrower).is_ok());
    assert_eq!(again(&granted, &narrower).unwrap_err().reason, Reason::NoRule, "not all that was granted");
    assert_eq!(again(&bound, &policy(&["127.0.0.1:9005"], &["*:*"])).unwrap_err().reason, Reason::Denied);
}
