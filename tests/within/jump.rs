//! A program of tokio under `run`: capuchin itself, to a lender that only the lender reaches.

use std::{
    io::{Read, Write},
    process::Stdio,
};

use crate::{
    machine::Machine,
    support::{Daemon, PASSWORD, capuchind, run, text},
};

#[test]
fn capuchin_reaches_a_lender_behind_the_lender() {
    let machine = Machine::start();
    let folder = tempfile::tempdir().unwrap();
    let attic = folder.path();
    run(capuchind(attic).args([
        "init",
        "--name",
        "attic",
        "--listen",
        "10.77.0.1:2279",
        "--advertise",
        "10.77.0.1:2279",
    ]));
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"127.0.0.1:7000\"]\n";
    std::fs::write(attic.join("policy.toml"), policy).unwrap();
    run(capuchind(attic).args(["user", "add", "alice"]));
    let mut serve = machine.there(&[capuchind(attic).get_program().to_str().unwrap(), "serve"]);
    let serving = Daemon::spawn(serve.env("CAPUCHIND_DIR", attic));
    serving.wait_for_line("listens on");

    for within in machine.everybody() {
        let own = within.capuchin_path().to_str().unwrap().to_owned();
        let password = within.home.folder.path().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        let line = text(run(capuchind(attic).args(["invite", "alice"])).stdout);
        let join = [own.as_str(), "join", line.trim(), "--password-file", password.to_str().unwrap()];
        run(&mut within.run(&join));
        run(&mut within.run(&[own.as_str(), "check", "attic", "connect", "127.0.0.1:7000"]));

        let mut through = within.run(&[own.as_str(), "forward", "attic", "-W", "127.0.0.1:7000"]);
        let mut through = through.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let sent: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
        let mut stdin = through.stdin.take().unwrap();
        let writing = std::thread::spawn({
            let sent = sent.clone();
            move || stdin.write_all(&sent).unwrap()
        });
        let mut heard = Vec::new();
        through.stdout.take().unwrap().read_to_end(&mut heard).unwrap();
        writing.join().unwrap();
        assert!(through.wait().unwrap().success());
        assert!(heard == sent, "{} bytes as {}", heard.len(), within.who());
    }
}
