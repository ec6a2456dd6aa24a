//! A lender in the foreground of somebody's terminal keeps that terminal to itself.

use std::{fs, process::Command};

use crate::{
    EVERYTHING, exec,
    support::{Daemon, Lab, capuchind, pty::Pty, run, text},
};

/// Says which terminal controls it, and what comes of opening that of whoever started it, and of typing into whatever it has.
const TRIES: &str = r#"
import errno, fcntl, os, termios
print("controlled by", open("/proc/self/stat").read().rsplit(")", 1)[1].split()[4])
def tries(what, it):
    try: it()
    except OSError as error: print(what, errno.errorcode[error.errno])
    else: print(what, "done")
tries("/dev/tty", lambda: os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
for number in range(3):
    tries(f"types into {number}", lambda: [fcntl.ioctl(number, termios.TIOCSTI, bytes([c])) for c in b"echo typed\n"])
"#;

/// The number of the terminal that controls a process; 0 for none.
fn controlling(pid: u32) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(4).unwrap().parse().unwrap()
}

/// Attack 54.
#[test]
fn attack_54_a_program_neither_has_the_lenders_terminal_nor_types_into_it() {
    let mut lab = Lab::start(EVERYTHING);
    lab.daemon.kill();
    let folder = lab.folder;
    let pty = Pty::open();
    let mut serve = Command::new("setsid");
    serve.arg("--ctty").arg(capuchind(folder.path()).get_program()).arg("serve");
    let daemon = Daemon::spawn(serve.env("CAPUCHIND_DIR", folder.path()).stdin(pty.end()));
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    let lab = Lab { folder, daemon, address };
    assert_ne!(controlling(lab.daemon.child.id()), 0, "the lender has a terminal");
    let home = lab.join("alice");
    let said = text(run(&mut exec(&home, &["python3", "-c", TRIES])).stdout);
    let nothing = "types into 0 ENOTTY\ntypes into 1 ENOTTY\ntypes into 2 ENOTTY\n";
    assert_eq!(said, format!("controlled by 0\n/dev/tty ENXIO\n{nothing}"));
    // With a terminal of its own it types into that at the most.
    let mut terminal = home.capuchin();
    let said = text(run(terminal.args(["exec", "-t", "lab", "python3", "-c", TRIES])).stdout);
    assert!(said.contains("/dev/tty done"), "{said}");
    assert_eq!(pty.typed(), 0);
}
