//! What the lender's machine looks like: routes, resolvers, names, variables.

use std::net::IpAddr;

use capuchin::proto::{ErrorKind, Machine};
use serde_json::json;

use crate::support::named::NamedLab;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_shows_the_network_of_the_lenders_machine() {
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"10.77.0.1:80\"]\nenv = { read = [\"CAPUCHIND_*\"] }\n";
    let named = NamedLab::start(policy, &json!({}));
    let home = named.lab.join("alice");
    let machine = home.connect().await.profile(&["CAPUCHIND_DIR", "CAPUCHIND_UNSET"]).await.unwrap();

    let own: IpAddr = "10.77.0.1".parse().unwrap();
    assert!(machine.addresses.contains(&own), "{machine:?}");
    let route = machine.routes.iter().find(|route| route.prefix.to_string() == "10.77.0.1/32").unwrap();
    assert_eq!(route.source, Some(own));
    assert!(machine.routes.iter().all(|route| !route.prefix.addr().is_loopback()), "{machine:?}");
    assert_eq!(machine.resolvers, ["127.0.0.9", "127.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap()));
    let line = machine.hosts.iter().find(|line| line.address.to_string() == "10.77.0.2").unwrap();
    assert_eq!(line.names, ["own.test", "own"]);
    let [variable] = &machine.variables[..] else { panic!("one is set, not {:?}", machine.variables) };
    assert_eq!(
        (variable.name.as_str(), &variable.value[..]),
        ("CAPUCHIND_DIR", named.lab.dir().to_str().unwrap().as_bytes())
    );

    let line_of = named.lab.wait_for_verdict("env.read", "granted");
    assert_eq!(line_of["target"], "CAPUCHIND_DIR");
    let told = named.lab.audit().into_iter().filter(|line| line["session"] == line_of["session"]);
    for mut line in told {
        // Where the policy is, which is in the folder that the variable names.
        line["rule"] = serde_json::Value::Null;
        assert!(!line.to_string().contains(named.lab.dir().to_str().unwrap()), "a value in the audit log: {line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_has_no_names_that_may_not_be_looked_up() {
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"10.77.0.1:80\"]\nresolve = [\"*.internal\"]\n";
    let named = NamedLab::start(policy, &json!({}));
    std::fs::write(named.file("hosts"), "127.0.0.1 localhost\n10.77.0.1 db.internal secret.test\n").unwrap();
    let home = named.lab.join("alice");
    let machine = home.connect().await.profile(&[]).await.unwrap();
    let names: Vec<_> = machine.hosts.iter().flat_map(|line| &line.names).collect();
    assert_eq!(names, ["db.internal"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_listen_is_told_his_variables_and_nothing_else() {
    let policy = "[[allow]]\nwho = \"alice\"\nlisten = [\"*:8000-8999\"]\nenv = { read = [\"CAPUCHIND_DIR\"] }\n";
    let named = NamedLab::start(policy, &json!({}));
    let alice = named.lab.join("alice").connect().await;
    let machine = alice.profile(&["CAPUCHIND_DIR"]).await.unwrap();
    assert_eq!(machine.variables.len(), 1);
    assert_eq!(Machine { variables: Vec::new(), ..machine }, Machine::default());
    let granted = named.lab.wait_for_verdict("profile", "granted");
    assert!(granted["rule"].as_str().unwrap().ends_with("listen = \"*:8000-8999\""), "{granted}");
    // All of it, or nothing: not by way of a variable either.
    let error = alice.profile(&["CAPUCHIND_DIR", "HOME"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Policy, "{error}");

    // What he may know follows the policy, both ways.
    for (more, knows) in [("connect = [\"10.77.0.1:80\"]\n", true), ("", false)] {
        let is_load = |line: &serde_json::Value| line["event"] == "policy-loaded";
        let loads = named.lab.audit().iter().filter(|line| is_load(line)).count();
        std::fs::write(named.lab.dir().join("policy.toml"), format!("{policy}{more}")).unwrap();
        named.lab.wait_for_audits("the new policy", loads + 1, is_load);
        let machine = alice.profile(&[]).await.unwrap();
        assert_eq!((!machine.routes.is_empty(), !machine.hosts.is_empty()), (knows, knows), "{machine:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_rule_there_is_no_profile_and_no_variable() {
    let policy =
        "[[allow]]\nwho = \"alice\"\nconnect = [\"10.77.0.1:80\"]\n[[allow]]\nwho = \"bob\"\nread = [\"/srv\"]\n";
    let named = NamedLab::start(policy, &json!({}));
    let (alice, bob) = (named.lab.join("alice"), named.lab.join("bob"));

    let error = bob.connect().await.profile(&[]).await.unwrap_err();
    assert_eq!((error.kind(), error.errno().map(|errno| errno.0)), (ErrorKind::Policy, Some(13)), "{error}");
    named.lab.wait_for_verdict("profile", "refused");

    let error = alice.connect().await.profile(&["HOME"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Policy, "{error}");
    assert!(error.to_string().contains("env.read HOME is refused: no rule allows it"), "{error}");
    assert!(
        error.notes().last().unwrap().contains("capuchind allow alice env.read HOME --for 1h"),
        "{:?}",
        error.notes()
    );
    named.lab.wait_for_verdict("env.read", "refused");
    assert!(alice.connect().await.profile(&[]).await.is_ok());
}
