//! `capuchin doctor` and what a machine does not give, taken away for real: it promises no way that a program could not go.

use std::{fs, process::Command};

use serde_json::Value;

use crate::{
    machine::{Machine, Within},
    support::{fails, json, run, text, wait_until},
    under_filter::under_filter,
};

/// Each of the calls in `numbers` fails as a container's profile has it; with `namespaces`, unshare(2) and a clone(2) with
/// namespaces too.
const TAKEN: &str = r#"
numbers, namespaces = PARAMETERS
row = {"x86_64": 0, "aarch64": 1}[platform.machine()]
calls = {"seccomp": (317, 277), "pidfd_getfd": (438, 438), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "unshare": (272, 97)}
denied, allowed = (0x06, 0, 0, 0x50000 | 1), (0x06, 0, 0, 0x7fff0000)
steps = [(0x20, 0, 0, 0)]
for name in numbers + (["unshare"] if namespaces else []):
    steps += [(0x15, 0, 1, calls[name][row]), denied]
if namespaces:
    # CLONE_NEWNS to CLONE_NEWNET, of the first argument.
    steps += [(0x15, 0, 3, (56, 220)[row]), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7e020000), denied]
steps += [allowed]
"#;

fn without(within: &Within, taken: &[&str], namespaces: bool, command: &Command) -> Command {
    let namespaces = if namespaces { "True" } else { "False" };
    under_filter(within, &TAKEN.replace("PARAMETERS", &format!("{taken:?}, {namespaces}")), command)
}

/// What doctor says of this machine and of a program: state and text of each check, with the mends.
fn doctor(within: &Within, taken: &[&str], namespaces: bool) -> Vec<(String, String, String)> {
    let mut doctor = within.capuchin();
    doctor.args(["doctor", "--json", "--", "sh"]);
    let output = without(within, taken, namespaces, &doctor).output().unwrap();
    let document = json(&output.stdout);
    let checks: Vec<_> = document["checks"].as_array().unwrap().iter().map(told).collect();
    let broken = checks.iter().any(|(_, state, _)| state == "fail");
    assert_eq!(output.status.code() == Some(2), broken, "{checks:?}");
    nobody_is_left(within);
    checks
}

fn told(check: &Value) -> (String, String, String) {
    let text = |name: &str| check[name].as_str().unwrap().to_owned();
    let mend: Vec<_> = check["mend"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(text("state") == "ok" || !mend.is_empty(), "{check} says nothing of how to mend it");
    (text("name"), text("state"), format!("{}\n{}", text("text"), mend.join("\n")))
}

fn state<'a>(checks: &'a [(String, String, String)], name: &str) -> Option<(&'a str, &'a str)> {
    let found = checks.iter().find(|(check, ..)| check == name);
    found.map(|(_, state, text)| (state.as_str(), text.as_str()))
}

/// Of the command in this home no process runs any more.
fn nobody_is_left(within: &Within) {
    // A half that ends because the other one has may be there for a moment.
    wait_until("nobody is left", || {
        let mut processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path().join("exe")));
        !processes.any(|exe| fs::read_link(exe).is_ok_and(|of| of == within.capuchin_path()))
    });
}

#[test]
fn without_namespaces_the_filter_is_tried_and_promised_only_where_it_holds_a_program() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let checks = doctor(&within, &[], true);
        assert_eq!(state(&checks, "namespaces").unwrap().0, "fail", "{checks:?}");
        assert!(state(&checks, "namespaces").unwrap().1.contains("or add --no-netns"), "{checks:?}");
        assert_eq!(state(&checks, "no-netns").unwrap().0, "ok", "{checks:?}");
        assert!(state(&checks, "mode").unwrap().1.contains("it would run with --no-netns alone"), "{checks:?}");

        let mark = within.home.folder.path().join("ran");
        let touch = within.run_with(&["--no-netns"], &["touch", mark.to_str().unwrap()]);
        for (taken, why, mend) in [
            ("seccomp", "cannot confine the program", "--security-opt seccomp=unconfined"),
            ("pidfd_getfd", "cannot do the program's system calls in its place", "--cap-add SYS_PTRACE"),
            ("process_vm_readv", "cannot do the program's system calls in its place", "--cap-add SYS_PTRACE"),
            ("process_vm_writev", "cannot do the program's system calls in its place", "--cap-add SYS_PTRACE"),
        ] {
            let checks = doctor(&within, &[taken], true);
            let (found, said) = state(&checks, "no-netns").unwrap();
            assert!(found == "fail" && said.contains(why) && said.contains(mend), "{taken}: {checks:?}");
            let (found, said) = state(&checks, "mode").unwrap();
            assert!(found == "fail" && said.contains("it would not run"), "{taken}: {checks:?}");
            assert!(!format!("{checks:?}").contains("or add --no-netns"), "{taken}: {checks:?}");
            // It is as doctor says, where a program needs it at its start.
            if ["seccomp", "pidfd_getfd"].contains(&taken) {
                let said = fails(&mut without(&within, &[taken], true, &touch), 255);
                assert!(said.contains(why) && said.contains(mend), "{taken}: {said}");
                assert!(!mark.exists(), "nothing runs unprotected");
                nobody_is_left(&within);
            }
        }
        run(&mut without(&within, &[], true, &touch));
        assert!(mark.exists());
        fs::remove_file(mark).unwrap();
    }
}

#[test]
fn a_machine_on_which_nobody_can_listen_says_so_and_serves_clients() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let checks = doctor(&within, &["pidfd_getfd"], false);
        let (found, said) = state(&checks, "listening").unwrap();
        assert!(found == "warn" && said.contains("cannot listen") && said.contains("--cap-add"), "{checks:?}");
        assert_eq!(state(&checks, "way").unwrap().0, "ok", "{checks:?}");
        assert_eq!(state(&checks, "no-netns"), None, "{checks:?}");
        let page = ["curl", "-sS", "--noproxy", "*", "-m", "20", "http://10.77.0.1/"];
        let fetched = run(&mut without(&within, &["pidfd_getfd"], false, &within.run(&page)));
        assert_eq!(text(fetched.stdout), "::ffff:10.77.0.1", "as {}", within.uid);

        let checks = doctor(&within, &["seccomp"], false);
        assert_eq!(state(&checks, "seccomp").unwrap().0, "fail", "{checks:?}");
        assert_eq!(state(&checks, "no-netns").unwrap().0, "fail", "{checks:?}");
        assert_eq!(state(&doctor(&within, &[], false), "listening").unwrap().0, "ok");
    }
}
