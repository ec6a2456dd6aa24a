//! What a person is asked at a terminal, and what is not shown there.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Home, LOOPBACK, Lab, PASSWORD, pty::Pty, run, run_with, starts, wait_until};

/// The command at the terminal that controls it.
struct Asked {
    pty: Pty,
    child: std::process::Child,
    modes: String,
}

impl Asked {
    fn start(command: &Command) -> Self {
        let mut own = Command::new("setsid");
        starts(own.args(["--ctty", "--wait"]), command);
        let pty = Pty::open();
        let modes = pty.modes();
        let child = pty.start(&mut own);
        Self { pty, child, modes }
    }

    /// As a job of a shell's, which says `stopped` when it is, and `went on with` the line that is typed then.
    fn start_in_shell(command: &Command) -> Self {
        const SCRIPT: &str = "set -m; \"$@\"; echo stopped; read line; echo \"went on with $line.\"; fg";
        let mut shell = Command::new("sh");
        Self::start(starts(shell.args(["-c", SCRIPT, "sh"]), command))
    }

    /// Waits for a question, and until nothing that is typed is shown; what has come until then.
    fn asks(&mut self, question: &str) -> String {
        let shown = self.pty.wait_for(question);
        wait_until("an answer is not shown", || self.pty.modes() != self.modes);
        shown
    }

    fn answers(&mut self, question: &str, answer: &str) {
        self.asks(question);
        self.pty.types(format!("{answer}\n").as_bytes());
    }

    /// Its exit status.
    fn status(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        assert_eq!(self.pty.modes(), self.modes, "the terminal is as before");
        status
    }

    /// Its last words, with what has come since the last question, and its exit status.
    fn ends(mut self, words: &str) -> (String, Option<i32>) {
        let shown = self.pty.wait_for(words);
        (shown, self.status().code())
    }
}

#[test]
fn a_bare_join_asks_for_the_line_and_twice_for_a_first_password() {
    let lab = Lab::start(LOOPBACK);
    let home = Home::new();
    let line = lab.invite("alice");
    for (second, words, code) in [
        ("another password", "error[usage]: the two passwords differ", 255),
        (PASSWORD, "Joined lab as alice; it is called lab here, and you are logged in.", 0),
    ] {
        let mut join = Asked::start(home.capuchin().arg("join"));
        join.answers("Join line (cap1_…): ", line.trim());
        join.answers("New password of alice at lab: ", PASSWORD);
        join.answers("The same again: ", second);
        let (shown, status) = join.ends(words);
        assert_eq!(status, Some(code), "{shown}");
        assert!(!shown.contains(second), "{shown}");
        assert_eq!(home.profile().exists(), code == 0);
    }
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

#[test]
fn a_login_and_a_second_device_ask_once_and_a_lost_ticket_where_it_is_missed() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut login = Asked::start(home.capuchin().args(["login", "lab"]));
    login.answers("Password of alice at lab: ", PASSWORD);
    assert_eq!(login.ends("Logged in at lab as alice.").1, Some(0));

    let second = Home::new();
    let mut join = Asked::start(second.capuchin().args(["join", lab.invite("alice").trim()]));
    join.answers("Password of alice at lab: ", PASSWORD);
    assert_eq!(join.ends("Joined lab as alice").1, Some(0));

    run(lab.admin().args(["logout", "alice"]));
    let mut check = Asked::start(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    check.answers("Password of alice at lab: ", PASSWORD);
    assert_eq!(check.ends("allowed: connect 127.0.0.1:1").1, Some(0));
}

#[test]
fn a_wrong_password_is_asked_for_again_twice() {
    const QUESTION: &str = "Password of alice at lab: ";
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let check = ["check", "lab", "connect", "127.0.0.1:1"];
    for (command, words) in
        [(["login", "lab"].as_slice(), "Logged in at lab as alice."), (&check, "allowed: connect 127.0.0.1:1")]
    {
        run(lab.admin().args(["logout", "alice"]));
        let mut asked = Asked::start(home.capuchin().args(command));
        asked.answers(QUESTION, "another password");
        assert!(asked.asks(QUESTION).contains("capuchin: lab: wrong password"));
        asked.pty.types(format!("{PASSWORD}\n").as_bytes());
        let (shown, status) = asked.ends(words);
        assert_eq!(status, Some(0), "{shown}");
    }
    // Another lender: one that has heard so many wrong passwords hears nobody from here for a while.
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut login = Asked::start(home.capuchin().args(["login", "lab"]));
    for _ in 0..3 {
        login.answers(QUESTION, "another password");
    }
    let (shown, status) = login.ends("error[login]: lab: wrong password");
    assert_eq!(status, Some(255), "{shown}");
}

/// As in a container that somebody enters: its group has no number there.
#[test]
fn a_password_is_asked_for_where_the_shell_is_outside_of_the_pid_namespace() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut command = home.capuchin();
    command.args(["login", "lab"]);
    let mut inside = Command::new("unshare");
    starts(inside.args(["--map-current-user", "--pid", "--fork", "--mount-proc"]), &command);
    run(lab.admin().args(["logout", "alice"]));
    let mut login = Asked::start(&inside);
    login.answers("Password of alice at lab: ", PASSWORD);
    assert_eq!(login.ends("Logged in at lab as alice.").1, Some(0));
}

