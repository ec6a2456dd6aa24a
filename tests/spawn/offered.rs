//! What the command offers a shell and a reader: completions, manual pages.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};

use crate::{
    EVERYTHING, exec, lab, sharing,
    support::{in_environment_of, run, screen::Screen, text},
};

#[test]
fn shells_complete_commands_and_hosts() {
    let (_lab, home) = lab();
    let complete = |words: &[&str]| answer(home.capuchin(), words);
    assert!(complete(&["capuchin", "ex"]).lines().any(|word| word == "exec"));
    for command in ["exec", "shell", "connect", "forward"] {
        assert!(complete(&["capuchin", command, ""]).lines().any(|word| word == "lab"), "{command}");
    }
    assert_eq!(complete(&["capuchin", "exec", "alice@la"]), "alice@lab");
    assert_eq!(complete(&["capuchin", "exec", "bob@la"]), "", "he has not joined");
    assert_eq!(complete(&["capuchin", "hosts", "set", "l"]), "lab");
    assert_eq!(complete(&["capuchin", "hosts", "set", "alice@l"]), "", "it takes no user");
    // Ours are none of the lender's.
    for path in [&["--cwd", "/us"][..], &["lab", "/us"], &["lab", "--", "cat", "/us"]] {
        assert_eq!(complete(&[&["capuchin", "exec"], path].concat()), "", "{path:?}");
    }
    // What `run` starts is of this machine.
    assert_eq!(complete(&["capuchin", "run", "lab", "--", "setpri"]), "setpriv");
    for line in [
        &["lab", "--", "/etc/hostna"][..],
        &["lab", "--", "cat", "/etc/hostna"],
        &["lab", "--", "cat", "-n", "/etc/hostna"],
    ] {
        assert_eq!(complete(&[&["capuchin", "run"], line].concat()), "/etc/hostname", "{line:?}");
    }
    // Its first argument is a file, and no program.
    let mut here = home.capuchin();
    here.current_dir("/etc");
    assert_eq!(answer(here, &["capuchin", "run", "lab", "--", "cat", "hostna"]), "hostname");
    for shell in ["bash", "zsh", "fish"] {
        let mut script = home.capuchin();
        assert!(text(run(script.env("COMPLETE", shell)).stdout).contains("capuchin"), "{shell}");
    }
}

#[test]
fn shells_complete_the_commands_of_a_lender() {
    let (lab, _home) = lab();
    assert_eq!(answer(lab.admin(), &["capuchind", "ser"]), "serve");
    assert_eq!(answer(lab.admin(), &["capuchind", "user", "ad"]), "add");
}

#[test]
fn paths_of_the_lender_are_completed_where_a_session_is_shared() {
    let (lab, home) = lab();
    let complete = |words: &[&str]| answer(home.capuchin(), &[&["capuchin"], words].concat());
    let there = tempfile::tempdir().unwrap();
    let there_path = there.path().to_str().unwrap();
    // The last two would be more than names in a line that a shell reads.
    for name in ["letter", "lemon", ".lease", "le$(reboot)", "le;reboot"] {
        std::fs::write(there.path().join(name), "").unwrap();
    }
    std::fs::create_dir(there.path().join("leaf")).unwrap();
    let begun = format!("{there_path}/le");
    assert_eq!(complete(&["exec", "lab", "--", "cat", &begun]), "", "no session is shared");
    run(home.capuchin().args(["connect", "lab"]));
    let all = ["leaf/", "lemon", "letter"].map(|name| format!("{there_path}/{name}")).join("\n");
    for host in ["lab", "alice@lab"] {
        assert_eq!(complete(&["exec", host, "--", "cat", "-n", &begun]), all);
    }
    let hidden = format!("{there_path}/.l");
    assert_eq!(complete(&["exec", "lab", "--", "cat", &hidden]), format!("{there_path}/.lease"));
    assert_eq!(complete(&["exec", "--cwd", there_path, "lab", "--", "cat", "lem"]), "lemon");
    assert_eq!(complete(&["exec", "lab", "--", "dd", &format!("if={begun}t")]), format!("if={there_path}/letter"));
    assert_eq!(complete(&["exec", "lab", "--", &begun]), all, "a program by its path");
    assert_eq!(complete(&["shell", "lab", "--cwd", &begun]), format!("{there_path}/leaf/"));
    let folder = ["capuchin", "shell", "--cwd", &begun];
    assert_eq!(answer_in_front_of(home.capuchin(), &folder, " lab"), format!("{there_path}/leaf/"));
    // A program without `/` is found by the lender's PATH, whatever follows.
    let program = ["capuchin", "exec", "--cwd", there_path, "lab", "--", "lem"];
    for behind in ["", " -n"] {
        assert_eq!(answer_in_front_of(home.capuchin(), &program, behind), "", "{behind}");
    }
    // Each is asked for as a program, and one that is refused lists nothing.
    lab.wait_for_verdict("spawn", "granted");
    std::fs::write(lab.dir().join("policy.toml"), EVERYTHING.replace('*', "/usr/bin/true")).unwrap();
    lab.wait_for_audit("the new policy", |line| line["event"] == "policy-loaded");
    assert_eq!(complete(&["exec", "lab", "--", "cat", &begun]), "");
    lab.wait_for_verdict("spawn", "refused");
    run(home.capuchin().args(["connect", "--stop", "lab"]));
}

