//! What a person is asked at a terminal, and what is not shown there.

use std::process::Command;

use crate::support::{Home, LOOPBACK, Lab, PASSWORD, pty::Pty, run, run_with, wait_until};

/// The command at the terminal that controls it.
struct Asked {
    pty: Pty,
    child: std::process::Child,
    modes: String,
}

impl Asked {
    fn start(command: &Command) -> Self {
        let mut own = Command::new("setsid");
        own.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        own.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let pty = Pty::open();
        let modes = pty.modes();
        let child = pty.start(&mut own);
        Self { pty, child, modes }
    }

    /// Answers a question once nothing that is typed is shown.
    fn answers(&mut self, question: &str, answer: &str) {
        self.pty.wait_for(question);
        wait_until("an answer is not shown", || self.pty.modes() != self.modes);
        self.pty.types(format!("{answer}\n").as_bytes());
    }

    /// Its last words, with what has come since the last question, and its exit status.
    fn ends(mut self, words: &str) -> (String, Option<i32>) {
        let shown = self.pty.wait_for(words);
        let status = self.child.wait().unwrap();
        assert_eq!(self.pty.modes(), self.modes, "the terminal is as before");
        (shown, status.code())
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
}
