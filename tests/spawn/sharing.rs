//! One session for many commands: `capuchin connect`, and exec over it.

use std::{
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::{Command, Stdio},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process},
};

use crate::{
    EVERYTHING, lab,
    support::{
        Daemon, Home, Lab, PATIENCE, as_user, borrowing::borrowing, fails, in_environment_of, own_uid, run, run_with,
        text, wait_until,
    },
};

/// `capuchin …` of a home that has a runtime folder of its own.
fn capuchin(home: &Home, args: &[&str]) -> Command {
    let mut command = home.capuchin();
    command.env("XDG_RUNTIME_DIR", home.folder.path().join("run")).args(args);
    command
}

fn socket(home: &Home) -> std::path::PathBuf {
    let folder = home.folder.path().join("run/capuchin/share");
    std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

/// The session that is shared, once the lender's log has its login, and by that each one before.
fn shared_session(lab: &Lab, home: &Home) -> serde_json::Value {
    let listed = borrowing(capuchin(home, &[]));
    let session = listed[0]["session"].clone();
    assert!(session.is_string(), "{listed}");
    lab.wait_for_audit("its login", |line| line["event"] == "login" && line["session"] == session);
    session
}

/// What alice may do, one session at a time.
fn one_session_at_a_time() -> String {
    format!("{EVERYTHING}limits = {{ sessions = 1 }}\n")
}

#[test]
fn who_connects_at_once_is_connected_once() {
    for policy in [EVERYTHING, &one_session_at_a_time()] {
        let lab = Lab::start(policy);
        let home = lab.join("alice");
        let begin =
            || capuchin(&home, &["connect", "lab"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut began, mut found) = (0, 0);
        for connecting in (0..4).map(|_| begin()).collect::<Vec<_>>() {
            let output = connecting.wait_with_output().unwrap();
            let said = text(output.stdout);
            assert!(output.status.success(), "{said}{}", text(output.stderr));
            began += usize::from(said.starts_with("Connected to lab"));
            found += usize::from(said == "lab is connected already\n");
        }
        assert_eq!((began, found), (1, 3));
        let sessions =
            || crate::support::json(&run(lab.admin().args(["sessions", "--json"])).stdout)["sessions"].clone();
        // Those of the commands that were too late end with them, or a moment later.
        wait_until("one session is left", || sessions().as_array().unwrap().len() == 1);
        run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
    }
}

#[test]
fn commands_share_one_session_and_work_without_it() {
    let (lab, home) = lab();
    run(&mut capuchin(&home, &["exec", "lab", "true"]));
    let said = text(run(&mut capuchin(&home, &["connect", "lab"])).stdout);
    assert!(said.contains("Connected to lab"), "{said}");
    assert!(text(run(&mut capuchin(&home, &["connect", "lab"])).stdout).contains("already"));
    let logins = || lab.audit().iter().filter(|line| line["event"] == "login").count();
    shared_session(&lab, &home);
    let before = logins();
    let sent = vec![7; 3_000_000];
    let output = run_with(&mut capuchin(&home, &["exec", "lab", "sh", "-c", "wc -c; echo said >&2; exit 4"]), &sent);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!((text(output.stdout), text(output.stderr)), ("3000000\n".to_owned(), "said\n".to_owned()));
    let output = run(&mut capuchin(&home, &["exec", "-t", "lab", "stty", "size"]));
    assert_eq!(text(output.stdout), "24 80\r\n");
    assert_eq!(capuchin(&home, &["exec", "lab", "sh", "-c", "kill -9 $$"]).status().unwrap().code(), Some(137));
    fails(&mut capuchin(&home, &["exec", "lab", "no-such-program"]), 127);
    assert_eq!(logins(), before, "nobody logged in");
    run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
    lab.wait_for_audit("its end", |line| {
        line["event"] == "session-ended" && line["why"].as_str().is_some_and(|why| !why.is_empty())
    });
    run(&mut capuchin(&home, &["exec", "lab", "true"]));
    assert!(fails(&mut capuchin(&home, &["connect", "--stop", "lab"]), 255).contains("is not connected"));
}

/// The process that shares a session with the lender.
pub fn keeper(home: &Home) -> Pid {
    let keeper = UnixStream::connect(socket(home)).unwrap();
    rustix::net::sockopt::socket_peercred(&keeper).unwrap().pid
}

#[test]
fn a_session_that_is_suspended_can_be_ended() {
    let (_lab, home) = lab();
    run(&mut capuchin(&home, &["connect", "lab"]));
    let keeper = keeper(&home);
    let ended = rustix::process::pidfd_open(keeper, PidfdFlags::empty()).unwrap();
    kill_process(keeper, Signal::STOP).unwrap();
    run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&patience)), Ok(1), "it goes on");
}