#[test]
fn passwd_asks_twice_and_sets_what_was_typed() {
    const NEW: &str = "a new password";
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for (second, code) in [("another password", 255), (NEW, 0)] {
        let mut passwd = Asked::start(lab.admin().args(["passwd", "alice"]));
        passwd.answers("New password of alice: ", NEW);
        passwd.answers("The same again: ", second);
        let words = if code == 0 { "\n" } else { "error[usage]: the two passwords differ" };
        let (shown, status) = passwd.ends(words);
        assert_eq!(status, Some(code), "{shown}");
        let login = run_with(home.capuchin().args(["login", "lab", "--password-file", "-"]), NEW);
        assert_eq!(login.status.success(), code == 0, "{login:?}");
    }
    // There is nobody whose it could be.
    let (shown, status) =
        Asked::start(lab.admin().args(["passwd", "alcie"])).ends("error[usage]: there is no user alcie");
    assert!(status == Some(255) && !shown.contains("New password"), "{shown}");
}

#[test]
fn a_signal_at_a_question_ends_it_with_the_terminal_as_before() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let ends = |command: &Command, question: &str, signal: Signal, key: Option<u8>| {
        let mut asked = Asked::start(command);
        asked.asks(question);
        asked.pty.types(b"half a pass");
        match key {
            Some(key) => asked.pty.types(&[key]),
            None => kill_process(Pid::from_child(&asked.child), signal).unwrap(),
        }
        assert_eq!(asked.status().signal(), Some(signal.as_raw()), "{signal:?} {key:?}");
    };
    let (mut login, mut passwd) = (home.capuchin(), lab.admin());
    login.args(["login", "lab"]);
    passwd.args(["passwd", "alice"]);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::ALARM, Signal::USR1, Signal::USR2] {
        ends(&login, "Password of alice at lab: ", signal, None);
        ends(&passwd, "New password of alice: ", signal, None);
    }
    // The terminal of a test has another key for it than Ctrl-C.
    ends(&login, "Password of alice at lab: ", Signal::INT, Some(0x07));
    ends(&login, "Password of alice at lab: ", Signal::QUIT, Some(0x1c));
}

#[test]
fn a_question_that_is_suspended_is_asked_again() {
    const CTRL_Z: u8 = 0x1a;
    const QUESTION: &str = "Password of alice at lab: ";
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for by_key in [true, false] {
        let mut login = Asked::start_in_shell(home.capuchin().args(["login", "lab"]));
        login.asks(QUESTION);
        login.pty.types(b"half a pass");
        if by_key {
            login.pty.types(&[CTRL_Z]);
        } else {
            kill_process(login.pty.foreground(), Signal::TSTP).unwrap();
        }
        login.pty.wait_for("stopped");
        assert_eq!(login.pty.modes(), login.modes, "the terminal is as before");
        login.pty.types(b"a line\n");
        let shown = login.asks(QUESTION);
        assert!(shown.contains("went on with a line."), "{shown}");
        login.pty.types(format!("{PASSWORD}\n").as_bytes());
        assert_eq!(login.ends("Logged in at lab as alice.").1, Some(0));
    }
}

#[test]
fn a_question_behind_sigstop_is_asked_again_without_echo() {
    const QUESTION: &str = "Password of alice at lab: ";
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut login = Asked::start_in_shell(home.capuchin().args(["login", "lab"]));
    login.asks(QUESTION);
    kill_process(login.pty.foreground(), Signal::STOP).unwrap();
    login.pty.wait_for("stopped");
    // As an interactive shell does.
    login.pty.set_modes(&login.modes);
    login.pty.types(b"a line\n");
    let shown = login.asks(QUESTION);
    assert!(shown.contains("went on with a line."), "{shown}");
    login.pty.types(format!("{PASSWORD}\n").as_bytes());
    let (shown, code) = login.ends("Logged in at lab as alice.");
    assert_eq!(code, Some(0));
    assert!(!shown.contains(PASSWORD), "{shown}");
}

#[test]
fn the_end_of_input_at_a_question_is_told_as_such() {
    const CTRL_D: u8 = 0x04;
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for (arguments, question, words) in [
        (["login", "lab"].as_slice(), "Password of alice at lab: ", "error[usage]: no password was typed"),
        (&["join"], "Join line (cap1_…): ", "error[usage]: no join line was typed"),
    ] {
        let mut asked = Asked::start(home.capuchin().args(arguments));
        asked.asks(question);
        asked.pty.types(&[CTRL_D]);
        assert_eq!(asked.ends(words).1, Some(255));
    }
}
