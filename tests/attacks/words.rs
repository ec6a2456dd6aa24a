//! Long words: what is only announced, and what is sent by who may run nothing, takes neither memory nor time from others.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

use crate::{
    still_serves,
    support::{LOOPBACK, Lab, costs::processor_time, fails},
};

/// What a refusal has of them is cut to a kilobyte: it took seconds, in which nobody was served, to quote all of them first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_words_of_who_may_run_nothing_take_no_time() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let before = processor_time(lab.daemon.child.id());
    let mut command = home.capuchin();
    command.args(["exec", "lab", "--", "program"]).args([OsStr::from_bytes(&[0xff; 130_000]); 15]);
    let told = fails(&mut command, 255);
    assert!(told.contains("exec") && told.len() < 16 * 1024, "{told:.200}");
    let took = processor_time(lab.daemon.child.id()) - before;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The log has its beginning.
    let line = lab.wait_for_audit("the request", |line| line["event"] == "spawn");
    assert!(line["target"].as_str().unwrap().starts_with("exec program \u{fffd}\u{fffd}"), "{:.100}", line["target"]);
    still_serves(&lab, &home).await;
}