#[test]
fn a_session_that_is_suspended_is_not_called_connected() {
    let (_lab, home) = lab();
    let kept = Daemon::spawn(&mut capuchin(&home, &["connect", "-F", "lab"]));
    let line = kept.wait_for_line("Connected to lab as alice");
    assert!(line.ends_with("until Ctrl-C, or: capuchin connect --stop lab"), "{line}");
    kept.signal(Signal::STOP);
    let begun = Instant::now();
    let said = fails(&mut capuchin(&home, &["connect", "lab"]), 255);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let pid = kept.child.id();
    assert!(
        said.starts_with(&format!("error[local]: the session in the background with lab (pid {pid}) does not")),
        "{said}"
    );
    assert!(said.contains(&format!("kill -CONT {pid}")) && said.contains("capuchin connect --stop lab"), "{said}");
    kept.signal(Signal::CONT);
    assert_eq!(text(run(&mut capuchin(&home, &["connect", "lab"])).stdout), "lab is connected already\n");
}

#[test]
fn a_command_that_is_killed_ends_its_program_and_not_the_session() {
    let (lab, home) = lab();
    run(&mut capuchin(&home, &["connect", "lab"]));
    let mut sleeper = capuchin(&home, &["exec", "lab", "sh", "-c", "echo up; exec sleep 300"]);
    let mut sleeper = sleeper.stdout(Stdio::piped()).spawn().unwrap();
    let mut up = String::new();
    BufReader::new(sleeper.stdout.take().unwrap()).read_line(&mut up).unwrap();
    assert_eq!(up, "up\n");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    lab.wait_for_audit("its end", |line| line["event"] == "spawn-ended");
    assert_eq!(text(run(&mut capuchin(&home, &["exec", "lab", "echo", "x"])).stdout), "x\n");
    run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
}

#[test]
fn a_session_that_the_lender_cuts_ends_for_all_and_the_socket_goes() {
    let (lab, home) = lab();
    run(&mut capuchin(&home, &["connect", "lab"]));
    let socket = socket(&home);
    let mut sleeper = capuchin(&home, &["exec", "lab", "sh", "-c", "echo here; exec sleep 300"]);
    let mut sleeper = sleeper.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What is taken back while it starts could not be started.
    let mut said = [0; 5];
    std::io::Read::read_exact(sleeper.stdout.as_mut().unwrap(), &mut said).unwrap();
    run(lab.admin().args(["revoke", "--user", "alice"]));
    assert_eq!(sleeper.wait_with_output().unwrap().status.code(), Some(255));
    wait_until("the socket goes", || !socket.exists());
}

#[test]
fn the_first_command_begins_the_session_where_it_is_settled() {
    let (lab, home) = lab();
    let settle = |text: &str| std::fs::write(home.folder.path().join("config/capuchin/config.toml"), text).unwrap();
    settle("[host.lab]\nshare = true\n");
    let output = run(&mut capuchin(&home, &["exec", "lab", "echo", "first"]));
    assert_eq!((text(output.stdout), text(output.stderr)), ("first\n".to_owned(), String::new()));
    let logins = || lab.audit().iter().filter(|line| line["event"] == "login").count();
    shared_session(&lab, &home);
    let before = logins();
    assert_eq!(text(run(&mut capuchin(&home, &["exec", "lab", "echo", "second"])).stdout), "second\n");
    assert_eq!(logins(), before, "nobody logged in");
    run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
    lab.wait_for_audit("its end", |line| line["event"] == "session-ended" && line["peer"].is_string());
    let stop = || capuchin(&home, &["connect", "--stop", "lab"]).output().unwrap();
    let gone = || text(stop().stderr).contains("is not connected");
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    while !gone() {
        assert!(std::time::Instant::now() < end, "it goes on");
    }
    // Where none can be shared each command has its own, and says why.
    let share = home.folder.path().join("run/capuchin/share");
    std::fs::set_permissions(&share, PermissionsExt::from_mode(0o755)).unwrap();
    let output = run(&mut capuchin(&home, &["exec", "lab", "echo", "alone"]));
    assert_eq!(text(output.stdout), "alone\n");
    let said = text(output.stderr);
    assert!(said.starts_with("capuchin: no session is shared with lab: "), "{said}");
    settle("");
    assert_eq!(text(run(&mut capuchin(&home, &["exec", "lab", "echo", "x"])).stderr), "");
}