#[test]
fn a_flag_of_a_lenders_program_lists_nothing() {
    let (lab, home) = lab();
    run(home.capuchin().args(["connect", "lab"]));
    assert_eq!(answer(home.capuchin(), &["capuchin", "exec", "lab", "--", "ls", "-"]), "");
    // What comes later stands behind it in the log.
    run(&mut exec(&home, &["true"]));
    lab.wait_for_verdict("spawn", "granted");
    assert_eq!(lab.audit().iter().filter(|line| line["event"] == "spawn").count(), 1);
    run(home.capuchin().args(["connect", "--stop", "lab"]));
}

#[test]
fn one_name_of_a_large_folder_is_completed() {
    let (_lab, home) = lab();
    let there = tempfile::tempdir().unwrap();
    // A listing of more than 256 KiB.
    let long = "n".repeat(200);
    for number in 0..1500 {
        std::fs::write(there.path().join(format!("{long}{number}")), "").unwrap();
    }
    std::fs::write(there.path().join("zebra"), "").unwrap();
    run(home.capuchin().args(["connect", "lab"]));
    let begun = format!("{}/z", there.path().display());
    let completed = answer(home.capuchin(), &["capuchin", "exec", "lab", "--", "cat", &begun]);
    assert_eq!(completed, format!("{begun}ebra"));
    run(home.capuchin().args(["connect", "--stop", "lab"]));
}

#[test]
fn a_tab_does_not_wait_for_a_session_that_hangs() {
    let (_lab, home) = lab();
    run(home.capuchin().args(["connect", "lab"]));
    kill_process(sharing::keeper(&home), Signal::STOP).unwrap();
    let (tab, command) = thread::scope(|scope| {
        let command = scope.spawn(|| took(|| drop(run(&mut exec(&home, &["true"])))));
        let words = ["capuchin", "exec", "lab", "--", "cat", "/etc/hostna"];
        (took(|| assert_eq!(answer(home.capuchin(), &words), "")), command.join().unwrap())
    });
    run(home.capuchin().args(["connect", "--stop", "lab"]));
    // It has 2 s of its own, and a command that comes to such a session 5.
    assert!(tab + Duration::from_secs(1) < command, "{tab:?}, a command {command:?}");
}

fn took(it: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    it();
    begun.elapsed()
}

/// What bash is answered that asks `command` for the last of `words`.
fn answer(command: Command, words: &[&str]) -> String {
    answer_in_front_of(command, words, "")
}

/// As [`answer`], with more of the line behind the cursor.
fn answer_in_front_of(mut command: Command, words: &[&str], behind: &str) -> String {
    command.env("COMPLETE", "bash").args(["--", &words.join(" "), behind, words.last().unwrap()]);
    let output = run(&mut command);
    assert_eq!(text(output.stderr), "", "{words:?}");
    text(output.stdout).trim_end().to_owned()
}

