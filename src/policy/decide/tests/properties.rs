//! What holds for every policy and every request.

use proptest::prelude::*;

use super::*;
use crate::policy::{
    AnyRequest,
    decide::tests::grammar::{self, address},
};

fn pattern() -> impl Strategy<Value = String> {
    let hosts = prop::sample::select(vec![
        "*",
        "*.internal",
        "db.internal",
        "web.internal",
        "10.0.0.1",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "127.0.0.0/8",
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::/0]",
        "[64:ff9b::7f00:1]",
        "[::ffff:10.0.0.1]",
    ]);
    (hosts, prop::sample::select(vec!["80", "80-443", "443", "*"])).prop_map(|(host, ports)| format!("{host}:{ports}"))
}

fn request() -> impl Strategy<Value = Connect> {
    let hosts = prop::sample::select(vec!["db.internal", "web.internal", "example", "10.0.0.1", "127.0.0.1", "::1"]);
    let ports = prop::sample::select(vec![0, 80, 443, 444]);
    (hosts, ports, prop::collection::vec(address(), 0..4)).prop_map(|(host, port, answers)| {
        let host = Host::parse(host).unwrap();
        let addresses = if let Host::Address(address) = host { vec![address] } else { answers };
        Connect::new(host, port, addresses)
    })
}

fn list(patterns: &[String]) -> Vec<&str> {
    patterns.iter().map(String::as_str).collect()
}

/// For each kind rules that allow some of its requests, each pattern narrower than the one behind it, and requests.
const KINDS: [(Kind, &[&str], &[&str]); 15] = [
    (
        Kind::Connect,
        &["connect = \"db.internal:80\"", "connect = \"*.internal:80-443\"", "connect = \"*:*\""],
        &["db.internal:80", "web.internal:443", "10.0.0.1:80", "127.0.0.1:80", "0x7f.1:80"],
    ),
    (
        Kind::Udp,
        &["udp = \"10.0.0.1:53\"", "udp = \"10.0.0.0/8:*\"", "udp = \"0.0.0.0/0:*\""],
        &["10.0.0.1:53", "ns.internal:53", "224.0.0.1:53", "[64:ff9b::a00:1]:53"],
    ),
    (
        Kind::Listen,
        &[
            "listen = \"127.0.0.1:9000/udp\"",
            "listen = \"127.0.0.1:9000\"",
            "listen = \"127.0.0.0/8:*\"",
            "listen = \"*:*\"",
        ],
        &["127.0.0.1:9000", "127.0.0.1:9000/udp", "0.0.0.0:9000", "127.0.0.1:0", "127.0.0.1:80", "[::1]:9000"],
    ),
    (
        Kind::Unix,
        &["unix = \"/run/a\"", "unix = \"/run/*\"", "unix = \"/run\"", "unix = \"/\""],
        &["/run/a", "/run/b/c", "/dev/log", "/run"],
    ),
    (Kind::UnixListen, &["unix_listen = \"/run/a/*\"", "unix_listen = \"/run\""], &["/run/a/b", "/run/a", "/tmp/a"]),
    (
        Kind::Resolve,
        &["resolve = \"db.internal\"", "resolve = \"*.internal\"", "resolve = \"*\""],
        &["db.internal", "web.internal", "a.example"],
    ),
    (
        Kind::Read,
        &["read = \"/srv/data/in\"", "read = \"/srv/data\"", "read = \"/\""],
        &["/srv/data/in/x", "/srv/data", "/srv/data2", "/proc/1/mem", "/"],
    ),
    (Kind::Write, &["write = \"/srv/data\"", "write = \"/srv\""], &["/srv/data/x", "/srv/data2", "/etc/x"]),
    (
        Kind::Exec,
        &[
            "exec = [{ path = \"/bin/git\", args = [\"status\"], exact = true }]",
            "exec = [{ path = \"/bin/git\", args = [\"status\"] }]",
            "exec = [{ path = \"/bin/git\" }]",
            "exec = [{ path = \"*\" }]",
        ],
        &["/bin/git status", "/bin/git status -s", "/bin/git -c a=b status", "/bin/sh -c ls"],
    ),
    (Kind::Shell, &["shell = true"], &[""]),
    (Kind::Python, &["python = true"], &[""]),
    (Kind::EnvSend, &["env.send = \"LC_ALL\"", "env.send = \"LC_*\"", "env.send = \"*\""], &["LC_ALL", "LC_X", "PATH"]),
    (Kind::EnvRead, &["env.read = \"HOME\"", "env.read = \"*\""], &["HOME", "PATH"]),
    (Kind::ServiceOffer, &["services.offer = \"pay\"", "services.offer = \"pay*\""], &["pay", "payroll", "calc"]),
    (Kind::ServiceUse, &["services.use = \"calc\"", "services.use = \"*\""], &["calc", "pay"]),
];

