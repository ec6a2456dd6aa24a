//! `capuchin status`: what runs and borrows, and nothing that is gone.

use crate::{
    echo, origin,
    support::{LOOPBACK, Lab, borrowing::borrowing, json, run, text, wait_until},
};

#[test]
fn a_forward_is_listed_with_its_ports_while_it_runs_and_not_when_it_was_killed() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    assert_eq!(borrowing(home.capuchin()), serde_json::json!([]));
    let server = origin(echo);
    let (mut forward, local) = home.forward(&[&format!("0:{server}")]);
    let listed = borrowing(home.capuchin());
    assert_eq!(listed[0]["pid"], forward.child.id());
    assert_eq!(
        (&listed[0]["command"], &listed[0]["host"], &listed[0]["user"]),
        (&"forward".into(), &"lab".into(), &"alice".into())
    );
    assert_eq!(listed[0]["purposes"], serde_json::json!([format!("{} -> {server}", local[0])]));
    assert_eq!(listed[0]["state"], "up");
    let mut person = String::new();
    wait_until("it answers", || {
        person = text(run(home.capuchin().arg("status")).stdout);
        !person.contains("does not answer")
    });
    assert!(person.contains("forward lab\tas alice at lab") && person.contains(&local[0].to_string()), "{person}");
    forward.signal(rustix::process::Signal::STOP);
    // Its threads stop one after the other.
    let silent = serde_json::json!([{ "pid": forward.child.id(), "state": "no answer" }]);
    let listed_now = || json(&run(home.capuchin().args(["status", "--json"])).stdout)["borrowing"].clone();
    wait_until("it does not answer", || listed_now() == silent);
    forward.signal(rustix::process::Signal::CONT);
    lab.daemon.kill();
    forward.wait_for_line("reconnecting");
    wait_until("it says so", || borrowing(home.capuchin())[0]["state"] == "reconnecting");
    forward.kill();
    assert_eq!(borrowing(home.capuchin()), serde_json::json!([]));
    let left = std::fs::read_dir(home.runtime().join("capuchin/borrowing")).unwrap().count();
    assert_eq!(left, 0, "what a crash leaves is removed");
}
