use proptest::prelude::*;

use super::*;
use crate::policy::PATTERNS_MAX;

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text, "policy.toml")
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// The value of one key in an `[[allow]]` for ana; the key stands on line 3.
fn allow(line: &str) -> String {
    format!("[[allow]]\nwho = \"ana\"\n{line}\n")
}

#[test]
fn the_whole_grammar_of_the_threat_model_parses() {
    let text = r#"
        [groups]
        dev = ["alice"]
        [[allow]]
        who = ["group:dev"]
        connect = ["db.internal:5432", "10.2.0.0/16:443", "*.svc.internal:8000-8999"]
        udp = ["10.2.0.53:53"]
        listen = ["127.0.0.1:9000-9099"]
        unix = ["/run/app.sock"]
        read = ["/srv/data"]
        write = ["/srv/data/out"]
        exec = [{ path = "/usr/bin/git", args = ["status"], exact = true }]
        shell = false
        python = false
        env = { send = ["LANG", "LC_*"], read = ["HOME"] }
        services = { offer = ["payroll"], use = ["calc"] }
        limits = { streams = 256, sessions = 8, mbit = 100, hours = 8 }
        unix_listen = ["/run/user/1000/*"]
        resolve = ["*.internal"]
        run_as = "alice"
        allow_root = false
        setuid = false
        detach = false
        [[deny]]
        who = "alice"
        connect = "*:25"
        shell = true
        exec = [{ path = "*" }]
        [[test]]
        who = "alice"
        connect = "127.0.0.1:22"
        expect = "deny"
    "#;
    parse(text).unwrap();
}

