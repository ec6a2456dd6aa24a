//! The program at a terminal: keys reach it, and the shell that started us sees what it would see of any program.

use crate::{machine::Machine, support::run};

/// A terminal, a shell of a few lines in it, and the borrowed program as the shell's job.
const TERMINAL: &str = r#"
import os, pty, signal, sys
def shell():
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execvp(sys.argv[1], sys.argv[1:])
    _, status = os.waitpid(job, os.WUNTRACED)
    print("stopped" if os.WIFSTOPPED(status) else "ended too early", flush=True)
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
    _, status = os.waitpid(job, 0)
    print("status", os.WEXITSTATUS(status), flush=True)
    os._exit(0)
def expect(word):
    heard = b""
    while word not in heard:
        heard += os.read(terminal, 1024)
pid, terminal = pty.fork()
if pid == 0:
    shell()
for word, keys in [(b"ready", b"\x1a"), (b"stopped", b"word\n"), (b"got word", b"\x03"), (b"status 1", b"")]:
    expect(word)
    os.write(terminal, keys)
"#;

#[test]
fn the_keys_of_the_terminal_reach_the_program_once() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let program =
            "count=0; trap 'count=$((count+1))' INT; echo ready; read word; echo got $word; sleep 60; exit $count";
        let borrowed = within.run(&["sh", "-c", program]);
        let mut terminal = within.beside("python3");
        terminal.args(["-c", TERMINAL]).arg(borrowed.get_program()).args(borrowed.get_args());
        run(&mut terminal);
    }
}
