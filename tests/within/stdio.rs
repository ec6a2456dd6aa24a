//! A program whose stdin and stdout are those that another borrower offers.

use std::{
    io::{Read, Write},
    process::Stdio,
};

use crate::{
    machine::{Machine, Within},
    support::{Daemon, fails, run, text},
};

/// `capuchin offer lab NAME stdio …`, once it is offered.
fn offer(within: &Within, arguments: &[&str]) -> std::process::Child {
    let mut command = within.capuchin();
    command.args(["offer", "lab"]).args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
    assert!(line.starts_with("Offering service "), "{line}");
    child
}

#[test]
fn a_program_is_given_the_stdin_and_stdout_that_another_offers() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mut child = offer(&within, &["upper", "stdio", "--once"]);
        // It has its end, the lender's network, and its own stderr.
        let script = "tr a-z A-Z; ip -o -4 addr show | grep -o 10.77.0.1; echo aside >&2; exit 7";
        let mut program = within.run_with(&["--stdio", "service:upper"], &["sh", "-c", script]);
        let program = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let sent = "all of it\n".repeat(100_000);
        let mut stdin = child.stdin.take().unwrap();
        let writing = std::thread::spawn({
            let sent = sent.clone();
            move || stdin.write_all(sent.as_bytes()).unwrap()
        });
        let mut heard = String::new();
        child.stdout.take().unwrap().read_to_string(&mut heard).unwrap();
        writing.join().unwrap();
        let output = program.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!((text(output.stdout), text(output.stderr)), (String::new(), "aside\n".to_owned()));
        assert!(heard.starts_with(&sent.to_uppercase()), "{} bytes", heard.len());
        assert_eq!(&heard[sent.len()..], "10.77.0.1\n");
        assert!(child.wait().unwrap().success());
    }
}

/// Who offers it may go on, and read late.
#[test]
fn what_a_program_has_said_last_arrives_and_its_own_end_is_none_of_the_service() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        for _ in 0..10 {
            let mut child = offer(&within, &["upper", "stdio", "--once"]);
            // More than a pipe holds, so that some of it is still on its way when the program is over.
            let script = "head -c 100000 /dev/zero; echo over >&2";
            let mut command = within.run_with(&["--stdio", "service:upper"], &["sh", "-c", script]);
            let mut program = command.stderr(Stdio::piped()).spawn().unwrap();
            let (mut over, mut rest) = ([0; 5], String::new());
            let mut stderr = program.stderr.take().unwrap();
            stderr.read_exact(&mut over).unwrap();
            assert_eq!(&over, b"over\n", "{}", text(over.to_vec()));
            let mut heard = Vec::new();
            child.stdout.take().unwrap().read_to_end(&mut heard).unwrap();
            stderr.read_to_string(&mut rest).unwrap();
            assert_eq!((heard.len(), rest.as_str()), (100_000, ""));
            assert!(program.wait().unwrap().success());
            drop(child.stdin.take());
            assert!(child.wait().unwrap().success());
        }
    }
}

/// It may remove what it has sent, else.
#[test]
fn who_offers_hears_that_no_program_was_there_to_read() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mut child = offer(&within, &["upper", "stdio", "--once"]);
        child.stdin.take().unwrap().write_all(b"little\n").unwrap();
        fails(&mut within.run_with(&["--stdio", "service:upper"], &["/nonexistent/program"]), 127);
        assert_eq!(child.wait().unwrap().code(), Some(255));
    }
}

#[test]
fn without_an_offer_no_program_starts_and_with_its_end_the_program_sees_one() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mark = within.home.folder.path().join("started");
        let touch = ["touch", mark.to_str().unwrap()];
        let said = fails(&mut within.run_with(&["--stdio", "service:upper"], &touch), 255);
        assert!(said.starts_with("error[target]: lab could not connect to service:upper"), "{said}");
        assert!(!mark.exists());
        let mut child = offer(&within, &["upper", "stdio"]);
        let mut program = Daemon::spawn(&mut within.run_with(
            &["--stdio", "service:upper"],
            &["sh", "-c", "echo ready >&2; cat >/dev/null; echo ended >&2; echo unheard"],
        ));
        program.wait_for_line("ready");
        child.kill().unwrap();
        child.wait().unwrap();
        program.wait_for_line("ended");
        program.wait_for_line("capuchin: the service broke off before its end");
        program.wait();
        // Nor does a program that is over as soon as it sees the end hide it.
        for _ in 0..10 {
            let mut child = offer(&within, &["upper", "stdio"]);
            let mut program = Daemon::spawn(
                &mut within.run_with(&["--stdio", "service:upper"], &["sh", "-c", "echo ready >&2; exec cat"]),
            );
            program.wait_for_line("ready");
            child.kill().unwrap();
            child.wait().unwrap();
            program.wait_for_line("capuchin: the service broke off before its end");
            program.wait();
        }
        run(&mut within.run(&["true"]));
    }
}
