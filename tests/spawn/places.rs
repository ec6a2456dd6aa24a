//! Programs take room until nothing of them is left, and have the limits that the lender was started with.

use std::{process::Command, time::Instant};

use capuchin::{BorrowError, Borrower, Child, Stdio, proto::ErrorKind};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;

use crate::{
    EVERYTHING, exec,
    support::{Daemon, Lab, PATIENCE, capuchind, run, text},
};

/// As many as a session has at once.
const PROGRAMS_MAX: usize = 128;

/// Programs that do not end when they are told to, once each has said so.
async fn stubborn(borrower: &Borrower, detached: bool) -> Vec<Child> {
    let mut children = Vec::new();
    for _ in 0..PROGRAMS_MAX {
        let mut command = borrower.command("sh");
        command.args(["-c", "trap '' HUP; echo; exec sleep 300"]).stdout(Stdio::Piped);
        if detached {
            command.detach();
        }
        // Those of before go one by one.
        let end = Instant::now() + PATIENCE;
        children.push(loop {
            match command.spawn().await {
                Ok(child) => break child,
                Err(error) => assert!(is_busy(&error) && Instant::now() < end, "{error}"),
            }
        });
    }
    for child in &mut children {
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).await.unwrap();
    }
    children
}

fn is_busy(error: &BorrowError) -> bool {
    error.kind() == ErrorKind::Busy && error.to_string().contains("128 programs of one session")
}

/// Waits until there is room again.
async fn room(borrower: &Borrower) {
    let end = Instant::now() + PATIENCE;
    while let Err(error) = borrower.command("true").status().await {
        assert!(is_busy(&error) && Instant::now() < end, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_ended_or_is_detached_takes_its_place_until_it_is_gone() {
    let lab = Lab::start(&(EVERYTHING.to_owned() + "detach = true\n"));
    let home = lab.join("alice");
    let borrower = home.connect().await;
    drop(stubborn(&borrower, false).await);
    let error = borrower.command("true").status().await.unwrap_err();
    assert!(is_busy(&error), "{error}");
    room(&borrower).await;

    let detached = stubborn(&borrower, true).await;
    let pids: Vec<_> = detached.iter().map(|child| Pid::from_raw(child.id().unwrap() as i32).unwrap()).collect();
    for child in detached {
        child.detach().await.unwrap();
    }
    let error = borrower.command("true").status().await.unwrap_err();
    assert!(is_busy(&error), "{error}");
    for pid in pids {
        kill_process(pid, Signal::KILL).expect("it lives on");
    }
    room(&borrower).await;
}

#[test]
fn programs_may_open_what_the_lender_was_started_with_and_not_what_it_took() {
    let mut lab = Lab::start(EVERYTHING);
    lab.daemon.kill();
    let folder = lab.folder;
    let program = capuchind(folder.path()).get_program().to_owned();
    let mut serve = Command::new("sh");
    serve.args(["-c", "ulimit -Sn 777; exec \"$0\" serve"]).arg(program).env("CAPUCHIND_DIR", folder.path());
    let daemon = Daemon::spawn(&mut serve);
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    let lab = Lab { folder, daemon, address };
    let home = lab.join("alice");
    let limits = text(run(&mut exec(&home, &["sh", "-c", "ulimit -Sn; ulimit -Hn"])).stdout);
    let hard = text(run(Command::new("sh").args(["-c", "ulimit -Hn"])).stdout);
    assert_eq!(limits, format!("777\n{hard}"));
    let own = std::fs::read_to_string(format!("/proc/{}/limits", lab.daemon.child.id())).unwrap();
    let open_files = own.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_ne!(open_files.split_ascii_whitespace().nth(3), Some("777"), "the lender itself has taken more");
}
