//! Rules that can never take effect.

use std::fs;

use crate::support::{Lab, json, run};

#[test]
fn an_allow_that_a_deny_covers_whole_is_told_of_when_it_is_read_and_when_it_is_asked_about() {
    let allow = "[[allow]]\nwho = [\"alice\", \"bob\"]\nconnect = [\"127.0.0.1:80\", \"127.0.0.1:81\"]\n";
    let lab = Lab::start(&format!("{allow}[[deny]]\nwho = [\"alice\", \"bob\"]\nconnect = \"127.0.0.0/8:80\"\n"));
    let file = lab.dir().join("policy.toml").display().to_string();
    let warning = |port: u16, deny: &str| {
        format!(
            "{file}:3 connect = \"127.0.0.1:{port}\" allows no connect: {file}:6 connect = {deny:?} denies all of it"
        )
    };
    let told = |port, deny| {
        let line = lab.daemon.wait_for_line("can never take effect");
        let said = warning(port, deny);
        assert!(line.contains(&said) || line.contains(&said.replace('"', "\\\"")), "{line}");
        for user in ["alice", "bob"] {
            let output = lab.admin().args(["check", user, "connect", "127.0.0.1:82", "--json"]).output().unwrap();
            assert_eq!(json(&output.stdout)["warnings"], serde_json::json!([said]));
        }
    };
    told(80, "127.0.0.0/8:80");
    fs::write(&file, format!("{allow}[[deny]]\nwho = [\"alice\", \"bob\"]\nconnect = \"*:81\"\n")).unwrap();
    told(81, "*:81");
    // For one of the two it takes effect.
    fs::write(&file, format!("{allow}[[deny]]\nwho = \"bob\"\nconnect = \"*:*\"\n")).unwrap();
    lab.wait_for_audits("the other policy", 2, |line| line["event"] == "policy-loaded");
    let output = run(lab.admin().args(["check", "alice", "connect", "127.0.0.1:80", "--json"]));
    assert_eq!(json(&output.stdout)["warnings"], serde_json::json!([]));
}