#[test]
fn manual_pages_are_written() {
    let (_lab, home) = lab();
    run(home.capuchin().arg("man").arg(home.folder.path()));
    let page = std::fs::read_to_string(home.folder.path().join("capuchin-exec.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("no shell reads its arguments"), "{page}");
    assert!(home.folder.path().join("capuchind.1").exists());
}

/// What a person sees who presses Tab: the shells themselves, each with its own words to ask by.
#[test]
fn bash_and_zsh_complete_commands_hosts_paths_and_flags_at_the_tab_key() {
    let (_lab, home) = lab();
    run(home.capuchin().args(["connect", "lab"]));
    for (shell, learns) in [
        (&["bash", "--norc"][..], "source <(COMPLETE=bash capuchin)"),
        (&["zsh", "-f"], "autoload -U compinit && compinit -D -u && source <(COMPLETE=zsh capuchin)"),
    ] {
        let screen = Screen::with(&home, shell);
        screen.keys(&[&format!("{learns} && echo learned $((6*7))"), "Enter"]);
        screen.wait_for("learned 42");
        screen.keys(&["C-l"]);
        for (typed, completed) in [
            ("capuchin exe", "capuchin exec"),
            ("l", "capuchin exec lab"),
            ("capuchin shell alice@", "capuchin shell alice@lab"),
            ("capuchin forward -p 1 alice@l", "capuchin forward -p 1 alice@lab"),
            ("--dyn", "capuchin forward -p 1 alice@lab --dynamic"),
            ("capuchin run lab -- setpri", "capuchin run lab -- setpriv"),
            ("/etc/hostna", "capuchin run lab -- setpriv /etc/hostname"),
            ("capuchin exec alice@lab -- cat /etc/hostna", "capuchin exec alice@lab -- cat /etc/hostname"),
            ("capuchin shell lab --cwd=/etc/init.", "capuchin shell lab --cwd=/etc/init.d/"),
        ] {
            if typed.starts_with("capuchin") {
                screen.keys(&["C-u"]);
            }
            screen.keys(&["-l", "--", typed]);
            screen.keys(&["Tab"]);
            screen.wait_until(completed, |shown| shown.trim_end().ends_with(completed));
        }
        screen.keys(&["C-u"]);
        screen.keys(&["-l", "capuchin exec --det"]);
        screen.keys(&["Tab"]);
        screen.wait_until("a flag", |shown| shown.trim_end().ends_with("capuchin exec --detach"));
    }
    run(home.capuchin().args(["connect", "--stop", "lab"]));
}

/// bash gives a completion pieces of words, with their quotes, and types what it is answered as it is.
#[test]
fn bash_completes_words_that_it_takes_apart_and_types_only_text() {
    let (_lab, home) = lab();
    let there = tempfile::tempdir().unwrap();
    for name in ["a:b=c@d", "x y/inner", "it's $(reboot)"] {
        let path = there.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    run(home.capuchin().args(["connect", "lab"]));
    let screen = Screen::with(&home, &["bash", "--norc"]);
    screen.keys(&[
        &format!("source <(COMPLETE=bash capuchin) && cd {} && echo learned $((6*7))", there.path().display()),
        "Enter",
    ]);
    screen.wait_for("learned 42");
    screen.keys(&["C-l"]);
    let exec = format!("capuchin exec --cwd {} lab --", there.path().display());
    for (typed, completed) in [
        ("capuchin run lab -- dd if=/etc/hostna", "capuchin run lab -- dd if=/etc/hostname"),
        ("capuchin run lab -- cat it", r"capuchin run lab -- cat it\'s\ \$\(reboot\)"),
        ("capuchin run lab -- cat \"it", "capuchin run lab -- cat \"it's \\$(reboot)\""),
        ("capuchin run lab -- cat 'x y/in", "capuchin run lab -- cat 'x y/inner'"),
        ("capuchin exec lab -- cat >x", r"capuchin exec lab -- cat >x\ y/"),
        (&format!("{exec} cat a:"), &format!("{exec} cat a:b=c@d")),
        (&format!("{exec} cat a:b=c@"), &format!("{exec} cat a:b=c@d")),
        (&format!("{exec} cat './x y/in"), &format!("{exec} cat './x y/inner'")),
        (&format!("{exec} cat x\\ y/in"), &format!("{exec} cat x\\ y/inner")),
    ] {
        screen.keys(&["C-u"]);
        screen.keys(&["-l", "--", typed]);
        screen.keys(&["Tab"]);
        screen.wait_until(completed, |shown| shown.trim_end().ends_with(completed));
    }
    run(home.capuchin().args(["connect", "--stop", "lab"]));
}

#[test]
fn fish_completes_commands_hosts_paths_and_flags() {
    let (_lab, home) = lab();
    run(home.capuchin().args(["connect", "lab"]));
    let capuchin = home.capuchin();
    let bin = std::path::Path::new(capuchin.get_program()).parent().unwrap();
    let completed = |line: &str| {
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", "COMPLETE=fish capuchin | source; complete -C $argv[1]", line]);
        in_environment_of(&mut fish, &capuchin)
            .env("PATH", std::env::join_paths([bin, "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap());
        let said = text(run(&mut fish).stdout);
        said.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(completed("capuchin exe"), ["exec"]);
    for command in ["exec", "shell", "run", "forward", "connect", "offer", "check"] {
        assert!(completed(&format!("capuchin {command} ")).contains(&"lab".to_owned()), "{command}");
    }
    assert_eq!(completed("capuchin exec --det"), ["--detach"]);
    assert_eq!(completed("capuchin exec alice@l"), ["alice@lab"]);
    assert_eq!(completed("capuchin exec bob@l"), [""; 0]);
    assert_eq!(completed("capuchin run lab -- setpri"), ["setpriv"]);
    for command in ["run", "exec"] {
        assert_eq!(completed(&format!("capuchin {command} lab -- cat /etc/hostna")), ["/etc/hostname"]);
    }
    run(home.capuchin().args(["connect", "--stop", "lab"]));
}
