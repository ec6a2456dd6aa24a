//! `capuchin status`: what runs and borrows, and nothing that is gone.

use crate::{
    echo, origin,
    support::{Home, LOOPBACK, Lab, json, run, text, wait_until},
};

fn status(home: &Home) -> serde_json::Value {
    json(&run(home.capuchin().args(["status", "--json"])).stdout)["borrowing"].clone()
}

#[test]
fn a_forward_is_listed_with_its_ports_while_it_runs_and_not_when_it_was_killed() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    assert_eq!(status(&home), serde_json::json!([]));
    let server = origin(echo);
    let (mut forward, local) = home.forward(&[&format!("0:{server}")]);
    let listed = status(&home);
    assert_eq!(listed[0]["pid"], forward.child.id());
    assert_eq!(
        (&listed[0]["command"], &listed[0]["host"], &listed[0]["user"]),
        (&"forward".into(), &"lab".into(), &"alice".into())
    );
    assert_eq!(listed[0]["purposes"], serde_json::json!([format!("{} -> {server}", local[0])]));
    assert_eq!(listed[0]["state"], "up");
    let person = text(run(home.capuchin().arg("status")).stdout);
    assert!(person.contains("forward lab\tas alice at lab") && person.contains(&local[0].to_string()), "{person}");
    forward.signal(rustix::process::Signal::STOP);
    // Its threads stop one after the other.
    let silent = serde_json::json!([{ "pid": forward.child.id(), "state": "no answer" }]);
    wait_until("it does not answer", || status(&home) == silent);
    forward.signal(rustix::process::Signal::CONT);
    lab.daemon.kill();
    forward.wait_for_line("reconnecting");
    wait_until("it says so", || status(&home)[0]["state"] == "reconnecting");
    forward.kill();
    assert_eq!(status(&home), serde_json::json!([]));
    let left = std::fs::read_dir(home.runtime().join("capuchin/borrowing")).unwrap().count();
    assert_eq!(left, 0, "what a crash leaves is removed");
}
