//! `capuchin doctor`: each broken step is named, with its mend, and nothing behind it is blamed.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::Value;

use crate::support::{Home, LOOPBACK, Lab, json, own_uid, run, text};

/// The checks by name, and the exit status, which the worst of them decides.
fn doctor(home: &Home, arguments: &[&str]) -> (Vec<(String, String, String)>, i32) {
    let output = home.capuchin().arg("doctor").arg("--json").args(arguments).output().unwrap();
    let value_text = |value: &Value| value.as_str().unwrap().to_owned();
    let document = json(&output.stdout);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document), ["checks"]);
    let checks: Vec<_> = document["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| {
            let mut names = keys(check);
            names.sort();
            assert_eq!(names, ["mend", "name", "state", "text"]);
            let mend: Vec<_> = check["mend"].as_array().unwrap().iter().map(value_text).collect();
            let (name, state) = (value_text(&check["name"]), value_text(&check["state"]));
            assert!(state == "ok" || !mend.is_empty(), "{check} says nothing of how to mend it");
            (name, state, format!("{}\n{}", value_text(&check["text"]), mend.join("\n")))
        })
        .collect();
    let worst = checks
        .iter()
        .map(|(_, state, _)| ["ok", "warn", "fail"].iter().position(|known| known == state).unwrap())
        .max();
    let code = output.status.code().unwrap();
    assert_eq!(usize::try_from(code).ok(), worst, "{checks:?}");
    (checks, code)
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

    run(lab.admin().args(["user", "remove", "alice"]));
    let (checks, code) = doctor(&home, &["lab"]);
    assert_eq!((state(&checks, "login").0, code), ("fail", 2), "{checks:?}");
    let mend = "capuchind user add alice && capuchind invite alice";
    assert!(
        state(&checks, "login").1.contains("alice is no user of this lender")
            && state(&checks, "login").1.contains(mend)
    );

    lab.daemon.kill();
    let (checks, code) = doctor(&home, &["lab"]);
    assert_eq!((state(&checks, "names").0, state(&checks, "tcp").0, code), ("ok", "fail", 2), "{checks:?}");
    assert!(state(&checks, "tcp").1.contains("is capuchind running there"));
}

/// What came of looking at a program: its kind, how it would run, and the exit status.
fn program(home: &Home, path: &Path) -> (Vec<(String, String, String)>, i32) {
    doctor(home, &["--", path.to_str().unwrap(), "never", "run"])
}

#[test]
fn programs_of_each_kind_are_looked_at_and_not_started() {
    let home = Home::new();
    let file = |name: &str| home.folder.path().join(name);
    let ran = file("ran");
    let source = format!("#include <fcntl.h>\nint main(void) {{ creat(\"{}\", 0644); return 77; }}\n", ran.display());
    std::fs::write(file("source.c"), source).unwrap();
    for (name, how) in [("dynamic", None), ("static", Some("-static"))] {
        run(Command::new("cc").args(how).arg("-o").arg(file(name)).arg(file("source.c")));
    }
    std::fs::write(file("script"), format!("#!/bin/sh -e\ntouch {}\n", ran.display())).unwrap();
    std::fs::write(file("orphan"), "#!/no/such/interpreter\n").unwrap();
    std::fs::write(file("foreign-lines"), "#!/bin/sh\r\nexit\r\n").unwrap();
    std::fs::write(file("lost"), "#!/usr/bin/env -S A=b no-such-interpreter -u\n").unwrap();
    std::fs::write(file("text"), "hello\n").unwrap();
    // A name that is as long, and nowhere.
    let mut foreign = std::fs::read(file("dynamic")).unwrap();
    let loader = foreign.windows(4).position(|bytes| bytes == b"/lib").unwrap();
    foreign[loader..loader + 4].copy_from_slice(b"/not");
    std::fs::write(file("foreign"), foreign).unwrap();
    let mut old = std::fs::read(file("static")).unwrap();
    // The class of its header.
    old[4] = 1;
    std::fs::write(file("old"), old).unwrap();
    std::fs::copy(file("dynamic"), file("set-id")).unwrap();
    let mode = |name: &str, mode| std::fs::set_permissions(file(name), PermissionsExt::from_mode(mode)).unwrap();
    ["script", "orphan", "lost", "foreign", "foreign-lines", "text", "old"].iter().for_each(|name| mode(name, 0o755));
    mode("set-id", 0o4755);

    for (name, state_of_it, says) in [
        ("dynamic", "ok", "dynamic; it runs as it is"),
        ("static", "ok", "static; it runs as it is"),
        ("script", "ok", "a script of /bin/sh -e"),
        ("orphan", "fail", "/no/such/interpreter, which is not there"),
        ("lost", "fail", "no-such-interpreter, which is not there"),
        ("foreign", "fail", "needs the loader /not"),
        ("foreign-lines", "fail", "sed -i"),
        ("old", "ok", "of 32 bits"),
        ("text", "warn", "no ELF program and no script"),
    ] {
        let (checks, code) = program(&home, &file(name));
        let (found, text) = state(&checks, "program");
        assert!(found == state_of_it && text.contains(says), "{name}: {checks:?}");
        assert!(state(&checks, "mode").1.contains("in a network namespace of its own"), "{name}: {checks:?}");
        assert!(name != "orphan" || code == 2, "{name}: {code}");
    }
    let (checks, code) = program(&home, &file("old"));
    assert_eq!((state(&checks, "32 bits").0, code), ("warn", 1), "{checks:?}");
    let (checks, code) = program(&home, &file("set-id"));
    assert_eq!((state(&checks, "set-id").0, code), ("warn", 1), "{checks:?}");
    assert!(state(&checks, "set-id").1.contains("gains nothing"), "{checks:?}");
    if own_uid() == 0 {
        // As ping(8) has it on many systems: nobody else may give it.
        let give = "import os, sys; os.setxattr(sys.argv[1], 'security.capability', bytes.fromhex('01000002' '00200000') + bytes(12))";
        run(Command::new("python3").args(["-c", give]).arg(file("dynamic")));
        let (checks, code) = program(&home, &file("dynamic"));
        assert_eq!((state(&checks, "set-id").0, code), ("warn", 1), "{checks:?}");
        assert!(state(&checks, "set-id").1.contains("capabilities of its own"), "{checks:?}");
    }
    for name in ["source.c", "missing"] {
        let (checks, code) = program(&home, &file(name));
        assert_eq!((state(&checks, "program").0, code), ("fail", 2), "{name}: {checks:?}");
    }
    let (checks, _) = doctor(&home, &["--", "sh"]);
    assert!(state(&checks, "program").1.contains("/sh: dynamic"), "{checks:?}");
    assert!(!ran.exists(), "one of them was started");
}

#[test]
fn a_person_reads_a_line_for_each_check_and_for_each_mend() {
    let home = Home::new();
    let program = ["--", "no-such-program"];
    let (checks, _) = doctor(&home, &program);
    let output = home.capuchin().arg("doctor").args(program).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(output.stdout);
    let (mends, lines): (Vec<_>, Vec<_>) = said.lines().partition(|line| line.starts_with("      = "));
    let expected: Vec<_> = checks.iter().map(|(name, state, _)| (state.as_str(), name.as_str())).collect();
    let found: Vec<_> = lines.iter().map(|line| (line[..4].trim_end(), line[6..18].trim_end())).collect();
    assert_eq!(found, expected, "{said}");
    assert!(mends.iter().any(|mend| mend.contains("name a program in PATH")), "{said}");
}
