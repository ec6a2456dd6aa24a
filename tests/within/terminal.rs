//! The program at a terminal: keys reach it, and the shell that started us sees what it would see of any program.

use crate::{
    machine::Machine,
    support::{fails, run, screen::Screen},
};

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
        let program = "count=0; trap 'count=$((count+1))' INT; echo ready; read word; echo got $word; while [ $count = 0 ]; do sleep 0.1; done; exit $count";
        let borrowed = within.run(&["sh", "-c", program]);
        let mut terminal = within.beside("python3");
        terminal.args(["-c", TERMINAL]).arg(borrowed.get_program()).args(borrowed.get_args());
        run(&mut terminal);
    }
}

/// As above, by bash's own job control in a terminal that a person could have.
#[test]
fn a_shell_stops_a_program_and_brings_it_to_the_foreground_again() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(within.uid), Some(within.uid)).unwrap();
        let bin = within.home.folder.path();
        let screen = Screen::of(|| within.beside("tmux"), folder, bin, &["bash", "--norc"]);
        let echoes = |line: &str| {
            screen.keys(&[line, "Enter"]);
            screen.wait_until(&format!("{line}, twice"), |shown| shown.matches(line).count() == 2);
        };
        let ends = |key: &str, status: u8| {
            screen.keys(&[key]);
            screen.wait_until("the prompt", |shown| shown.trim_end().ends_with("here>"));
            screen.keys(&["C-l", "echo status $?", "Enter"]);
            screen.wait_for(&format!("status {status}"));
        };
        let run = ["capuchin", "run"].iter().chain(within.network()).copied().collect::<Vec<_>>().join(" ");
        screen.keys(&[&format!("{run} lab -- sh -c 'echo up; exec cat'"), "Enter"]);
        screen.wait_for("\nup");
        echoes("first");
        screen.keys(&["C-z"]);
        screen.wait_for("Stopped");
        // The shell has its terminal.
        screen.keys(&["C-l", "echo $((6*7))", "Enter"]);
        screen.wait_for("\n42");
        screen.keys(&["fg", "Enter"]);
        // It names what goes on; whoever answers then is in the foreground.
        screen.wait_for(&format!("here> fg\n{run} lab"));
        echoes("second");
        ends("C-c", 130);
        // One that reads from behind the shell's back is stopped, too.
        screen.keys(&["C-l", &format!("{run} lab -- cat &"), "Enter"]);
        screen.wait_until("it is stopped", |shown| {
            shown.contains("Stopped") || {
                // The shell tells of it before a prompt.
                screen.keys(&["Enter"]);
                false
            }
        });
        screen.keys(&["C-l", "fg", "Enter"]);
        screen.wait_for(&format!("here> fg\n{run} lab -- cat"));
        echoes("third");
        ends("C-d", 0);
    }
}

/// A shell's prompts, and what its user does at each.
const PROMPTS: &str = r#"
import os, pty, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
# A prompt that does not come ends the wait.
signal.alarm(60)
said = b""
for keys in [b"true\n", b"echo /proc/self/fd/*\n", b"exit 7\n"]:
    heard = b""
    while b"(lab) own> " not in heard:
        try:
            heard += os.read(terminal, 1024)
        except OSError:
            sys.exit("it has ended: %r" % (said + heard))
    said += heard
    os.write(terminal, keys)
# His hook is called before each; some shells show a prompt more than once.
assert said.count(b"hooked") >= 3, said
# The shell's own, and that of the folder which it lists.
assert "bash" not in os.environ["SHELL"] or b"/fd/4" not in said, said
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"#;

#[test]
fn a_bash_keeps_its_users_prompt_hook_and_shows_the_host() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        for hook in ["hook", "hook${PROMPT_COMMAND:+; $PROMPT_COMMAND}"] {
            let file = format!("hook() {{ echo hooked; }}\nPROMPT_COMMAND=\"{hook}\"\nPS1='own> '\n");
            std::fs::write(within.home.folder.path().join(".bashrc"), file).unwrap();
            let mut terminal = within.beside("python3");
            terminal.args(["-c", PROMPTS]).arg(within.capuchin().get_program()).args(["run", "lab"]);
            fails(terminal.env("SHELL", "/bin/bash").env_remove("PROMPT_COMMAND"), 7);
        }
    }
}

/// A shell that its user has set up with `files`, below his home.
fn keeps_its_users_prompt_and_shows_the_host(machine: &Machine, shell: &str, files: &[(&str, &str)]) {
    for within in machine.borrowers() {
        let home = within.home.folder.path();
        let own = |file: &str| home.join(file);
        for (file, content) in files {
            std::fs::create_dir_all(own(file).parent().unwrap()).unwrap();
            std::fs::write(own(file), content).unwrap();
        }
        run(std::process::Command::new("chown").args(["-R", &within.uid.to_string()]).arg(home));
        let mut terminal = within.beside("python3");
        terminal.args(["-c", PROMPTS]).arg(within.capuchin().get_program()).args(["run", "lab"]);
        terminal.env("TMPDIR", home).env("TERM", "xterm");
        fails(terminal.env("SHELL", shell).env_remove("ZDOTDIR"), 7);
        let left = std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("capuchin-")).collect();
        assert!(left.is_empty(), "{shell}: {left:?}");
    }
}

#[test]
fn a_zsh_keeps_its_users_prompt_and_shows_the_host_wherever_his_files_are() {
    let machine = Machine::start();
    // A theme sets its prompt each time.
    let theme = "[[ ${ZDOTDIR:-$HOME} == *capuchin-* ]] || precmd() { echo hooked; PS1='own> '; }\n";
    keeps_its_users_prompt_and_shows_the_host(&machine, "/usr/bin/zsh", &[(".zshrc", theme)]);
    let elsewhere = [(".zshenv", "ZDOTDIR=$HOME/.config/zsh\n"), (".config/zsh/.zshrc", theme)];
    keeps_its_users_prompt_and_shows_the_host(&machine, "/usr/bin/zsh", &elsewhere);
}

#[test]
fn a_fish_keeps_its_users_prompt_and_shows_the_host() {
    let machine = Machine::start();
    let config = "function fish_prompt\nprintf 'own> '\nend\nfunction hook --on-event fish_prompt\necho hooked\nend\n";
    keeps_its_users_prompt_and_shows_the_host(&machine, "/usr/bin/fish", &[("config/fish/config.fish", config)]);
}

/// Waits for a question, and answers it.
const ASKED: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
heard = b""
while b"Password of alice at lab: " not in heard:
    heard += os.read(terminal, 1024)
os.write(terminal, b"correct horse battery\n")
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"#;

#[test]
fn who_is_not_logged_in_is_asked_for_the_password_in_its_place() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        run(machine.lab.admin().args(["logout", "alice"]));
        let borrowed = within.run(&["sh", "-c", "exit 5"]);
        let mut terminal = within.beside("python3");
        terminal.args(["-c", ASKED]).arg(borrowed.get_program()).args(borrowed.get_args());
        fails(&mut terminal, 5);
    }
}
