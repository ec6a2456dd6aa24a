use super::*;
use crate::{
    policy::{AnyRequest, Facts, Principal, Reason, Refusal, RuleRef, decide},
    proto::DeviceId,
};

fn judge(policy: &Policy, kind: Kind, target: &str) -> Result<RuleRef, Refusal> {
    let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_digest(&[0; 32]) };
    let asked = AnyRequest::parse(kind, target).unwrap().resolved(vec!["10.0.0.1".parse().unwrap()]);
    decide(policy, &ana, asked, &Facts::default()).map(|granted| granted.rule().clone())
}

fn grant(user: &str, kind: Kind, target: &str) -> Grant {
    Grant::parse(user.parse().unwrap(), kind, target, "grant 7").unwrap()
}

/// One pattern and one request of each kind that a rule can name.
const EVERY_KIND: [(Kind, &str, &str); 15] = [
    (Kind::Connect, "db.internal:5432", "connect = \"db.internal:5432\""),
    (Kind::Udp, "10.0.0.1:53", "udp = \"10.0.0.1:53\""),
    (Kind::Listen, "127.0.0.1:9000", "listen = \"127.0.0.1:9000\""),
    (Kind::Unix, "/run/a", "unix = \"/run/a\""),
    (Kind::UnixListen, "/run/a", "unix_listen = \"/run/a\""),
    (Kind::Resolve, "db.internal", "resolve = \"db.internal\""),
    (Kind::Read, "/srv", "read = \"/srv\""),
    (Kind::Write, "/srv", "write = \"/srv\""),
    (Kind::Exec, "/bin/ls -l", "exec = { path = \"/bin/ls\", args = [\"-l\"], exact = true }"),
    (Kind::Shell, "", "shell = true"),
    (Kind::Python, "", "python = true"),
    (Kind::EnvSend, "LANG", "env.send = \"LANG\""),
    (Kind::EnvRead, "HOME", "env.read = \"HOME\""),
    (Kind::ServiceOffer, "payroll", "services.offer = \"payroll\""),
    (Kind::ServiceUse, "calc", "services.use = \"calc\""),
];

#[test]
fn a_grant_of_every_kind_allows_what_it_names_to_its_user_alone() {
    for (kind, target, rule) in EVERY_KIND {
        let with = |user| Policy::default().with_grants([grant(user, kind, target)]);
        assert_eq!(judge(&with("ana"), kind, target).unwrap().to_string(), format!("grant 7 {rule}"));
        let refusal = judge(&with("bob"), kind, target).unwrap_err();
        assert_eq!((refusal.reason, refusal.nearest), (Reason::NoRule, None), "{kind}");
        assert_eq!(judge(&Policy::default(), kind, target).unwrap_err().reason, Reason::NoRule, "{kind}");
    }
}

/// What a refused borrower sends to the admin is a line that would have allowed it.
#[test]
fn the_line_to_send_is_the_grant_that_is_missing() {
    for (kind, target, _) in EVERY_KIND {
        let send = judge(&Policy::default(), kind, target).unwrap_err().send.unwrap();
        let words = crate::policy::command_line::split(&send).unwrap();
        let [program, command, user, named, rest @ ..] = &words[..] else { panic!("{send}") };
        assert_eq!([program, command, user, named], ["capuchind", "allow", "ana", kind.name()], "{send}");
        let (asked, for_how_long) = rest.split_at(rest.len() - 2);
        assert_eq!(for_how_long, ["--for", "1h"], "{send}");
        let asked = asked.first().map_or("", String::as_str);
        let policy = Policy::default().with_grants([grant("ana", kind, asked)]);
        assert!(judge(&policy, kind, target).is_ok(), "{send}");
    }
}

#[test]
fn a_deny_of_the_file_beats_a_grant() {
    let policy = Policy::parse("[[deny]]\nwho = \"ana\"\nread = \"/srv/keys\"", "policy.toml").unwrap();
    let policy = policy.with_grants([grant("ana", Kind::Read, "/srv")]);
    assert!(judge(&policy, Kind::Read, "/srv/data").is_ok());
    assert_eq!(judge(&policy, Kind::Read, "/srv/keys/a").unwrap_err().reason, Reason::Denied);
}

#[test]
fn a_grant_of_a_connection_brings_its_own_name_along_and_no_other() {
    let policy = Policy::default().with_grants([grant("ana", Kind::Connect, "*.db.internal:5432")]);
    assert!(judge(&policy, Kind::Resolve, "a.db.internal").is_ok() && judge(&policy, Kind::Profile, "").is_ok());
    assert_eq!(judge(&policy, Kind::Resolve, "web.internal").unwrap_err().reason, Reason::NoRule);
}

#[test]
fn what_no_rule_could_say_is_no_grant() {
    let user = || "ana".parse().unwrap();
    for (kind, target, why) in [
        (Kind::Connect, "db.internal", "has no port"),
        (Kind::Connect, "127.1:80", "four decimal numbers"),
        (Kind::Read, "srv", "is not an absolute path"),
        (Kind::Shell, "x", "leave the target out"),
        (Kind::Read, "", "a target is missing"),
        (Kind::Exec, "ls", "is not an absolute path"),
        (Kind::Profile, "", "bring it along"),
    ] {
        let error = Grant::parse(user(), kind, target, "grant 7").unwrap_err().to_string();
        assert!(error.contains(why), "{kind} {target}: {error}");
    }
}
