//! Connections that the lender takes back while they stand: a reset to the program, and a reason to the person.

use crate::{machine::Machine, support::Daemon};

/// Connects to each target, says so, and waits for what comes.
const HOLD: &str = r#"
import errno, socket, sys
held = [(target, socket.create_connection(target.rsplit(":", 1))) for target in sys.argv[1:]]
print("held", flush=True)
for target, s in held:
    try:
        print(target, "got", s.recv(1), flush=True)
    except OSError as error:
        print(target, errno.errorcode[error.errno], flush=True)
"#;

/// Listens, says so, lets one visitor in, and waits for what comes of him.
const HOST: &str = r#"
import errno, socket
s = socket.create_server(("0.0.0.0", 8000))
print("listens", flush=True)
visitor, peer = s.accept()
print("held", flush=True)
try:
    print(peer[0], "got", visitor.recv(1), flush=True)
except OSError as error:
    print(peer[0], errno.errorcode[error.errno], flush=True)
"#;

#[test]
fn a_connection_that_is_taken_back_is_a_reset_to_the_program_and_a_reason_to_the_person() {
    let machine = Machine::start();
    let targets = ["10.77.0.1:80", "10.77.0.1:7003"];
    let [netfilter, tun] = machine.anybody_in_each_network();
    for (round, (within, options)) in
        [(&netfilter, &[][..]), (&tun, &[]), (&netfilter, &["--no-netns"])].into_iter().enumerate()
    {
        let words = [&["python3", "-c", HOLD], &targets[..]].concat();
        let mut program = Daemon::spawn(&mut within.run_with(options, &words));
        program.wait_for_line("held");
        targets.iter().for_each(|target| machine.cut("target", target));
        let each = |target| {
            let reason = "was taken back: its admin has cut it";
            [format!("{target} ECONNRESET"), format!("capuchin: lab: the connection to {target} {reason}")]
        };
        program.wait_for_lines(targets.iter().flat_map(each));
        assert!(program.wait().success());
        machine.lab.wait_for_audits("its end", round + 1, |line| line["event"] == "session-ended");
    }
}

#[test]
fn a_visitor_who_is_taken_back_is_told_by_his_address() {
    let machine = Machine::start();
    for within in machine.anybody_in_each_network() {
        let mut program = Daemon::spawn(&mut within.python(HOST));
        program.wait_for_line("listens");
        let mut visitor = Daemon::spawn(&mut machine.there(&["python3", "-c", HOLD, "10.77.0.1:8000"]));
        program.wait_for_line("held");
        machine.cut("kind", "accepted");
        let reason = "was taken back: its admin has cut it";
        let said = ["10.77.0.1 ECONNRESET".to_owned(), format!("capuchin: lab: a connection from 10.77.0.1 {reason}")];
        program.wait_for_lines(said);
        assert!(program.wait().success());
        visitor.wait_for_line("10.77.0.1:8000 ECONNRESET");
        assert!(visitor.wait().success());
        machine.wait_for_close("0.0.0.0:8000");
    }
}