#[test]
fn the_socket_is_for_its_user_alone() {
    let (_lab, home) = lab();
    run(&mut capuchin(&home, &["connect", "lab"]));
    let socket = socket(&home);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    // Even where the modes were opened, the kernel says whose the other end is: nothing is answered.
    for path in [home.folder.path(), socket.parent().unwrap(), socket.parent().unwrap().parent().unwrap()] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(home.folder.path().join("run"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
    let mut stranger = Command::new("python3");
    stranger.args([
        "-c",
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nprint(len(s.recv(9)))",
    ]);
    as_user(stranger.arg(&socket), if own_uid() == 0 { 54_323 } else { own_uid() });
    if own_uid() == 0 {
        assert_eq!(text(run(&mut stranger).stdout), "0\n");
    }
    run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
}

/// The command in the list of those that borrow now which keeps the session.
fn sharing(home: &Home) -> Vec<i64> {
    let listed = borrowing(capuchin(home, &[]));
    let keeping = listed.as_array().unwrap().iter().filter(|one| one["command"] == "connect");
    keeping.map(|one| one["pid"].as_i64().unwrap()).collect()
}

#[test]
fn a_background_session_that_is_killed_leaves_a_socket_that_is_in_nobodys_way() {
    let (lab, home) = lab();
    run(&mut capuchin(&home, &["connect", "lab"]));
    let (socket, pids) = (socket(&home), sharing(&home));
    let mut sleeper = capuchin(&home, &["exec", "lab", "sh", "-c", "echo up; exec sleep 300"]);
    let mut sleeper = sleeper.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut up = String::new();
    BufReader::new(sleeper.stdout.take().unwrap()).read_line(&mut up).unwrap();
    let [pid] = pids.as_slice() else { panic!("{pids:?}") };
    let pid = rustix::process::Pid::from_raw(*pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // Who used it has lost it, and its program has ended.
    let output = sleeper.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    assert!(text(output.stderr).starts_with("error[lost]"));
    lab.wait_for_audit("its end", |line| line["event"] == "spawn-ended");
    assert!(socket.exists(), "it was killed");
    let output = run(&mut capuchin(&home, &["exec", "lab", "echo", "x"]));
    assert_eq!((text(output.stdout), text(output.stderr)), ("x\n".to_owned(), String::new()));
    assert!(fails(&mut capuchin(&home, &["connect", "--stop", "lab"]), 255).contains("is not connected"));
    run(&mut capuchin(&home, &["connect", "lab"]));
    wait_until("one keeps it", || sharing(&home).len() == 1);
    run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
}

/// What a shell has open when it starts a command that stays behind: a lock, or a pipe whose end somebody waits for.
#[test]
fn what_stays_in_the_background_holds_nothing_of_the_shell_that_started_it() {
    let lab = Lab::start(&format!("{EVERYTHING}connect = \"127.0.0.1:9\"\n"));
    let home = lab.join("alice");
    for behind in ["connect lab", "forward lab -f -L 0:127.0.0.1:9"] {
        let (reader, writer) = std::io::pipe().unwrap();
        let capuchin = capuchin(&home, &[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec 9>&1; \"$0\" {behind} >/dev/null")]).arg(capuchin.get_program());
        in_environment_of(&mut shell, &capuchin).stdin(Stdio::null());
        assert!(shell.stdout(writer).status().unwrap().success(), "{behind}");
        drop(shell);
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&patience));
        assert_eq!(ready, Ok(1), "{behind} holds the other end of the pipe");
    }
    assert_eq!(sharing(&home).len(), 1, "it still serves");
    // Ends both of them.
    run(lab.admin().args(["revoke", "--user", "alice"]));
    wait_until("the session has ended", || sharing(&home).is_empty());
}

