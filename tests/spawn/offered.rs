//! What the command offers a shell and a reader: completions, manual pages.

use crate::{
    lab,
    support::{run, text},
    terminal::Screen,
};

#[test]
fn shells_complete_commands_and_hosts() {
    let (_lab, home) = lab();
    let complete = |words: &[&str]| {
        let mut command = home.capuchin();
        command
            .env("COMPLETE", "bash")
            .env("_CLAP_IFS", "\n")
            .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
        let output = run(command.arg("--").args(words));
        assert_eq!(text(output.stderr), "", "{words:?}");
        text(output.stdout)
    };
    assert!(complete(&["capuchin", "ex"]).lines().any(|word| word == "exec"));
    for command in ["exec", "shell", "connect", "forward"] {
        assert!(complete(&["capuchin", command, ""]).lines().any(|word| word == "lab"), "{command}");
    }
    assert_eq!(complete(&["capuchin", "exec", "alice@la"]), "alice@lab");
    assert_eq!(complete(&["capuchin", "exec", "bob@la"]), "", "he has not joined");
    assert_eq!(complete(&["capuchin", "hosts", "set", "l"]), "lab");
    assert_eq!(complete(&["capuchin", "hosts", "set", "alice@l"]), "", "it takes no user");
    // Paths of the lender are not known, shared session or not, and ours are none of them.
    for shares in [false, true] {
        for path in [&["--cwd", "/us"][..], &["lab", "/us"], &["lab", "--", "cat", "/us"]] {
            assert_eq!(complete(&[&["capuchin", "exec"], path].concat()), "", "{path:?}");
        }
        if !shares {
            run(home.capuchin().args(["connect", "lab"]));
        }
    }
    run(home.capuchin().args(["connect", "--stop", "lab"]));
    // What `run` starts is of this machine.
    assert_eq!(complete(&["capuchin", "run", "lab", "--", "setpri"]), "setpriv");
    for line in [
        &["lab", "--", "/etc/hostna"][..],
        &["lab", "--", "cat", "/etc/hostna"],
        &["lab", "--", "cat", "-n", "/etc/hostna"],
    ] {
        assert_eq!(complete(&[&["capuchin", "run"], line].concat()), "/etc/hostname", "{line:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let mut script = home.capuchin();
        assert!(text(run(script.env("COMPLETE", shell)).stdout).contains("capuchin"), "{shell}");
    }
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
fn bash_and_zsh_complete_commands_hosts_and_flags_at_the_tab_key() {
    let (_lab, home) = lab();
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
        ] {
            if typed.contains('@') || typed.contains("run") {
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
}

#[test]
fn fish_completes_commands_hosts_and_flags() {
    let (_lab, home) = lab();
    let capuchin = home.capuchin();
    let bin = std::path::Path::new(capuchin.get_program()).parent().unwrap();
    let completed = |line: &str| {
        let mut fish = std::process::Command::new("fish");
        fish.args(["--no-config", "-c", "COMPLETE=fish capuchin | source; complete -C $argv[1]", line]);
        fish.envs(capuchin.get_envs().filter_map(|(name, value)| Some((name, value?))));
        fish.env("PATH", std::env::join_paths([bin, "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap());
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
    assert_eq!(completed("capuchin run lab -- cat /etc/hostna"), ["/etc/hostname"]);
}
