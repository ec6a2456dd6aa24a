//! `Command` and `Child`, as a program uses them.

use std::os::unix::process::ExitStatusExt;

use capuchin::{
    BorrowError, Command, Stdio,
    proto::{ErrorKind, Mode, Target, Terminal, TerminalSize},
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::{EVERYTHING, lab, support::Lab};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_is_spoken_to_waited_for_and_killed() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    let mut cat = borrower.command("cat").stdin(Stdio::Piped).stdout(Stdio::Piped).spawn().await.unwrap();
    assert!(cat.id().is_some_and(|pid| pid > 1));
    let (mut stdin, mut stdout) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
    stdin.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    stdout.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    drop(stdin);
    assert!(cat.wait().await.unwrap().success());
    assert_eq!(cat.id(), None);

    let mut sleeper = borrower.command("sleep").arg("300").spawn().await.unwrap();
    sleeper.kill().await.unwrap();
    assert_eq!(sleeper.wait().await.unwrap().signal(), Some(9), "it says so again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_reads_holds_up_neither_the_other_nor_the_session() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    let script = "head -c 10000000 /dev/zero >&2 & head -c 10000000 /dev/zero; wait";
    let mut child =
        borrower.command("sh").args(["-c", script]).stdout(Stdio::Piped).stderr(Stdio::Piped).spawn().await.unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    // All of the one first, while the other is stalled.
    let mut all = vec![1; 10_000_000];
    stdout.read_exact(&mut all).await.unwrap();
    assert!(all.iter().all(|byte| *byte == 0));
    assert_eq!(borrower.command("echo").arg("x").output().await.unwrap().stdout, b"x\n");
    all.clear();
    stderr.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 10_000_000);
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_reader_is_a_broken_pipe_there_and_dropping_the_child_is_its_end() {
    let (lab, home) = lab();
    let borrower = home.connect().await;
    let mut yes = borrower.command("yes").stdout(Stdio::Piped).spawn().await.unwrap();
    let mut lines = BufReader::new(yes.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("y"));
    drop(lines);
    assert_eq!(yes.wait().await.unwrap().signal(), Some(13), "SIGPIPE");
    drop(borrower.command("sleep").arg("300").spawn().await.unwrap());
    let line = tokio::task::spawn_blocking(move || {
        lab.wait_for_audit("its end", |line| {
            line["event"] == "spawn-ended"
                && line["target"].as_str().is_some_and(|target| target.ends_with("sleep 300"))
        })
    });
    assert_eq!(line.await.unwrap()["why"], "the borrower gave it up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_cannot_run_has_its_errno() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    for (program, errno) in [("/no/such", 2), ("/etc/passwd", 13), ("/etc", 13)] {
        let error = borrower.command(program).status().await.unwrap_err();
        assert_eq!((error.kind(), error.errno().map(|it| it.0)), (ErrorKind::Target, Some(errno)), "{error}");
    }
    let error = borrower.command("true").arg("a\0b").status().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// The lender ends the whole session over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_lender_could_read_is_an_error_of_its_own_call_alone() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    let terminal = |term: &str, modes: usize| {
        let modes = vec![Mode { opcode: 1, value: 3 }; modes];
        Terminal { term: term.to_owned(), size: TerminalSize::default(), modes }
    };
    let with = |set: &dyn Fn(&mut Command)| {
        let mut command = borrower.command("true");
        set(&mut command);
        command
    };
    for command in [
        with(&|command| _ = command.current_dir(format!("/{}", "x".repeat(4095)))),
        with(&|command| _ = command.terminal(terminal("of my own", 0))),
        with(&|command| _ = command.terminal(terminal(&"x".repeat(65), 0))),
        with(&|command| _ = command.terminal(terminal("xterm", 129))),
    ] {
        let error = command.status().await.unwrap_err();
        assert!(matches!(error, BorrowError::Usage { .. }), "{error}");
    }
    for (host, port) in [(String::new(), 80), ("x".repeat(256), 80), ("a".to_owned(), 0)] {
        let error = borrower.tcp_connect_to(&Target { host, port }).await.unwrap_err();
        assert!(matches!(error, BorrowError::Usage { .. }), "{error}");
    }
    let error = borrower.unix_connect(format!("/{}", "x".repeat(4095))).await.unwrap_err();
    assert!(matches!(error, BorrowError::Usage { .. }), "{error}");
    let error = borrower.offer("", None).await.unwrap_err();
    assert!(matches!(error, BorrowError::Usage { .. }), "{error}");
    assert_eq!(borrower.command("echo").arg("x").output().await.unwrap().stdout, b"x\n", "the session goes on");
}