/// As where a profile is replaced by that of a lender which was made anew under its name.
#[test]
fn two_lenders_of_one_name_share_no_session() {
    let (first, home) = lab();
    let second = Lab::start(EVERYTHING);
    let other = second.join("alice");
    run(&mut capuchin(&home, &["connect", "lab"]));
    shared_session(&first, &home);
    let mut command = other.capuchin();
    run(command.env("XDG_RUNTIME_DIR", home.runtime()).args(["exec", "lab", "true"]));
    second.wait_for_audit("its program", |line| line["event"] == "spawn-ended");
    assert!(first.audit().iter().all(|line| line["event"] != "spawn"));
    let mut command = other.capuchin();
    let stop = command.env("XDG_RUNTIME_DIR", home.runtime()).args(["connect", "--stop", "lab"]);
    assert!(fails(stop, 255).contains("is not connected"));
    run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
}

#[test]
fn commands_that_begin_together_share_one_session_and_none_of_them_fails() {
    for policy in [EVERYTHING, &one_session_at_a_time()] {
        begin_together(&Lab::start(policy).join("alice"));
    }
}

fn begin_together(home: &Home) {
    let config = home.folder.path().join("config/capuchin/config.toml");
    std::fs::write(config, "[host.lab]\nshare = true\n").unwrap();
    for round in 0..3 {
        let start = |number: usize| {
            let mut command = capuchin(home, &["exec", "lab", "echo", &number.to_string()]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let children: Vec<_> = (0..6).map(start).collect();
        for (number, child) in children.into_iter().enumerate() {
            let output = child.wait_with_output().unwrap();
            let said = (output.status.code(), text(output.stdout), text(output.stderr));
            assert_eq!(said, (Some(0), format!("{number}\n"), String::new()), "round {round}");
        }
        wait_until("one keeps it", || sharing(home).len() == 1);
        run(&mut capuchin(home, &["connect", "--stop", "lab"]));
        wait_until("it has ended", || sharing(home).is_empty());
    }
}

/// As the transport of another program it begins often, and each time at once.
#[test]
fn a_connection_for_another_programs_transport_goes_over_the_shared_session() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap().to_string();
    let lab = Lab::start(&format!("{EVERYTHING}connect = \"{target}\"\n"));
    let home = lab.join("alice");
    let connected = || {
        let lines =
            lab.audit().into_iter().filter(|line| line["event"] == "tcp-connect" && line["verdict"] == "granted");
        lines.map(|line| line["session"].clone()).collect::<Vec<_>>()
    };
    run(&mut capuchin(&home, &["connect", "lab"]));
    let shared = shared_session(&lab, &home);
    for shares in [true, false] {
        if !shares {
            run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
            wait_until("it has ended", || sharing(&home).is_empty());
        }
        let before = connected().len();
        let serving = server.try_clone().unwrap();
        let echo = std::thread::spawn(move || {
            let (mut socket, _) = serving.accept().unwrap();
            std::io::copy(&mut socket.try_clone().unwrap(), &mut socket).unwrap();
        });
        let sent = vec![7; 3_000_000];
        let output = run_with(&mut capuchin(&home, &["forward", "lab", "-W", &target]), &sent);
        assert!(output.status.success() && output.stdout == sent, "{:?}", text(output.stderr));
        echo.join().unwrap();
        wait_until("its line in the log", || connected().len() > before);
        assert_eq!(connected()[before] == shared, shares);
    }
}

#[test]
fn a_program_that_the_shared_session_has_no_room_for_runs_over_a_session_of_its_own() {
    for (policy, is_alone) in [(EVERYTHING, false), (&one_session_at_a_time(), true)] {
        let lab = Lab::start(policy);
        let home = lab.join("alice");
        run(&mut capuchin(&home, &["connect", "lab"]));
        let wait = ["exec", "lab", "sh", "-c", "echo runs; read end"];
        let begin = || Daemon::spawn(capuchin(&home, &wait).stdin(Stdio::piped()));
        let programs: Vec<_> = (0..128).map(|_| begin()).collect();
        for program in &programs {
            program.wait_for_line("runs");
        }
        let mut one_more = capuchin(&home, &["exec", "lab", "echo", "said"]);
        match is_alone {
            true => assert!(fails(&mut one_more, 255).contains("128 programs of one session")),
            false => assert_eq!(text(run(&mut one_more).stdout), "said\n"),
        }
        drop(programs);
        run(&mut capuchin(&home, &["connect", "--stop", "lab"]));
    }
}
