//! The program as a process: its end, its signals, and what it leaves behind.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::{
    connects::FILL,
    machine::Machine,
    support::{Daemon, PATIENCE, borrowing::borrowing, fails, in_environment_of, run, text},
};

/// Waits until a process is gone.
fn wait_for_end(pid: i32, patience: Duration) -> bool {
    let Ok(watch) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return true };
    let timeout = rustix::event::Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 1
}

#[test]
fn the_exit_status_is_the_programs() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        run(&mut within.run(&["true"]));
        fails(&mut within.run(&["sh", "-c", "exit 7"]), 7);
        fails(&mut within.run(&["sh", "-c", "kill -TERM $$"]), 128 + 15);
        fails(&mut within.run(&["sh", "-c", "kill -KILL $$"]), 128 + 9);
        assert!(
            fails(&mut within.run(&["/no/such/program"]), 127).starts_with("error[local]: cannot run /no/such/program")
        );
        fails(&mut within.run(&["/"]), 126);
        let script = within.home.folder.path().join("script");
        let write = "printf '#!/bin/no\\r\\n' > \"$0\"; chmod 755 \"$0\"";
        run(within.beside("sh").args(["-c", write]).arg(&script));
        let missing = fails(&mut within.run(&[script.to_str().unwrap()]), 127);
        assert!(missing.contains("/script: its interpreter /bin/no\\r cannot be executed: No such file"), "{missing}");
        let who = text(run(&mut within.run(&["id", "-u"])).stdout);
        assert_eq!(who.trim(), within.uid.to_string());
    }
}

#[test]
fn a_limit_of_descriptors_that_is_too_low_is_named_with_its_mend() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        // With a few less not even the runtime starts.
        for (limit, works) in [(16, false), (64, true)] {
            for options in [&[][..], &["--no-netns"]] {
                let inner = within.run_with(options, &["true"]);
                let mut command = within.beside("sh");
                let script = format!("ulimit -n {limit}; exec \"$@\"");
                command.args(["-c", &script, "sh"]).arg(inner.get_program()).args(inner.get_args());
                if works {
                    run(&mut command);
                    continue;
                }
                let said = command.output().unwrap();
                let (code, said) = (said.status.code(), text(said.stderr));
                let told =
                    said.contains("error[local]: ") && said.contains("(os error 24)") && said.contains("ulimit -n");
                // Without a network it needs fewer.
                let fits = code == Some(255) && told || code == Some(0) && !options.is_empty();
                assert!(fits, "{limit} {options:?} as {}: {said}", within.uid);
            }
        }
    }
}

#[test]
fn a_limit_of_files_that_is_too_low_is_named_with_its_mend() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let inner = within.run(&["true"]);
        let mut command = within.beside("sh");
        command.args(["-c", "ulimit -f 0; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
        let said = fails(&mut command, 255);
        let told = said.contains("error[local]: ") && said.contains("(os error 27)") && said.contains("ulimit -f");
        assert!(told, "as {}: {said}", within.uid);
    }
}

#[test]
fn a_shell_is_started_where_no_program_is_named() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mut command = within.capuchin();
        command.args(["run", "lab"]).env("SHELL", "/bin/sh").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        std::io::Write::write_all(&mut shell.stdin.take().unwrap(), b"echo \"$PS1 $CAPUCHIN_RUN\"\n").unwrap();
        let said = text(shell.wait_with_output().unwrap().stdout);
        assert!(said.starts_with("(lab) ") && said.ends_with(" lab\n"), "{said}");
    }
}

#[test]
fn a_program_ignores_what_run_was_started_to_ignore_and_its_end_is_heard() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        for options in [&[][..], &["--no-netns"]] {
            for (ignored, mask) in
                [("CHLD,PIPE", 0x1_1000), ("PIPE", 0x1000), ("CHLD", 0x1_0000), ("XFSZ", 0x100_0000), ("", 0)]
            {
                // Shells, Python and gawk would set some of them anew.
                let show = ["sed", "-n", "/SigIgn/p; $q3", "/proc/self/status"];
                let inner = within.run_with(options, &show);
                let mut command = within.beside("env");
                command.arg("--default-signal").arg(format!("--ignore-signal={ignored}"));
                let mut borrower = Daemon::spawn(command.arg(inner.get_program()).args(inner.get_args()));
                let line = borrower.wait_for_line("SigIgn:");
                let seen = u64::from_str_radix(line.trim_start_matches("SigIgn:").trim(), 16).unwrap();
                assert_eq!(seen & 0x101_1000, mask, "{ignored} {options:?} as {}", within.uid);
                assert_eq!(borrower.wait().code(), Some(3), "{ignored} {options:?} as {}", within.uid);
            }
        }
    }
}

