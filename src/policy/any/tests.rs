use super::*;
use crate::{policy::decide, proto::DeviceId};

fn ana() -> Principal {
    Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) }
}

fn allows(rules: &str, kind: Kind, target: &str) -> bool {
    let policy = Policy::parse(&format!("[[allow]]\nwho = \"ana\"\n{rules}"), "policy.toml").unwrap();
    decide(&policy, &ana(), AnyRequest::parse(kind, target).unwrap(), &Facts::default()).is_ok()
}

#[test]
fn a_kind_has_one_name_everywhere() {
    for kind in Kind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    assert_eq!("unix-listen".parse::<Kind>().unwrap_err().text, "unix-listen");
}

#[test]
fn a_target_is_wrong_by_its_shape_or_by_its_host() {
    for (kind, target, refused) in [
        (Kind::Connect, "127.1:80", true),
        (Kind::Udp, "2130706433:53", true),
        (Kind::Resolve, "0x7f.1", true),
        (Kind::Connect, "nonsense", false),
        (Kind::Connect, "127.1:http", false),
        (Kind::Listen, "localhost:80", false),
        (Kind::Read, "../../etc/shadow", false),
        (Kind::Exec, "ls -l", false),
        (Kind::Exec, "/bin/ls 'a", false),
        (Kind::EnvSend, "A=B", false),
        (Kind::ServiceUse, "a/b", false),
        (Kind::Profile, "x", false),
    ] {
        let error = AnyRequest::parse(kind, target).unwrap_err();
        assert_eq!(error.refusal().is_some(), refused, "{kind} {target}: {error}");
    }
    let path = format!("/{}", "a".repeat(5000));
    assert!(AnyRequest::parse(Kind::Read, &path).unwrap_err().to_string().len() < 500);
}

#[test]
fn variables_and_services_are_allowed_by_name_and_by_beginning() {
    let rules =
        "env = { send = [\"LANG\", \"LC_*\"], read = [\"HOME\"] }\nservices = { offer = [\"pay*\"], use = [\"*\"] }";
    for (kind, target, allowed) in [
        (Kind::EnvSend, "LANG", true),
        (Kind::EnvSend, "LC_ALL", true),
        (Kind::EnvSend, "LC_", true),
        (Kind::EnvSend, "LANGUAGE", false),
        (Kind::EnvSend, "LD_PRELOAD", false),
        (Kind::EnvSend, "HOME", false),
        (Kind::EnvRead, "HOME", true),
        (Kind::EnvRead, "LANG", false),
        (Kind::ServiceOffer, "payroll", true),
        (Kind::ServiceOffer, "calc", false),
        (Kind::ServiceUse, "calc", true),
    ] {
        assert_eq!(allows(rules, kind, target), allowed, "{kind} {target}");
    }
}

#[test]
fn connections_bring_every_name_along_unless_their_own_rule_narrows_that() {
    let (connect, udp, narrowed) =
        ("connect = \"db.internal:1\"", "udp = \"10.0.0.1:1\"", "connect = \"*:1\"\nresolve = \"*.internal\"");
    for (rules, name, allowed) in [
        (connect, "any.example", true),
        (udp, "any.example", true),
        (narrowed, "db.internal", true),
        (narrowed, "any.example", false),
        ("read = \"/\"", "db.internal", false),
        ("resolve = \"db.internal\"", "DB.Internal.", true),
        ("resolve = \"db.internal\"", "a.db.internal", false),
        ("connect = \"*:1\"\nresolve = []", "db.internal", false),
    ] {
        assert_eq!(allows(rules, Kind::Resolve, name), allowed, "{rules} for {name}");
    }
    let two = format!("{narrowed}\n[[allow]]\nwho = \"ana\"\n{connect}");
    assert!(allows(&two, Kind::Resolve, "any.example"), "a second rule takes nothing away");
    let denied = format!("{connect}\n[[deny]]\nwho = \"ana\"\nresolve = \"*.secret\"");
    assert!(!allows(&denied, Kind::Resolve, "a.secret") && allows(&denied, Kind::Resolve, "a.b"));
    for (rules, allowed) in [(connect, true), (udp, true), ("resolve = \"a.b\"", true), ("read = \"/\"", false)] {
        assert_eq!(allows(rules, Kind::Profile, ""), allowed, "{rules}");
    }
}

#[test]
fn who_may_only_listen_is_told_nothing_of_the_network() {
    let policy = |rules: &str| Policy::parse(&format!("[[allow]]\nwho = \"ana\"\n{rules}"), "policy.toml").unwrap();
    let ask = |rules: &str| decide(&policy(rules), &ana(), Profile::default(), &Facts::default());
    let listen = "listen = \"*:8000\"";
    let granted = ask(listen).unwrap();
    assert!(!granted.request().shows_network());
    assert_eq!(granted.rule().to_string(), "policy.toml:3 listen = \"*:8000\"");
    for more in ["connect = \"db.internal:1\"", "udp = \"10.0.0.1:1\"", "resolve = \"a.b\""] {
        let whole = ask(&format!("{listen}\n{more}")).unwrap();
        assert!(whole.request().shows_network(), "{more}");
        let again = |rules: &str| whole.again(&policy(rules), &ana(), &Facts::default()).is_ok();
        assert!(again(more) && !again(listen), "what is told may not be told any more: {more}");
        assert!(granted.again(&policy(more), &ana(), &Facts::default()).is_ok(), "{more}");
    }
    let uses = ask("services = { use = [\"backup\"] }").unwrap();
    assert!(!uses.request().shows_network());
    assert_eq!(uses.rule().to_string(), "policy.toml:3 services.use = \"backup\"");
    assert!(ask("services = { offer = [\"backup\"] }").is_err());
    assert!(ask("exec = [{ path = \"/bin/true\" }]").is_err());
}

#[test]
fn datagrams_have_rules_of_their_own_and_every_trap_of_addresses() {
    let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nudp = \"*:53\"\nconnect = \"*:80\"", "policy.toml").unwrap();
    let send = |target: &str, to: &str| {
        let asked = AnyRequest::parse(Kind::Udp, target).unwrap().resolved(vec![to.parse().unwrap()]);
        decide(&policy, &ana(), asked, &Facts::default())
    };
    assert!(send("ns.internal:53", "10.2.0.53").is_ok());
    assert!(send("ns.internal:80", "10.2.0.53").is_err(), "connect says nothing about datagrams");
    // Attack 51.
    for special in ["255.255.255.255", "224.0.0.251", "ff02::fb", "127.0.0.53", "::ffff:127.0.0.53"] {
        assert!(send("ns.internal:53", special).is_err(), "{special}");
    }
}