/// The policy is asked before a program runs, whether it may outlive its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lets_a_program_live_on_that_was_not_asked_for_so_hears_that_it_does_not() {
    let lab = Lab::start(&format!("{EVERYTHING}detach = true\n"));
    let home = lab.join("alice");
    let borrower = home.connect().await;
    let lives = |pid: u32| std::fs::exists(format!("/proc/{pid}")).unwrap();
    let asked = borrower.command("sleep").arg("300").detach().spawn().await.unwrap();
    let stays = asked.id().unwrap();
    asked.detach().await.unwrap();
    let not_asked = borrower.command("sleep").arg("301").spawn().await.unwrap();
    let error = not_asked.detach().await.unwrap_err();
    assert!(matches!(error, BorrowError::Usage { .. }), "{error}");
    let ended = |line: &serde_json::Value| {
        line["event"] == "spawn-ended" && line["target"].as_str().is_some_and(|target| target.ends_with("sleep 301"))
    };
    let lab = tokio::task::spawn_blocking(move || {
        lab.wait_for_audit("its end", ended);
        lab
    });
    let _lab = lab.await.unwrap();
    assert!(lives(stays));
    let pid = rustix::process::Pid::from_raw(i32::try_from(stays).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_speak_to_a_program_keeps_no_session_alive() {
    let (lab, home) = lab();
    let borrower = home.connect().await;
    let child = borrower.command("sleep").arg("300").spawn().await.unwrap();
    let (control, session) = (child.control(), borrower.session_id().to_string());
    drop((child, borrower));
    let ended = move |line: &serde_json::Value| line["event"] == "session-ended" && line["session"] == *session;
    let line = tokio::task::spawn_blocking(move || lab.wait_for_audit("the end of the session", ended)).await.unwrap();
    assert!(line["why"].as_str().unwrap().contains("the borrower closed the session"), "{line}");
    control.signal(15).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_program_does_not_start_is_one_whole_line_whatever_its_paths_are() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    let mut lines = home.folder.path().join("two\nlines");
    std::fs::write(&lines, "no program").unwrap();
    let error = borrower.command(&lines).current_dir("/no\nsuch\u{1b}").status().await.unwrap_err().to_string();
    let why = "two\\nlines: the working directory /no\\nsuch\\u{1b} cannot be entered: No such file or directory (os error 2)";
    assert!(error.ends_with(why), "{error}");
    let error = borrower.command(&lines).status().await.unwrap_err().to_string();
    assert!(error.ends_with("two\\nlines: it cannot be executed: Permission denied (os error 13)"), "{error}");

    lines.pop();
    let long = (0..14).fold(lines, |folder, _| folder.join("x\n".repeat(100)));
    std::fs::create_dir_all(long.parent().unwrap()).unwrap();
    std::fs::write(&long, "no program").unwrap();
    let error = borrower.command(&long).status().await.unwrap_err().to_string();
    assert!(error.ends_with("…: it cannot be executed: Permission denied (os error 13)"), "{error}");
    let error = borrower.command(&long).current_dir(&long).status().await.unwrap_err().to_string();
    assert!(error.contains("…: the working directory ") && error.len() < 1100, "{error}");
    assert!(error.ends_with("… cannot be entered: Not a directory (os error 20)"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_programs_run_at_once() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    let run = |number: usize| {
        let borrower = borrower.clone();
        async move { borrower.command("echo").arg(number.to_string()).output().await.unwrap().stdout }
    };
    let tasks: Vec<_> = (0..40).map(|number| tokio::spawn(run(number))).collect();
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("{number}\n").into_bytes());
    }
}

#[test]
fn the_example_runs() {
    let (_lab, home) = lab();
    let mut session = std::process::Command::new(env!("CARGO"));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    session.args(["run", "--quiet", "--manifest-path", manifest, "--example", "session", "--", "lab"]);
    let folder = home.folder.path();
    session.env("XDG_CONFIG_HOME", folder.join("config")).env("XDG_STATE_HOME", folder.join("state"));
    let said = crate::support::text(crate::support::run(&mut session).stdout);
    assert_eq!(said, "lab runs Linux\nsorted: monkeys\nsorted: tools\nsorted: use\nsort exit status: 0\n");
}
