//! `capuchin doctor`: each broken step is named, with its mend, and nothing behind it is blamed.

use std::{io::Write, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::Value;

use crate::{
    origin,
    support::{Home, LOOPBACK, Lab, clock::Clock, json, own_uid, run, starts, text},
};

/// The checks by name, and the exit status, which the worst of them decides.
fn doctor(home: &Home, arguments: &[&str]) -> (Vec<(String, String, String)>, i32) {
    doctor_of(&mut home.capuchin(), arguments)
}

/// As above, for a command of `capuchin` that is prepared in its own way.
fn doctor_of(capuchin: &mut Command, arguments: &[&str]) -> (Vec<(String, String, String)>, i32) {
    let output = capuchin.arg("doctor").arg("--json").args(arguments).output().unwrap();
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
    assert_eq!(checks.last().unwrap().0, "tcp", "{checks:?}");
}

/// What is told of the way to a host, in the order in which it is told.
fn on_the_way(checks: &[(String, String, String)]) -> Vec<(&str, &str)> {
    let join = checks.iter().position(|(name, ..)| name == "join").unwrap();
    checks[join..].iter().map(|(name, state, _)| (name.as_str(), state.as_str())).collect()
}

/// What is told of a host that is joined and logged in at, before anybody goes there.
const HERE: [(&str, &str); 4] = [("join", "ok"), ("clock", "ok"), ("certificate", "ok"), ("ticket", "ok")];

#[test]
fn names_that_nobody_knows_are_all_that_is_blamed() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let set = |addresses: &[&str]| run(home.capuchin().args(["hosts", "set", "lab"]).args(addresses));
    // A label of more than 63 bytes, for which nobody has to be asked.
    let unknown = format!("{}.invalid:1", "a".repeat(64));
    set(&[&unknown]);
    let (checks, code) = doctor(&home, &["lab"]);
    assert_eq!((on_the_way(&checks), code), ([&HERE[..], &[("names", "fail")]].concat(), 2), "{checks:?}");
    let names = state(&checks, "names").1;
    assert!(names.starts_with(&unknown) && names.contains("capuchin hosts set"), "{names}");
    set(&[&unknown, &lab.address.to_string()]);
    let (checks, code) = doctor(&home, &["lab"]);
    assert_eq!((state(&checks, "names").0, code), ("warn", 1), "{checks:?}");
    for name in ["tcp", "tls", "login"] {
        assert_eq!(state(&checks, name).0, "ok", "{checks:?}");
    }
}

#[test]
fn whoever_answers_in_a_lenders_place_is_told_by_tls() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (another, plain) = (
        Lab::start(LOOPBACK),
        origin(|mut socket| {
            let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        }),
    );
    for (address, says) in [(another.address, "is not lab"), (plain, "does not speak capuchin's TLS")] {
        run(home.capuchin().args(["hosts", "set", "lab", &address.to_string()]));
        let (checks, code) = doctor(&home, &["lab"]);
        let way = [&HERE[..], &[("names", "ok"), ("tcp", "ok"), ("tls", "fail")]].concat();
        assert_eq!((on_the_way(&checks), code), (way, 2), "{checks:?}");
        assert!(state(&checks, "tls").1.contains(says), "{checks:?}");
    }
}

#[test]
fn a_clock_that_is_wrong_and_a_certificate_that_has_ended_are_told_apart() {
    const DAY: i64 = 24 * 60 * 60;
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let at = |days: i64| {
        let clock = Clock::new();
        clock.set_by(days * DAY);
        doctor_of(home.capuchin().envs(clock.environment()), &["lab"])
    };
    let (checks, code) = at(-10);
    assert_eq!((state(&checks, "clock").0, state(&checks, "certificate").0, code), ("fail", "ok", 2), "{checks:?}");
    assert!(state(&checks, "clock").1.contains("timedatectl set-ntp true"), "{checks:?}");
    assert!(state(&checks, "tls").1.contains("the certificate of lab is not valid yet"), "{checks:?}");
    // For some time the lender renews it still, and then no more.
    for (days, step) in [(100, "login"), (1000, "tls")] {
        let (checks, code) = at(days);
        let broken = [("clock", "ok"), ("certificate", "fail"), ("ticket", "fail"), (step, "fail")];
        for (name, expected) in broken {
            assert_eq!((state(&checks, name).0, code), (expected, 2), "{name}: {checks:?}");
        }
        assert!(state(&checks, "certificate").1.contains("`capuchin login` renews it"), "{checks:?}");
        assert!(state(&checks, "ticket").1.contains("capuchin login lab"), "{checks:?}");
    }
    assert!(state(&at(1000).0, "tls").1.contains("now join again"));
}

/// `capuchin` on a machine that a script has changed, for it alone.
fn where_the_machine_is(home: &Home, script: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{script} && exec \"$@\"");
    command.args((own_uid() != 0).then_some("--map-root-user")).args(["--mount", "sh", "-c", &script, "sh"]);
    starts(&mut command, &home.capuchin());
    command
}

#[test]
fn what_opens_dev_fuse_and_whether_io_uring_is_switched_off_is_told() {
    let home = Home::new();
    let told = |script: &str, name: &str| {
        let (checks, _) = doctor_of(&mut where_the_machine_is(&home, script), &[]);
        let (state, text) = state(&checks, name);
        (state.to_owned(), text.to_owned())
    };
    let is = |(found, text): (String, String), state: &str, says: &str| {
        assert!(found == state && text.contains(says), "{found}: {text}");
    };
    // What every program may open takes the place of the device, in case this machine has none.
    let devices = "mount -t tmpfs devices /dev";
    is(told(&format!("{devices} && touch /dev/fuse"), "fuse"), "ok", "remote files can be mounted");
    is(told(devices, "fuse"), "warn", "sudo modprobe fuse");
    is(told(&format!("{devices} && mkdir /dev/fuse"), "fuse"), "warn", "sudo chmod 666 /dev/fuse");
    // Kernels before 6.6 have no such switch.
    let switch =
        |value| format!("mount -t tmpfs kernel /proc/sys/kernel && echo {value} > /proc/sys/kernel/io_uring_disabled");
    is(told(&switch(2), "io_uring"), "ok", "this kernel has it switched off");
    for value in [0, 1] {
        is(told(&switch(value), "io_uring"), "ok", "find it missing, and fall back");
    }
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