/// A line of any kind: one of [`KINDS`], whose patterns and requests meet often, or any that can be written.
fn line() -> impl Strategy<Value = String> {
    let known = KINDS.iter().flat_map(|(_, lines, _)| lines.iter().copied()).collect::<Vec<_>>();
    prop_oneof![prop::sample::select(known).prop_map(str::to_owned), grammar::line()]
}

/// Blocks of one line each, for ana or somebody else.
fn blocks(most: usize) -> impl Strategy<Value = Vec<String>> {
    let block = (line(), grammar::who()).prop_map(|(line, who)| format!("who = {who}\n{line}\n"));
    prop::collection::vec(block, 0..most)
}

/// The same, with what only an allow can say.
fn allow_blocks(most: usize) -> impl Strategy<Value = Vec<String>> {
    let block = (line(), grammar::who(), grammar::terms());
    prop::collection::vec(block.prop_map(|(line, who, terms)| format!("who = {who}\n{line}\n{terms}")), 0..most)
}

fn text_of(allow: &[String], deny: &[String]) -> String {
    let part = |name: &str, blocks: &[String]| blocks.iter().map(|block| format!("[[{name}]]\n{block}")).collect();
    let [allow, deny]: [String; 2] = [part("allow", allow), part("deny", deny)];
    format!("{}{allow}{deny}", grammar::GROUPS)
}

fn policy_of(allow: &[String], deny: &[String]) -> Policy {
    policy(&text_of(allow, deny))
}

/// A kind and a target of it, with what the target resolves to.
fn question() -> impl Strategy<Value = (Kind, String, Vec<IpAddr>)> {
    let known = KINDS.iter().flat_map(|(kind, _, targets)| targets.iter().map(|target| (*kind, (*target).to_owned())));
    let known: Vec<_> = known.chain([(Kind::Profile, String::new())]).collect();
    let asked = prop_oneof![prop::sample::select(known), grammar::asked()];
    (asked, prop::collection::vec(address(), 1..3)).prop_map(|((kind, target), it)| (kind, target, it))
}

/// What ana is granted; a host that is none is refused.
fn decided(
    policy: &Policy,
    (kind, target, answers): &(Kind, String, Vec<IpAddr>),
) -> Result<Granted<AnyRequest>, Refusal> {
    let asked = AnyRequest::parse(*kind, target).map_err(|error| error.refusal().unwrap())?;
    decide(policy, &user("ana"), asked.resolved(answers.clone()), &Facts::default())
}

/// Whether all of `before` is in `after`.
fn keeps(before: &AnyRequest, after: &AnyRequest) -> bool {
    match (before, after) {
        (AnyRequest::Listen(before), AnyRequest::Listen(after)) => {
            let has = |port| after.ports.iter().any(|range| range.contains(&port));
            before.ports.iter().flat_map(Clone::clone).all(has)
        }
        _ => before.addresses().iter().all(|address| after.addresses().contains(address)),
    }
}