#[test]
fn signals_reach_the_program() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        for signal in [
            Signal::TERM,
            Signal::HUP,
            Signal::USR1,
            Signal::USR2,
            Signal::ALARM,
            Signal::VTALARM,
            Signal::PROF,
            Signal::IO,
            Signal::POWER,
            Signal::URG,
        ] {
            let trap = format!("trap 'exit 3' {}; echo ready; while :; do sleep 60 & wait; done", signal.as_raw());
            let mut program = Daemon::spawn(&mut within.run(&["sh", "-c", &trap]));
            program.wait_for_line("ready");
            program.signal(signal);
            assert_eq!(program.wait().code(), Some(3), "{signal:?}");
        }
    }
}

#[test]
fn a_program_that_stops_stops_us_and_goes_on_with_us() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mut program = Daemon::spawn(&mut within.run(&["sh", "-c", "echo ready; kill -STOP $$; echo on"]));
        program.wait_for_line("ready");
        let own = Pid::from_child(&program.child);
        let (_, status) = waitpid(Some(own), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
        kill_process(own, Signal::CONT).unwrap();
        program.wait_for_line("on");
        assert!(program.wait().success());
    }
}

#[test]
fn a_program_dies_with_capuchin() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let script = "trap '' HUP; sleep 1000 & echo $$ $!; wait";
        let mut program = Daemon::spawn(&mut within.run(&["sh", "-c", script]));
        let pids: Vec<i32> = loop {
            let line = program.wait_for_line(" ");
            if let Ok(pids) = line.split(' ').map(str::parse).collect() {
                break pids;
            }
        };
        program.kill();
        for pid in pids {
            assert!(wait_for_end(pid, PATIENCE), "as {}", within.who());
        }
    }
}

#[test]
fn a_program_dies_with_the_half_that_looks_after_it() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mut program = Daemon::spawn(&mut within.run(&["sh", "-c", "setsid sleep 1000 & echo $PPID $$ $!; wait"]));
        let pids: Vec<i32> = program.wait_for_line(" ").split(' ').map(|pid| pid.parse().unwrap()).collect();
        let [inner, rest @ ..] = pids.as_slice() else { panic!("{pids:?}") };
        kill_process(Pid::from_raw(*inner).unwrap(), Signal::KILL).unwrap();
        program.wait_for_line("error[local]: the half of capuchin that looked after the program is gone");
        assert_eq!(program.wait().code(), Some(255));
        for pid in rest {
            assert!(wait_for_end(*pid, PATIENCE));
        }
    }
}

#[test]
fn what_is_left_behind_is_ended_or_waited_for() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        // It notes why it ends.
        let left = "trap 'echo hung up > why; exit' HUP; echo > ready; while :; do sleep 1000 & wait; done";
        let leaves =
            format!("setsid sh -c \"{left}\" >/dev/null 2>&1 & echo $!; until [ -e ready ]; do sleep 0.1; done");
        let ended = run(&mut within.run(&["sh", "-c", &leaves]));
        assert!(wait_for_end(text(ended.stdout).trim().parse().unwrap(), PATIENCE));
        let why = std::fs::read_to_string(within.home.folder.path().join("why")).unwrap();
        assert_eq!(why, "hung up\n", "a hang-up was not enough");
        let daemon = "trap '' HUP; trap 'echo ended > how; exit' TERM; echo > up; while :; do sleep 1000 & wait; done";
        let becomes =
            format!("setsid sh -c \"{daemon}\" >/dev/null 2>&1 & echo $!; until [ -e up ]; do sleep 0.1; done");
        let ended = run(&mut within.run(&["sh", "-c", &becomes]));
        assert!(wait_for_end(text(ended.stdout).trim().parse().unwrap(), PATIENCE));
        let how = std::fs::read_to_string(within.home.folder.path().join("how"));
        assert_eq!(how.ok().as_deref(), Some("ended\n"), "a daemon was killed without a word");
        let stubborn = "setsid sh -c \"trap '' HUP TERM; while :; do sleep 1000; done\" >/dev/null 2>&1 & echo $!";
        let killed = run(&mut within.run(&["sh", "-c", stubborn]));
        assert!(wait_for_end(text(killed.stdout).trim().parse().unwrap(), PATIENCE));
        let late = "(sleep 1; echo late) & echo early";
        assert_eq!(text(run(&mut within.run_with(&["--wait-all"], &["sh", "-c", late])).stdout), "early\nlate\n");
    }
}