#[test]
fn an_empty_file_is_a_policy() {
    assert!(parse("").is_ok() && parse("# nothing\n").is_ok());
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_nearest() {
    assert_eq!(
        error("[[alow]]\nwho = \"ana\""),
        "policy.toml:1: unknown key \"alow\" in a policy: did you mean `allow`?"
    );
    assert_eq!(
        error(&allow("conect = []")),
        "policy.toml:3: unknown key \"conect\" in [[allow]]: did you mean `connect`?"
    );
    assert_eq!(
        error(&allow("env = { sent = [] }")),
        "policy.toml:3: unknown key \"sent\" in env: did you mean `send`?"
    );
    assert_eq!(
        error(&allow("limits = { gbit = 1 }")),
        "policy.toml:3: unknown key \"gbit\" in limits: did you mean `mbit`?"
    );
    assert_eq!(
        error(&allow("exec = [{ path = \"*\", arguments = [] }]")),
        "policy.toml:3: unknown key \"arguments\" in an entry of `exec`: use one of `path`, `args`, `exact`"
    );
}

#[test]
fn a_deny_has_no_terms_and_no_flags_that_say_nothing() {
    assert!(
        error("[[deny]]\nwho = \"ana\"\nlimits = {}").starts_with("policy.toml:3: unknown key \"limits\" in [[deny]]")
    );
    assert!(error("[[deny]]\nwho = \"ana\"\nshell = false").contains("false says nothing in [[deny]]"));
}

#[test]
fn every_value_is_checked_and_its_line_is_told() {
    for (line, message) in [
        ("connect = [\n\"a:1\",\n\"b\"]", "policy.toml:5: `connect`: \"b\" has no port"),
        ("connect = 5432", "policy.toml:3: `connect`: write a text in quotes"),
        ("connect = [\"127.1:80\"]", "policy.toml:3: `connect`: \"127.1\" is neither a name nor an address"),
        ("udp = [\"a:0\"]", "policy.toml:3: `udp`: \"0\" is not a port"),
        ("listen = [\"localhost:80\"]", "policy.toml:3: `listen`: \"localhost:80\" is a name"),
        ("unix = [\"app.sock\"]", "policy.toml:3: `unix`: \"app.sock\" is not an absolute path"),
        ("unix_listen = [\"/run/*/x\"]", "policy.toml:3: `unix_listen`: \"/run/*/x\": a `*` is the whole last"),
        ("read = [\"/srv/../etc\"]", "policy.toml:3: `read`: \"/srv/../etc\" is not an absolute path"),
        ("write = [\"/srv/*\"]", "policy.toml:3: `write`: \"/srv/*\": a folder covers everything below it"),
        ("exec = \"*\"", "policy.toml:3: `exec`: write a list such as"),
        ("exec = [\"git\"]", "policy.toml:3: `exec`: write a list such as"),
        ("exec = [{ args = [] }]", "policy.toml:3: an entry of `exec` needs a `path`"),
        ("exec = [{ path = \"git\" }]", "policy.toml:3: `path`: \"git\" is not an absolute path"),
        ("exec = [{ path = \"*\", exact = 1 }]", "policy.toml:3: `exact`: write true or false"),
        ("shell = \"yes\"", "policy.toml:3: `shell`: write true or false"),
        ("python = 1", "policy.toml:3: `python`: write true or false"),
        ("env = { send = [\"L*NG\"] }", "policy.toml:3: `send`: \"L*NG\" is not a variable"),
        ("env = [\"LANG\"]", "policy.toml:3: `env`: write a table"),
        ("services = { use = [\"a b\"] }", "policy.toml:3: `use`: \"a b\" is not a service"),
        ("limits = { streams = 0 }", "policy.toml:3: `streams`: write a whole number from 1 to 4294967295"),
        ("limits = { hours = -1 }", "policy.toml:3: `hours`: write a whole number"),
        ("limits = { mbit = 1.5 }", "policy.toml:3: `mbit`: write a whole number"),
        ("limits = { sessions = 4294967296 }", "policy.toml:3: `sessions`: write a whole number"),
        ("resolve = [\"10.0.0.1\"]", "policy.toml:3: `resolve`: \"10.0.0.1\" is not"),
        ("run_as = \"Al/ice\"", "policy.toml:3: `run_as`: \"Al/ice\" is not a user name"),
        ("allow_root = \"no\"", "policy.toml:3: `allow_root`: write true or false"),
        ("shell = true\nshell = true", "policy.toml:4: not TOML: "),
    ] {
        let error = error(&allow(line));
        assert!(error.starts_with(message), "{line}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn who_is_needed_and_names_users_and_known_groups() {
    assert_eq!(error("\n[[allow]]\nconnect = \"a:1\""), "policy.toml:2: [[allow]] needs a `who`");
    assert!(error("[[allow]]\nwho = []").contains("write at least one user"));
    assert!(error("[[allow]]\nwho = \"A/b\"").contains("is not a user name"));
    assert_eq!(
        error("groups.dev = []\n[[allow]]\nwho = [\"group:def\"]"),
        "policy.toml:3: unknown group \"def\": add `def = [\"alice\"]` to [groups]"
    );
    assert!(error("[groups]\n\"a b\" = []").contains("a group is named like a user"));
    assert!(error("[groups]\ndev = [\"group:ops\"]").contains("is not a user name"));
}

#[test]
fn nobody_is_two_users_of_the_machine() {
    let rule = |who: &str, run_as: &str| format!("[[allow]]\nwho = {who:?}\nrun_as = {run_as:?}\n");
    let groups = "groups.dev = [\"ana\", \"bob\"]\n";
    assert_eq!(
        error(&format!("{groups}{}{}", rule("group:dev", "dev"), rule("bob", "bob"))),
        "policy.toml:7: bob would run as dev and as bob: give all rules that name bob the same `run_as`"
    );
    let same = parse(&format!("{groups}{}{}", rule("group:dev", "dev"), rule("bob", "dev"))).unwrap();
    assert_eq!(same.terms(&"bob".parse().unwrap()).run_as, Some("dev".parse().unwrap()));
}

#[test]
fn terms_of_all_rules_of_a_user_add_up() {
    let policy = parse(
        "[[allow]]\nwho = [\"ana\", \"bob\"]\nlimits = { streams = 64, mbit = 10 }\nsetuid = true\n\
         [[allow]]\nwho = \"ana\"\nlimits = { streams = 8, sessions = 2, hours = 4 }\ndetach = true\nallow_root = true\n\
         [[allow]]\nwho = \"bob\"\npassword = false\n[[allow]]\nwho = \"bob\"\npassword = true\n",
    )
    .unwrap();
    let terms = |user: &str| policy.terms(&user.parse().unwrap());
    let ana = terms("ana");
    assert_eq!((ana.limits.streams, ana.limits.sessions, ana.limits.mbit), (Some(64), Some(2), Some(10)));
    assert_eq!((ana.limits.hours, ana.setuid, ana.detach, ana.allow_root), (Some(4), true, true, true));
    let bob = terms("bob");
    assert_eq!((bob.limits.sessions, bob.setuid, bob.detach, bob.allow_root), (None, true, false, false));
    // A rule that asks for a password is what there would be without it.
    assert!(bob.certificate_only && !ana.certificate_only);
    assert_eq!(terms("eve"), crate::policy::Terms::default());
}

#[test]
fn tables_where_arrays_of_tables_belong_are_told_apart() {
    assert!(error("[allow]\nwho = \"ana\"").starts_with("policy.toml:1: `allow`: write [[allow]]"));
    assert!(error("allow = [1]").starts_with("policy.toml:1: `allow`: write a table"));
    assert!(error("groups = 1").starts_with("policy.toml:1: `groups`: write a table"));
}

#[test]
fn a_test_that_fails_tells_its_line_the_decision_and_the_rule() {
    let rules = allow("connect = [\"*.internal:22\", \"127.0.0.1:22\"]");
    let test = |lines: &str| format!("{rules}[[test]]\nwho = \"ana\"\n{lines}\n");
    assert_eq!(
        error(&test("connect = \"127.0.0.1:22\"\nexpect = \"deny\"")),
        "policy.toml:4: test failed: it is allowed by policy.toml:3 connect = \"127.0.0.1:22\", \
         but the test expects \"deny\": change the rule or the test"
    );
    assert_eq!(
        error(&test("connect = \"db.internal:22\"\nresolves_to = [\"::1\"]\nexpect = \"allow\"")),
        "policy.toml:4: test failed: connect db.internal:22 is refused: ::1 is loopback, which a rule must name by its \
         address, by policy.toml:3 connect = \"*.internal:22\", but the test expects \"allow\": change the rule or the test"
    );
    assert!(error(&test("shell = true\nexpect = \"allow\"")).contains("shell is refused: no rule allows it"));
}

#[test]
fn tests_that_hold_keep_the_policy() {
    let rules = allow(
        "connect = [\"*.internal:22\", \"10.0.0.0/8:80\"]\nshell = true\nread = \"/srv/data\"\nenv.send = \"LC_*\"\n\
         listen = \"127.0.0.1:9000-9099\"\nexec = [{ path = \"/usr/bin/git\", args = [\"status\"] }]\nservices.use = \"calc\"",
    );
    for test in [
        "connect = \"db.internal:22\"\nexpect = \"allow\"",
        "connect = \"db.internal:22\"\nresolves_to = [\"10.0.0.1\", \"127.0.0.1\"]\nexpect = \"allow\"",
        "connect = \"db.internal:22\"\nresolves_to = []\nexpect = \"deny\"",
        "connect = \"x.example:80\"\nresolves_to = \"10.0.0.1\"\nexpect = \"allow\"",
        "connect = \"x.example:80\"\nexpect = \"deny\"",
        "connect = \"[::1]:22\"\nexpect = \"deny\"",
        "connect = \"2130706433:22\"\nexpect = \"deny\"",
        "shell = true\nexpect = \"allow\"",
        "python = true\nexpect = \"deny\"",
        "read = \"/srv/data/x\"\nexpect = \"allow\"",
        "read = \"/srv/data2\"\nexpect = \"deny\"",
        "write = \"/srv/data\"\nexpect = \"deny\"",
        "udp = \"10.0.0.1:80\"\nexpect = \"deny\"",
        "udp = \"x.internal:80\"\nresolves_to = \"10.0.0.1\"\nexpect = \"deny\"",
        "listen = \"127.0.0.1:9000/udp\"\nexpect = \"allow\"",
        "listen = \"0.0.0.0:9000\"\nexpect = \"deny\"",
        "exec = \"/usr/bin/git status -s\"\nexpect = \"allow\"",
        "exec = \"/usr/bin/git push\"\nexpect = \"deny\"",
        "env.send = \"LC_ALL\"\nexpect = \"allow\"",
        "env = { read = \"HOME\" }\nexpect = \"deny\"",
        "services.use = \"calc\"\nexpect = \"allow\"",
        "services.offer = \"calc\"\nexpect = \"deny\"",
        "resolve = \"db.internal\"\nexpect = \"allow\"",
        "unix = \"/run/app.sock\"\nexpect = \"deny\"",
        "unix_listen = \"/run/app.sock\"\nexpect = \"deny\"",
    ] {
        parse(&format!("{rules}[[test]]\nwho = \"ana\"\n{test}\n")).unwrap();
    }
}

#[test]
fn a_test_is_checked_as_strictly_as_a_rule() {
    let test = |lines: &str| error(&format!("[[test]]\n{lines}\n"));
    assert!(test("connect = \"a:1\"\nexpect = \"deny\"").contains("[[test]] needs a `who`"));
    assert!(test("who = \"ana\"\nexpect = \"deny\"").contains("[[test]] needs a `connect`"));
    assert!(test("who = \"ana\"\nconnect = \"a:1\"").contains("[[test]] needs a `expect`"));
    assert!(test("who = \"ana\"\nconnect = \"a:1\"\nexpect = \"maybe\"").contains("write \"allow\" or \"deny\""));
    assert!(test("who = \"group:dev\"\nconnect = \"a:1\"\nexpect = \"deny\"").contains("is not a user name"));
    assert!(test("who = \"ana\"\nconnect = \"a:1\"\nshell = true\nexpect = \"deny\"").contains("asks one thing"));
    assert!(test("who = \"ana\"\nconnect = \"a:*\"\nexpect = \"deny\"").contains("is not a port"));
    assert!(
        test("who = \"ana\"\nconnect = \"10.0.0.1:1\"\nresolves_to = []\nexpect = \"deny\"").contains("only a name")
    );
    assert!(test("who = \"ana\"\nexpects = \"deny\"").contains("did you mean `expect`?"));
    assert!(test("who = \"ana\"\nenv.sent = \"A\"\nexpect = \"deny\"").contains("did you mean `send`?"));
    assert!(test("who = \"ana\"\nenv = { send = \"A\", read = \"A\" }").contains("asks one thing"));
    assert!(test("who = \"ana\"\nenv.send = \"LC_*\"").contains("is not a variable"));
    assert!(test("who = \"ana\"\nread = \"/srv/../etc\"").contains("is not an absolute path"));
    assert!(test("who = \"ana\"\nexec = [{ path = \"/bin/a\" }]").contains("write a text in quotes"));
    assert!(test("who = \"ana\"\npython = false").contains("false says nothing in [[test]]"));
    assert!(test("who = \"ana\"\nprofile = true").contains("unknown key \"profile\""));
}

#[test]
fn a_test_of_a_pattern_is_an_error_whatever_it_expects() {
    for target in [
        "connect = \"10.0.0.0/8:22\"",
        "connect = \"*.internal:22\"",
        "connect = \"*:22\"",
        "connect = \"[10.0.0.1]:22\"",
        "connect = \"[fd00::/8]:22\"",
        "connect = \"a..b:1\"",
        "udp = \"*:53\"",
        "resolve = \"*.internal\"",
    ] {
        for expect in ["allow", "deny"] {
            let error = error(&format!("[[test]]\nwho = \"ana\"\n{target}\nexpect = \"{expect}\"\n"));
            assert!(error.starts_with("policy.toml:3: "), "{error}");
            assert!(error.contains("a test names one target, not a pattern"), "{error}");
        }
    }
    // What resolvers make an address of is refused, whatever a rule says.
    let numeric = |expect: &str| {
        let rules = allow("connect = \"*:*\"");
        parse(&format!("{rules}[[test]]\nwho = \"ana\"\nconnect = \"0x7f.1:22\"\nexpect = \"{expect}\"\n"))
    };
    assert!(numeric("deny").is_ok() && numeric("allow").is_err());
}

#[test]
fn a_file_has_a_largest_size_and_a_largest_number_of_patterns() {
    let text = "#".repeat(POLICY_BYTES_MAX + 1);
    assert!(parse(&text[1..]).is_ok());
    assert!(error(&text).starts_with("policy.toml:1: the file has 1048577 bytes"));

    let with = |patterns: usize| parse(&allow(&format!("connect = [{}]", "\"a:1\",\n".repeat(patterns))));
    assert!(with(PATTERNS_MAX - 1).is_ok() && with(PATTERNS_MAX).is_err(), "one is the name in `who`");
    // Those of tests and of groups count as well.
    let test = "[[test]]\nwho = \"ana\"\nconnect = \"a:1\"\nexpect = \"allow\"\nresolves_to = \"10.0.0.1\"\n[groups]\ng = \"ana\"\n";
    let with_test =
        |patterns: usize| parse(&(allow(&format!("connect = [{}]", "\"a:1\",\n".repeat(patterns))) + test)).map(drop);
    let over = with_test(PATTERNS_MAX - 5).unwrap_err();
    assert!(with_test(PATTERNS_MAX - 6).is_ok() && matches!(over.problem, Problem::TooManyPatterns { .. }), "{over}");
    let error = with(PATTERNS_MAX + 1).unwrap_err();
    assert_eq!((error.line, error.problem), (10_003, Problem::TooManyPatterns { limit: PATTERNS_MAX }));
}

#[test]
fn a_text_has_a_largest_size() {
    let path = |bytes: usize| parse(&allow(&format!("read = \"/{}\"", "a".repeat(bytes - 1))));
    assert!(path(4095).is_ok());
    assert_eq!(path(4096).unwrap_err().to_string(), "policy.toml:3: `read`: a text has at most 4095 bytes");
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    for depth in [100, 100_000] {
        assert!(parse(&allow(&format!("connect = {}", "[".repeat(depth)))).is_err());
        assert!(parse(&allow(&format!("connect = {}{}", "[".repeat(depth), "]".repeat(depth)))).is_err());
        assert!(parse(&allow(&format!("{} = 1", vec!["a"; depth].join(".")))).is_err());
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}", key in "[a-z_]{1,12}", value in "[\\[\\]{}\"a-z0-9.:/*=, -]{0,40}") {
        let _ = parse(&text);
        let _ = parse(&allow(&format!("{key} = {value}")));
        let _ = parse(&allow(&format!("connect = [{value:?}]")));
    }
}