/// One pattern is denied and another allowed: where that is said to allow nothing, it does; and it is said where both are one, or
/// the deny is the widest.
#[test]
fn an_allow_that_is_said_to_allow_nothing_allows_nothing() {
    for (kind, patterns, targets) in KINDS {
        for (narrow, allow) in patterns.iter().enumerate() {
            for (wide, deny) in patterns.iter().enumerate() {
                let policy = policy(&format!("[[allow]]\nwho = \"ana\"\n{allow}\n[[deny]]\nwho = \"ana\"\n{deny}\n"));
                let is_said = policy.covered().next().is_some();
                assert!(is_said || (wide != narrow && wide + 1 < patterns.len()), "{allow} and {deny}");
                let answers = ["10.0.0.1", "127.0.0.1"].map(|address| address.parse().unwrap());
                let asked = |target: &&str| (kind, (*target).to_owned(), answers.to_vec());
                let allowed = targets.iter().find(|target| decided(&policy, &asked(target)).is_ok());
                assert!(!is_said || allowed.is_none(), "{allow} and {deny} allow {allowed:?}");
            }
        }
    }
}

/// Properties of rules and requests that never meet would say nothing.
#[test]
fn the_rules_and_requests_of_these_tests_meet() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (rules, asked) = (prop::collection::vec(grammar::line(), 1..12), grammar::asked());
    let mut met = std::collections::BTreeMap::new();
    for _ in 0..2500 {
        let rules = rules.new_tree(&mut runner).unwrap().current();
        let rules: Vec<_> = rules.iter().map(|line| format!("who = \"group:own\"\n{line}\n")).collect();
        let (kind, target) = asked.new_tree(&mut runner).unwrap().current();
        let outcome = decided(&policy_of(&rules, &[]), &(kind, target, addresses(&["10.0.0.1"]))).is_ok();
        *met.entry((kind, outcome)).or_insert(0) += 1;
    }
    for kind in Kind::ALL {
        for outcome in [true, false] {
            let count = met.get(&(kind, outcome)).copied().unwrap_or(0);
            assert!(count >= 5, "{kind} was decided {outcome} {count} times: {met:?}");
        }
    }
}

