//! Whom a command means: the command line, then the environment, then `config.toml`, then what was joined.

use std::sync::atomic::{AtomicU16, Ordering};

use crate::support::{Home, LOOPBACK, Lab, fails, run};

/// As whom the lender let this command in.
fn logged_in(lab: &Lab, home: &Home, env: &[(&str, &str)], arguments: &[&str]) -> String {
    // A port of its own, by which the log knows the command.
    static PORT: AtomicU16 = AtomicU16::new(1);
    let target = format!("127.0.0.1:{}", PORT.fetch_add(1, Ordering::Relaxed));
    let mut command = home.capuchin();
    run(command.arg("check").args(arguments).args(["connect", &target]).envs(env.iter().copied()));
    let asked = lab.wait_for_audit("the question", |line| {
        line["event"] == "check" && line["target"].as_str().is_some_and(|asked| asked.ends_with(&format!(" {target}")))
    });
    asked["user"].as_str().unwrap().to_owned()
}

/// Writes `config.toml`.
pub fn settle(home: &Home, text: &str) {
    std::fs::write(home.folder.path().join("config/capuchin/config.toml"), text).unwrap();
}

#[test]
fn the_command_line_counts_more_than_the_environment_and_that_more_than_the_file() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    lab.join_at("bob", &home);
    assert_eq!(logged_in(&lab, &home, &[], &["lab"]), "alice", "who joined first");
    settle(&home, "[defaults]\nuser = \"bob\"\n");
    assert_eq!(logged_in(&lab, &home, &[], &["lab"]), "bob");
    settle(&home, "[defaults]\nuser = \"alice\"\n[host.lab]\nuser = \"bob\"\n");
    assert_eq!(logged_in(&lab, &home, &[], &["lab"]), "bob");
    let env = [("CAPUCHIN_USER", "alice")];
    assert_eq!(logged_in(&lab, &home, &env, &["lab"]), "alice");
    assert_eq!(logged_in(&lab, &home, &env, &["bob@lab"]), "bob");
    assert_eq!(logged_in(&lab, &home, &env, &["-l", "bob", "lab"]), "bob");
}

#[test]
fn an_address_of_the_file_and_a_port_of_the_command_line_lead_there_and_nowhere_else() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    settle(&home, "[host.lab]\naddress = \"127.0.0.1:1\"\n");
    let check = |arguments: &[&str]| {
        let mut command = home.capuchin();
        command.arg("check").args(arguments).args(["connect", "127.0.0.1:9"]);
        command
    };
    let stderr = fails(&mut check(&["lab"]), 2);
    assert!(stderr.starts_with("error[unreachable]: cannot reach lab at 127.0.0.1:1:"), "{stderr}");
    let port = lab.address.port().to_string();
    run(&mut check(&["-p", &port, "lab"]));
    run(check(&["lab"]).env("CAPUCHIN_PORT", &port));
    run(&mut check(&[&format!("alice@lab:{port}")]));
    // What was settled is not written into the profile.
    std::fs::remove_file(home.folder.path().join("config/capuchin/config.toml")).unwrap();
    run(&mut check(&["lab"]));
}

#[test]
fn a_broken_file_or_variable_says_which_and_nothing_is_sent() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let logins = || lab.audit().iter().filter(|line| line["event"] == "login").count();
    let before = logins();
    let check = |key: &str, value: &str| {
        let mut command = home.capuchin();
        command.args(["check", "lab", "connect", "127.0.0.1:9"]).env(key, value);
        fails(&mut command, 2)
    };
    assert!(check("CAPUCHIN_USER", "Not A User").contains("CAPUCHIN_USER"));
    assert!(check("CAPUCHIN_PORT", "70000").contains("CAPUCHIN_PORT"));
    settle(&home, "[host.lab]\nadress = \"a:1\"\n");
    let stderr = check("CAPUCHIN_LOG", "warn");
    assert!(stderr.starts_with("error[config]") && stderr.contains("config.toml"), "{stderr}");
    assert_eq!(logins(), before);
}

#[test]
fn a_bare_forward_opens_what_is_settled_for_its_host() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = crate::origin(crate::echo);
    settle(&home, &format!("[host.lab]\nforwards = [\"-L 0:{server}\", \"-D 0\"]\n"));
    let (_forward, opened) = crate::remote::forward(&home, &[], 2);
    crate::round_trip(&crate::dial(opened[0].parse().unwrap()), b"settled").unwrap();
    let output = run(home.capuchin().args(["forward", "lab", "-f"]));
    let said = String::from_utf8(output.stdout).unwrap();
    let local = said.split(' ').nth(1).unwrap().parse().unwrap();
    crate::round_trip(&crate::dial(local), b"settled, in the background").unwrap();
    for words in [&["forward", "lab"][..], &["forward", "lab", "-f"]] {
        settle(&home, "[host.lab]\nforwards = [\"-L 80\"]\n");
        let said = fails(home.capuchin().args(words), 255);
        assert!(said.starts_with("error[config]: forwards of lab in config.toml"), "{said}");
        settle(&home, "");
        let said = fails(home.capuchin().args(words), 255);
        assert!(said.starts_with("error[usage]: there is nothing to forward"), "{said}");
    }
    // Ends what is in the background, too.
    run(lab.admin().args(["revoke", "--user", "alice"]));
}

#[test]
fn an_address_that_is_set_without_effect_is_told_and_the_one_in_effect_is_listed() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let set = || run(home.capuchin().args(["hosts", "set", "lab", "127.0.0.1:2"])).stderr;
    assert!(set().is_empty());
    settle(&home, "[host.lab]\naddress = \"127.0.0.1:1\"\n");
    let said = String::from_utf8(set()).unwrap();
    assert!(said.starts_with("warning: ") && said.contains("127.0.0.1:1 ") && said.contains("config.toml"), "{said}");
    let hosts = crate::support::json(&run(home.capuchin().args(["hosts", "--json"])).stdout);
    assert_eq!(hosts["hosts"][0]["addresses"], serde_json::json!(["127.0.0.1:1"]));
}
