//! `capuchin doctor`: each broken step is named, with its mend, and nothing behind it is blamed.

use serde_json::Value;

use crate::support::{Home, LOOPBACK, Lab, json};

/// The checks by name, and the exit status.
fn doctor(home: &Home, arguments: &[&str]) -> (Vec<(String, String, String)>, i32) {
    let output = home.capuchin().arg("doctor").arg("--json").args(arguments).output().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let document = json(&output.stdout);
    let checks = document["checks"].as_array().unwrap().iter().map(|check| {
        let mend: Vec<_> = check["mend"].as_array().unwrap().iter().map(text).collect();
        (text(&check["name"]), text(&check["state"]), format!("{}\n{}", text(&check["text"]), mend.join("\n")))
    });
    (checks.collect(), output.status.code().unwrap())
}

fn state<'a>(checks: &'a [(String, String, String)], name: &str) -> (&'a str, &'a str) {
    let found = checks.iter().find(|(check, ..)| check == name);
    let (_, state, text) = found.unwrap_or_else(|| panic!("no check of {name} in {checks:?}"));
    (state, text)
}

#[test]
fn a_machine_and_a_host_in_order_are_all_ok() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (checks, code) = doctor(&home, &["lab"]);
    for name in ["kernel", "namespaces", "tproxy", "nf_tables", "routes", "seccomp"] {
        assert_eq!(state(&checks, name).0, "ok", "{checks:?}");
    }
    for name in ["join", "clock", "certificate", "ticket", "names", "tcp", "tls", "login", "round trip"] {
        assert_eq!(state(&checks, name).0, "ok", "{checks:?}");
    }
    let worst = if checks.iter().any(|(_, state, _)| state == "warn") { 1 } else { 0 };
    assert_eq!(code, worst);
    assert!(state(&checks, "login").1.starts_with("as alice in "));
}

#[test]
fn what_the_policy_lets_its_user_do_is_listed() {
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"db.internal:5432\"]\nshell = true\n\
        [[deny]]\nwho = \"alice\"\nconnect = [\"10.0.0.0/8:*\"]\n[[allow]]\nwho = \"carol\"\nudp = [\"10.9.9.9:53\"]\n";
    let lab = Lab::start(policy);
    let rules = |user| {
        let (checks, _) = doctor(&lab.join(user), &["lab"]);
        checks
            .into_iter()
            .filter(|(name, ..)| name == "policy")
            .map(|(_, state, text)| (state, text))
            .collect::<Vec<_>>()
    };
    let file = lab.dir().join("policy.toml").display().to_string();
    let ok = |text: &str| ("ok".to_owned(), format!("{}\n", text.replace("policy.toml", &file)));
    assert_eq!(
        rules("alice"),
        [
            ok("allows policy.toml:3 connect = \"db.internal:5432\""),
            ok("allows policy.toml:4 shell = true"),
            ok("denies policy.toml:7 connect = \"10.0.0.0/8:*\""),
        ]
    );
    let [(state, text)] = &rules("bob")[..] else { panic!("one line") };
    assert!(state == "warn" && text.contains("allows bob nothing") && text.contains("capuchind allow bob"), "{text}");
}

#[test]
fn each_broken_step_is_named_with_its_mend() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (checks, code) = doctor(&home, &["attic"]);
    assert_eq!((state(&checks, "join").0, code), ("fail", 2));
    assert!(state(&checks, "join").1.contains("capuchin join"), "{checks:?}");

    std::fs::remove_file(home.folder.path().join("state/capuchin/tickets/lab/alice")).unwrap();
    let (checks, _) = doctor(&home, &["lab"]);
    assert_eq!((state(&checks, "ticket").0, state(&checks, "tcp").0), ("fail", "ok"), "{checks:?}");
    assert!(state(&checks, "ticket").1.contains("capuchin login lab"));

    lab.daemon.kill();
    let (checks, code) = doctor(&home, &["lab"]);
    assert_eq!((state(&checks, "names").0, state(&checks, "tcp").0, code), ("ok", "fail", 2), "{checks:?}");
    assert!(state(&checks, "tcp").1.contains("is capuchind running there"));
}

#[test]
fn a_program_is_looked_at_and_not_started() {
    let home = Home::new();
    let (checks, _) = doctor(&home, &["--", "/bin/sh", "-c", "exit 77"]);
    assert!(state(&checks, "program").1.contains("dynamic"), "{checks:?}");
    let (checks, code) = doctor(&home, &["--", "no-such-program"]);
    assert_eq!((state(&checks, "program").0, code), ("fail", 2));
}
