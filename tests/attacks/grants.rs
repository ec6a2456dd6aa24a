//! Grants for a while: in force at once, beaten by a deny, and gone by themselves with what they allowed.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use capuchin::proto::ErrorKind;

use crate::{
    clock::Lent,
    still_serves,
    support::{LOOPBACK, Lab, PATIENCE, clock::Clock, fails, json, run, text},
};

const NOTHING: &str = "[[allow]]\nwho = [\"bob\"]\nconnect = [\"127.0.0.0/8:*\"]\n\
                       [[deny]]\nwho = [\"alice\"]\nconnect = [\"127.0.0.1:22\"]\n";

#[test]
fn a_grant_is_in_force_at_once_and_takes_its_connections_with_it() {
    let lab = Lab::start(NOTHING);
    let home = lab.join("alice");
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap().to_string();
    fails(home.capuchin().args(["check", "lab", "connect", &address]), 1);

    let allowed = run(lab.admin().args(["allow", "alice", "connect", &address, "--for", "1h"]));
    assert_eq!(text(allowed.stdout), "1\n", "its number, for scripts");
    run(home.capuchin().args(["check", "lab", "connect", &address]));
    fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 1);
    let (_forward, local) = home.forward(&[&format!("0:{address}")]);
    let mut near = std::net::TcpStream::connect(local[0]).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut far, _) = target.accept().unwrap();
    far.write_all(b"!").unwrap();
    near.read_exact(&mut [0]).unwrap();

    let listed = json(&run(lab.admin().args(["grants", "--json"])).stdout);
    let grant = &listed["grants"][0];
    assert_eq!((&grant["user"], &grant["target"]), (&"alice".into(), &address.clone().into()));
    run(lab.admin().args(["grants", "remove", &grant["grant"].to_string()]));
    assert!(crate::support::ends(&near), "its connection went with it");
    lab.wait_for_audit("the cut", |line| {
        line["event"] == "tcp-closed" && line["why"].as_str().is_some_and(|why| why.contains("policy has changed"))
    });
    fails(home.capuchin().args(["check", "lab", "connect", &address]), 1);
    let said = fails(lab.admin().args(["grants", "remove", "7"]), 255);
    assert!(said.contains("there is no grant 7"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_ends_by_itself_also_when_the_daemon_was_not_there() {
    const MINUTE: Duration = Duration::from_secs(60);
    let clock = Clock::new();
    let mut lab = Lab::start(NOTHING);
    lab.daemon.kill();
    run(lab.admin().args(["allow", "alice", "connect", "127.0.0.0/8:*", "--for", "1h"]));
    let lab = clock.serve(lab);
    let home = lab.join("alice");
    let mut lent = Lent::open(&home);
    clock.pass(50 * MINUTE, async || lent.crosses()).await;
    clock.pass(12 * MINUTE, async || _ = lent.may_cross()).await;
    lent.ends_cut();
    lab.wait_for_audit("the end", |line| {
        line["event"] == "tcp-closed" && line["why"].as_str().is_some_and(|why| why.contains("policy has changed"))
    });
    fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]), 1);
}

/// While no time passes, so that nobody who waits for the end of something hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_69_a_clock_that_is_set_past_the_end_of_a_grant_and_of_a_login() {
    const HOUR: i64 = 3600;
    let clock = Clock::new();
    let hours = "[[allow]]\nwho = [\"bob\"]\nlimits = { hours = 1 }\n";
    let lab = clock.serve(Lab::start(&format!("{NOTHING}{hours}")));
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    run(lab.admin().args(["allow", "alice", "connect", "127.0.0.0/8:*", "--for", "1h"]));
    let lent = Lent::open(&alice);
    let [alices, bobs] = [alice.connect().await, bob.connect().await];
    alices.check("connect", "127.0.0.1:9").await.unwrap();
    bobs.check("connect", "127.0.0.1:9").await.unwrap();

    clock.stop();
    clock.set_by(HOUR);
    let refused = alices.check("connect", "127.0.0.1:9").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Policy, "{refused}");
    // And what it had allowed goes.
    lent.ends_cut();
    let over = bobs.check("connect", "127.0.0.1:9").await.unwrap_err();
    assert!(over.kind() == ErrorKind::Login && over.to_string().contains("hours"), "{over}");
    clock.go_on();
    lab.wait_for_audit("the end", |line| {
        line["event"] == "tcp-closed" && line["why"].as_str().is_some_and(|why| why.contains("policy has changed"))
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deny_beats_a_grant_and_what_no_policy_could_say_is_refused() {
    let lab = Lab::start(&format!("{LOOPBACK}{NOTHING}"));
    let home = lab.join("alice");
    run(lab.admin().args(["allow", "alice", "connect", "127.0.0.1:22", "--for", "1h"]));
    fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:22"]), 1);
    for (args, why) in [
        (["allow", "alice", "connect", "127.0.0.1", "--for", "1h"], "port"),
        (["allow", "Alice!", "connect", "127.0.0.1:1", "--for", "1h"], "user name"),
        (["allow", "alcie", "connect", "127.0.0.1:1", "--for", "1h"], "there is no user alcie"),
    ] {
        let said = fails(lab.admin().args(args), 255);
        assert!(said.starts_with("error[usage]") && said.contains(why), "{said}");
    }
    lab.wait_for_audit("the command", |line| {
        line["event"] == "admin" && line["command"] == "allow" && line["arguments"] == "for 3600 s"
    });
    still_serves(&lab, &home).await;
}