proptest! {
    #[test]
    fn a_deny_beats_every_allow_of_the_same(
        allow in allow_blocks(6), deny in blocks(3), line in line(), question in question(), first in any::<bool>(),
    ) {
        let block = format!("who = \"ana\"\n{line}\n");
        let (mut both, mut denies) = (allow.clone(), deny.clone());
        both.insert(if first { 0 } else { allow.len() }, block.clone());
        denies.push(block.clone());
        let denied = policy_of(&both, &denies);
        // What the line alone allows is refused, but for ports and addresses that are beyond it.
        if let (Ok(alone), Ok(left)) = (decided(&policy_of(&[block], &[]), &question), decided(&denied, &question)) {
            match (alone.request(), left.request()) {
                (AnyRequest::Listen(alone), AnyRequest::Listen(left)) => {
                    let cut = |port: u16| alone.ports.iter().any(|range| range.contains(&port));
                    prop_assert!(!left.ports.iter().flat_map(Clone::clone).any(cut));
                }
                // A name that a rule for connections brings along is no rule's own.
                (AnyRequest::Resolve(_), _) if !line.starts_with("resolve") => {}
                (AnyRequest::Profile(_), _) => {}
                (alone, left) => {
                    prop_assert!(!alone.addresses().is_empty(), "{:?}", question);
                    prop_assert!(!left.addresses().iter().any(|address| alone.addresses().contains(address)));
                }
            }
        }
    }

    #[test]
    fn one_allow_more_never_takes_anything_away_and_one_deny_more_never_gives(
        allow in allow_blocks(6), deny in blocks(3), more in blocks(3), question in question(), first in any::<bool>(),
    ) {
        let mut wider = allow.clone();
        let at = if first { 0 } else { allow.len() };
        wider.splice(at..at, more.clone());
        if let Ok(before) = decided(&policy_of(&allow, &deny), &question) {
            let after = decided(&policy_of(&wider, &deny), &question);
            prop_assert!(after.is_ok_and(|after| keeps(before.request(), after.request())));
        }
        let stricter: Vec<_> = deny.iter().chain(&more).cloned().collect();
        if let Ok(after) = decided(&policy_of(&allow, &stricter), &question) {
            let before = decided(&policy_of(&allow, &deny), &question);
            prop_assert!(before.is_ok_and(|before| keeps(after.request(), before.request())));
        }
    }

    #[test]
    fn a_wider_pattern_never_narrows(
        kind in 0..KINDS.len(), narrow in any::<prop::sample::Index>(), wide in any::<prop::sample::Index>(),
        deny in blocks(2), question in question(),
    ) {
        let lines = KINDS[kind].1;
        let (narrow, wide) = (narrow.index(lines.len()), wide.index(lines.len()));
        let block = |line: usize| vec![format!("who = \"ana\"\n{}\n", lines[line])];
        if let Ok(before) = decided(&policy_of(&block(narrow.min(wide)), &deny), &question) {
            let after = decided(&policy_of(&block(narrow.max(wide)), &deny), &question);
            prop_assert!(after.is_ok_and(|after| keeps(before.request(), after.request())));
        }
    }

    #[test]
    fn check_and_gate_and_test_blocks_agree(allow in allow_blocks(6), deny in blocks(3), question in question()) {
        let policy = policy_of(&allow, &deny);
        let (kind, target, answers) = &question;
        let checked = decided(&policy, &question);
        // The gate's own types, as the providers get them.
        if let Ok(AnyRequest::Connect(asked)) = AnyRequest::parse(*kind, target) {
            let asked = Connect { addresses: answers.clone(), ..asked };
            let gate = decide(&policy, &user("ana"), asked, &Facts::default());
            let checked = checked.clone().map(|granted| match granted.into_parts() {
                (AnyRequest::Connect(connect), rule) => (connect, rule),
                other => panic!("{other:?}"),
            });
            prop_assert_eq!(gate.map(Granted::into_parts), checked);
        }
        if *kind != Kind::Profile {
            let is_name = matches!(AnyRequest::parse(*kind, target).map(|it| matches!(it.host(), Some((_, Host::Name(_), _)))), Ok(true));
            let resolves_to = if is_name { format!("resolves_to = {:?}\n", answers.iter().map(ToString::to_string).collect::<Vec<_>>()) } else { String::new() };
            let asked = if kind.takes_target() { format!("{target:?}") } else { "true".to_owned() };
            let (yes, no) = if checked.is_ok() { ("allow", "deny") } else { ("deny", "allow") };
            let with_test = |expect: &str| {
                let test = format!("[[test]]\nwho = \"ana\"\n{kind} = {asked}\n{resolves_to}expect = \"{expect}\"\n");
                Policy::parse(&format!("{}{test}", text_of(&allow, &deny)), "policy.toml")
            };
            prop_assert!(with_test(yes).is_ok());
            prop_assert!(with_test(no).is_err());
        }
    }

    #[test]
    fn a_refusal_shows_no_rule_of_another_user(allow in allow_blocks(6), deny in blocks(3), question in question()) {
        let foreign = |block: &String| ["\"bob\"\n", "[\"group:ops\""].iter().any(|who| block["who = ".len()..].starts_with(who));
        let hide = |blocks: &[String]| -> Vec<String> {
            blocks.iter().map(|block| if foreign(block) { format!("who = \"eve\"\n{}", "# nothing\n".repeat(block.lines().count() - 1)) } else { block.clone() }).collect()
        };
        let seen = decided(&policy_of(&allow, &deny), &question).map_err(|refusal| refusal.explain());
        let hidden = decided(&policy_of(&hide(&allow), &hide(&deny)), &question).map_err(|refusal| refusal.explain());
        prop_assert_eq!(seen, hidden);
    }

    #[test]
    fn a_refusal_ends_with_the_line_to_send_to_the_admin(
        allow in allow_blocks(6), deny in blocks(3), question in question(),
    ) {
        let (kind, target, _) = &question;
        if let Err(refusal) = decided(&policy_of(&allow, &deny), &question) {
            let refusal = match refusal.reason {
                Reason::BadHost(_) => refusal.shown_to_admin(&"ana".parse().unwrap(), *kind, target),
                _ => refusal,
            };
            let lines = refusal.explain();
            let last = lines.last().unwrap().trim_start();
            let is_line = ["allow", "check"].iter().any(|it| last.starts_with(&format!("capuchind {it} ana {kind}")));
            // A command that is cut off would be another command.
            prop_assert!(is_line || target.len() > 900, "{:?}", lines);
        }
    }

    #[test]
    fn adding_a_deny_never_grants_and_a_denied_address_is_never_kept(
        allow in prop::collection::vec(pattern(), 0..4), deny in pattern(), request in request(),
    ) {
        let (ana, facts) = (user("ana"), Facts::default());
        let before = decide(&ana_may(&list(&allow), &[]), &ana, request.clone(), &facts);
        let after = decide(&ana_may(&list(&allow), &[&deny]), &ana, request.clone(), &facts);
        if let Ok(after) = after {
            let before = before.unwrap();
            prop_assert!(after.request().addresses.iter().all(|it| before.request().addresses.contains(it)));
            // What was kept is refused by a policy that allows only what was denied: no deny covers it.
            for address in &after.request().addresses {
                let alone = Connect { addresses: vec![*address], ..request.clone() };
                prop_assert!(decide(&ana_may(&[&deny, "*:*"], &[&deny]), &ana, alone, &facts).map_or_else(
                    |refusal| refusal.reason != Reason::Denied, |_| true));
            }
        }
    }

    #[test]
    fn what_is_allowed_and_denied_alike_is_refused(rule in pattern(), request in request()) {
        let (ana, facts) = (user("ana"), Facts::default());
        prop_assert!(decide(&ana_may(&[&rule], &[&rule]), &ana, request, &facts).is_err());
    }

    #[test]
    fn adding_an_allow_never_removes_a_permission(
        rules in prop::collection::vec(pattern(), 0..4), deny in prop::collection::vec(pattern(), 0..2),
        more in pattern(), first in any::<bool>(), request in request(),
    ) {
        let (ana, facts) = (user("ana"), Facts::default());
        let mut wider = rules.clone();
        wider.insert(if first { 0 } else { rules.len() }, more);
        if let Ok(before) = decide(&ana_may(&list(&rules), &list(&deny)), &ana, request.clone(), &facts) {
            let after = decide(&ana_may(&list(&wider), &list(&deny)), &ana, request, &facts).unwrap();
            prop_assert!(before.request().addresses.iter().all(|it| after.request().addresses.contains(it)));
        }
    }

    #[test]
    fn what_may_not_match_is_refused_whatever_it_resolves_to(
        allow in prop::collection::vec(pattern(), 0..4), deny in prop::collection::vec(pattern(), 0..2),
        request in request(), answers in prop::collection::vec(any::<IpAddr>(), 0..8),
    ) {
        let (policy, ana) = (ana_may(&list(&allow), &list(&deny)), user("ana"));
        if may_match(&policy, &ana, Transport::Tcp, &request.host, request.port).is_err() {
            prop_assert!(decide(&policy, &ana, request.clone(), &Facts::default()).is_err());
            let other = Connect { addresses: answers, ..request };
            prop_assert!(decide(&policy, &ana, other, &Facts::default()).is_err());
        }
    }

    #[test]
    fn no_text_makes_the_host_parser_panic_and_its_spelling_is_stable(text in ".{0,300}") {
        if let Ok(host) = Host::parse(&text) {
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
        }
    }
}