/// As servers do that go into the background: they would be gone without a word, in the middle of their start.
#[test]
fn who_goes_into_the_background_is_told_that_it_ends_with_the_program() {
    let machine = Machine::start();
    let goes = "import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(1 if os.environ.get('SHORT') else 1000)";
    for within in machine.borrowers() {
        let line =
            "capuchin: the program is over, and what it left in the background ends with it; --wait-all waits for that";
        for options in [&[][..], &["--no-netns"]] {
            let inner = within.run_with(options, &["python3", "-c", goes]);
            // Its session has no number where it began outside of the PID namespace, as in a container that somebody enters.
            for before in [&["env"][..], &["unshare", "--map-current-user", "--pid", "--fork", "--mount-proc"]] {
                let mut command = within.beside(before[0]);
                command.args(&before[1..]).arg(inner.get_program()).args(inner.get_args());
                let told = text(run(&mut command).stderr);
                assert_eq!(told.lines().filter(|told| *told == line).count(), 1, "{before:?} {options:?}: {told}");
            }
        }
        let waited = run(within.run_with(&["--wait-all"], &["python3", "-c", goes]).env("SHORT", "1"));
        assert_eq!(text(waited.stderr), "");
    }
}

/// What reads from a pipe of a program's is over a moment after it.
#[test]
fn what_a_program_left_that_ends_by_itself_has_its_last_word() {
    let machine = Machine::start();
    // Behind the program's end for certain, and then at once: nothing is started for it, which may take long.
    let ends = "echo last > >(read -r line; while kill -0 $$ 2>/dev/null; do :; done; echo \"$line word\")";
    for within in machine.borrowers() {
        let said = run(&mut within.run(&["bash", "-c", ends]));
        let said = (text(said.stdout), text(said.stderr));
        assert_eq!(said, ("last word\n".to_owned(), String::new()), "as {}", within.uid);
    }
}

#[test]
fn a_program_is_listed_by_status_while_it_runs() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let listed = || borrowing(within.capuchin());
        let mut command = within.run(&["sh", "-c", "echo up; read end"]);
        let mut program = Daemon::spawn(command.stdin(Stdio::piped()));
        program.wait_for_line("up");
        let one = &listed()[0];
        assert_eq!(
            (&one["command"], &one["host"], &one["pid"]),
            (&"run".into(), &"lab".into(), &program.child.id().into())
        );
        assert_eq!(one["purposes"], serde_json::json!(["sh -c echo up; read end"]));
        drop(program.stdin.take());
        program.wait();
        assert_eq!(listed(), serde_json::json!([]));
    }
}

#[test]
fn a_signal_ends_what_waits_for_the_last_bytes_of_a_program() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        let (host, port) = (here.local_addr().unwrap().ip().to_string(), here.local_addr().unwrap().port().to_string());
        let mut program =
            Daemon::spawn(&mut within.run_with(&["--local", "127.0.0.1"], &["python3", "-c", FILL, &host, &port]));
        let said = program.wait_for_line("pid ");
        assert!(wait_for_end(said.rsplit(' ').next().unwrap().parse().unwrap(), PATIENCE));
        // One that comes before its end was noticed is the program's, which is gone.
        let status = loop {
            program.signal(Signal::TERM);
            if wait_for_end(program.child.id() as i32, Duration::from_secs(1)) {
                break program.wait();
            }
        };
        assert_eq!(status.code(), Some(128 + 15));
    }
}

#[test]
fn a_network_is_not_borrowed_twice() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let inside = within.capuchin();
        let said = fails(&mut within.run(&[inside.get_program().to_str().unwrap(), "run", "lab", "--", "true"]), 255);
        assert!(said.contains("error[usage]: this is already inside `capuchin run lab`"), "{said}");
        let unset = ["env", "-u", "CAPUCHIN_RUN", inside.get_program().to_str().unwrap(), "run", "lab", "--", "true"];
        let said = fails(&mut within.run(&unset), 255);
        assert!(said.contains("error[usage]: this is already inside `capuchin run HOST`"), "{said}");
    }
}

#[test]
fn the_lender_of_this_machine_is_out_of_reach_inside() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let inside = within.capuchin();
        let said = fails(&mut within.run(&[inside.get_program().to_str().unwrap(), "forward", ".", "-D", "0"]), 255);
        assert!(said.contains("error[usage]: the lender of this machine cannot be reached inside"), "{said}");
    }
}

#[test]
fn without_namespaces_it_says_how_to_get_them() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        // A user namespace in which no more may be made.
        let none = "echo 0 > /proc/sys/user/max_net_namespaces; exec \"$0\" run lab -- true";
        let mut command = Command::new("unshare");
        let capuchin = within.capuchin();
        command.args(["--map-root-user", "sh", "-c", none]).arg(capuchin.get_program());
        in_environment_of(&mut command, &capuchin).uid(within.uid).gid(within.uid);
        let said = fails(&mut command, 255);
        assert!(said.contains("cannot make a network for the program"), "{said}");
        assert!(said.contains("sysctl user.max_net_namespaces=10000"), "{said}");
    }
}
