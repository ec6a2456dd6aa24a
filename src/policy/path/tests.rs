use super::*;
use crate::{
    policy::{AnyRequest, decide},
    proto::DeviceId,
};

fn path(text: &str) -> LenderPath {
    LenderPath::parse(text).unwrap()
}

fn judge(rules: &str, kind: Kind, target: &str, own: &[LenderPath]) -> Result<RuleRef, Refusal> {
    let policy = Policy::parse(rules, "policy.toml").unwrap();
    let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
    let facts = Facts { own_folders: own, ..Facts::default() };
    decide(&policy, &ana, AnyRequest::parse(kind, target).unwrap(), &facts).map(|granted| granted.rule().clone())
}

fn allows(line: &str, kind: Kind, target: &str) -> bool {
    judge(&format!("[[allow]]\nwho = \"ana\"\n{line}"), kind, target, &[]).is_ok()
}

/// Attacks 35 and 39.
#[test]
fn paths_are_absolute_plain_and_short() {
    for good in ["/", "/srv", "/srv/data/out", "/srv/with space", "/srv/new\nline"] {
        assert!(LenderPath::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "srv", "/srv/", "/srv//x", "/srv/../etc", "../../etc/shadow", "/./x", "/a\0b", "~/x"] {
        assert!(matches!(LenderPath::parse(bad), Err(PathError::NotAbsolute(_))), "{bad:?}");
    }
    assert!(LenderPath::parse(b"/srv/\xff\xfe").is_ok(), "a name need not be text");
    let long = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
    assert!(LenderPath::parse(long(PATH_BYTES_MAX)).is_ok());
    assert_eq!(LenderPath::parse(long(5000)), Err(PathError::TooLong { bytes: 5000 }));
}

#[test]
fn a_star_ends_a_path_only_where_sockets_are_named() {
    for good in ["/run/app.sock", "/run/user/1000/*", "/*", "/"] {
        assert!(PathPattern::parse_socket(good).is_ok(), "{good}");
    }
    for bad in ["", "*", "/run/*/x", "/run/a*", "run/*", "/run/../*"] {
        assert!(PathPattern::parse_socket(bad).is_err(), "{bad:?}");
    }
    assert!(PathPattern::parse_tree("/srv/*").is_err() && PathPattern::parse_tree("/srv").is_ok());
}

/// Attack 40.
#[test]
fn whole_components_are_compared_and_never_text() {
    for (kind, key) in [(Kind::Read, "read"), (Kind::Write, "write"), (Kind::Unix, "unix")] {
        let rule = format!("{key} = \"/srv/data\"");
        for inside in ["/srv/data", "/srv/data/x", "/srv/data/x/y"] {
            assert!(allows(&rule, kind, inside), "{inside}");
        }
        for outside in ["/srv/data2", "/srv", "/", "/srv/Data", "/srv/dat", "/x/srv/data"] {
            assert!(!allows(&rule, kind, outside), "{outside}");
        }
        let deny =
            format!("[[allow]]\nwho = \"ana\"\n{key} = \"/srv\"\n[[deny]]\nwho = \"ana\"\n{key} = \"/srv/data\"");
        assert_eq!(judge(&deny, kind, "/srv/data/x", &[]).unwrap_err().reason, Reason::Denied);
        assert!(judge(&deny, kind, "/srv/data2", &[]).is_ok());
    }
}

#[test]
fn reading_and_writing_and_connecting_and_creating_are_four_things() {
    for (key, kind) in
        [("read", Kind::Read), ("write", Kind::Write), ("unix", Kind::Unix), ("unix_listen", Kind::UnixListen)]
    {
        for other in [Kind::Read, Kind::Write, Kind::Unix, Kind::UnixListen] {
            assert_eq!(allows(&format!("{key} = \"/run/a\""), other, "/run/a"), other == kind, "{key} for {other}");
        }
    }
}

#[test]
fn a_star_covers_what_is_directly_in_a_folder() {
    let rule = "unix_listen = \"/run/user/1000/*\"";
    assert!(allows(rule, Kind::UnixListen, "/run/user/1000/a.sock"));
    for outside in ["/run/user/1000", "/run/user/1000/a/b", "/run/user/1001/a", "/run/user/10000"] {
        assert!(!allows(rule, Kind::UnixListen, outside), "{outside}");
    }
    assert!(allows("unix = \"/*\"", Kind::Unix, "/a") && !allows("unix = \"/*\"", Kind::Unix, "/a/b"));
}

/// Attack 37, as a decision.
#[test]
fn the_insides_of_the_machine_are_no_part_of_the_root() {
    for special in ["/proc", "/proc/self/root/etc/shadow", "/proc/1/mem", "/sys/x", "/dev/mem", "/dev"] {
        let refusal = judge("[[allow]]\nwho = \"ana\"\nread = \"/\"", Kind::Read, special, &[]).unwrap_err();
        assert!(matches!(refusal.reason, Reason::SpecialTree { .. }), "{special}: {refusal}");
        assert_eq!(refusal.rule.unwrap().to_string(), "policy.toml:3 read = \"/\"");
    }
    assert!(allows("read = [\"/\", \"/proc/cpuinfo\"]", Kind::Read, "/proc/cpuinfo"));
    assert!(allows("read = [\"/\", \"/dev\"]", Kind::Read, "/dev/null"));
    assert!(allows("read = \"/\"", Kind::Read, "/") && allows("read = \"/\"", Kind::Read, "/procedures/x"));
}

/// Attack 49.
#[test]
fn the_lenders_own_folders_are_outside_every_root() {
    let own = [path("/etc/capuchin"), path("/var/lib/capuchin")];
    let rules = "[[allow]]\nwho = \"ana\"\nread = [\"/\", \"/etc/capuchin\", \"/etc/capuchin/ca.key\"]\n\
                 write = \"/\"\nunix = \"/\"\nunix_listen = \"/var/lib/capuchin/*\"\nexec = [{ path = \"*\" }]";
    for (kind, target) in [
        (Kind::Read, "/etc/capuchin"),
        (Kind::Read, "/etc/capuchin/ca.key"),
        (Kind::Write, "/etc/capuchin/policy.toml"),
        (Kind::Unix, "/var/lib/capuchin/admin.sock"),
        (Kind::UnixListen, "/var/lib/capuchin/admin.sock"),
        (Kind::Exec, "/var/lib/capuchin/x"),
    ] {
        let refusal = judge(rules, kind, target, &own).unwrap_err();
        assert!(matches!(refusal.reason, Reason::OwnFolder { .. }), "{kind} {target}: {refusal}");
        assert_eq!(&*refusal.send.unwrap(), format!("capuchind check ana {kind} {target}"));
    }
    assert!(judge(rules, Kind::Read, "/etc/capuchin2", &own).is_ok());
    assert!(judge(rules, Kind::Read, "/etc", &own).is_ok());
}

#[test]
fn the_nearest_rule_goes_the_longest_way_along() {
    let policy = "[[allow]]\nwho = \"ana\"\nread = [\"/etc\", \"/srv/data/in\", \"/srv/x\"]";
    let refusal = judge(policy, Kind::Read, "/srv/data/out", &[]).unwrap_err();
    assert_eq!(refusal.nearest.unwrap().text, "read = \"/srv/data/in\"");
    assert_eq!(&*refusal.send.unwrap(), "capuchind allow ana read /srv/data/out --for 1h");
    assert_eq!(judge(policy, Kind::Read, "/home/a", &[]).unwrap_err().nearest, None);
}

#[test]
fn a_line_that_would_be_cut_is_not_shown_at_all() {
    for (bytes, shown) in [(900, true), (2000, false)] {
        let refusal = judge("", Kind::Read, &format!("/{}", "a".repeat(bytes)), &[]).unwrap_err();
        assert_eq!((refusal.send.is_some(), refusal.help.ends_with("(a line too long to be shown)")), (shown, !shown));
    }
}

#[test]
fn a_deny_holds_in_both_of_its_spellings() {
    let real = |_: Kind, path: &LenderPath, all: bool| match path.to_string().as_str() {
        "/var/run/docker.sock" if !all => self::path("/run/docker.sock"),
        "/var/run/user" if all => self::path("/run/user"),
        other => self::path(other),
    };
    for key in ["unix", "unix_listen"] {
        let text = format!(
            "[[allow]]\nwho = \"ana\"\n{key} = [\"/run\", \"/var/run\"]\n\
             [[deny]]\nwho = \"ana\"\n{key} = [\"/var/run/docker.sock\", \"/var/run/user/*\", \"/run/other\"]"
        );
        let policy = Policy::parse(&text, "policy.toml").unwrap().with_denies_followed(real);
        let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
        let judge = |target: &str| {
            let kind = if key == "unix" { Kind::Unix } else { Kind::UnixListen };
            decide(&policy, &ana, AnyRequest::parse(kind, target).unwrap(), &Facts::default())
        };
        for denied in ["/run/docker.sock", "/var/run/docker.sock", "/run/user/a", "/var/run/user/a", "/run/other"] {
            let refusal = judge(denied).unwrap_err();
            assert_eq!(refusal.reason, Reason::Denied, "{denied}");
            assert!(
                !refusal.rule.unwrap().to_string().contains("= \"/run/docker"),
                "the rule is shown as it is written"
            );
        }
        for allowed in ["/run/docker.sock2", "/run/user", "/run/user/a/b", "/var/run/other"] {
            assert!(judge(allowed).is_ok(), "{allowed}");
        }
    }
    let text = "[[allow]]\nwho = \"ana\"\nunix = \"/run/docker.sock\"\n\
                [[deny]]\nwho = \"ana\"\nunix = \"/var/run/docker.sock\"";
    let policy = Policy::parse(text, "policy.toml").unwrap();
    assert_eq!(policy.covered().count(), 0);
    assert_eq!(policy.with_denies_followed(real).covered().count(), 1, "what it leaves nothing of is told");
}
