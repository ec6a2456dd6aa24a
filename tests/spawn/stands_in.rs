//! contrib/capuchin-ssh in the place of ssh, under programs that hand it a line for a shell.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    EVERYTHING, lab,
    support::{Home, Lab, in_environment_of, pty::Pty, run, run_with, text},
};

const STANDS_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/capuchin-ssh");

/// As alice would run it, with capuchin where her shell finds it.
fn as_alice(home: &Home, program: &str) -> Command {
    let own = Path::new(env!("CARGO_BIN_EXE_capuchin")).parent().unwrap().to_owned();
    let path = env::join_paths([own].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap()))).unwrap();
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    in_environment_of(&mut command, &home.capuchin())
        .env("PATH", path)
        .env("GIT_SSH_COMMAND", STANDS_IN)
        .env("GIT_SSH_VARIANT", "simple");
    command
}

#[test]
fn git_clones_and_pushes() {
    let (lab, home) = lab();
    let (there, here) = (lab.dir().join("origin of it.git"), lab.dir().join("clone"));
    let git = |folder: &Path, arguments: &[&str]| {
        let mut git = as_alice(&home, "git");
        git.current_dir(folder).args(["-c", "user.name=a", "-c", "user.email=a@a", "-c", "init.defaultBranch=main"]);
        run(git.args(arguments))
    };
    git(lab.dir(), &["init", "--quiet", "--bare", there.to_str().unwrap()]);
    git(lab.dir(), &["clone", "--quiet", &format!("lab:{}", there.display()), here.to_str().unwrap()]);
    git(&here, &["commit", "--quiet", "--allow-empty", "-m", "first"]);
    git(&here, &["push", "--quiet", "origin", "HEAD:main"]);
    let log = git(&there, &["log", "--format=%s", "main"]);
    assert_eq!(log.stdout, b"first\n");
}

#[test]
fn git_that_has_exec_in_the_place_of_ssh_is_told_what_stands_in() {
    let (lab, home) = lab();
    let mut git = as_alice(&home, "git");
    git.env("GIT_SSH_COMMAND", format!("{} exec", env!("CARGO_BIN_EXE_capuchin")));
    let said = text(git.args(["ls-remote", &format!("lab:{}", lab.dir().display())]).output().unwrap().stderr);
    assert!(
        said.contains("for one: capuchin exec HOST -- sh -c 'LINE'") && said.contains("contrib/capuchin-ssh"),
        "{said}"
    );
}

#[test]
fn rsync_copies_what_the_shell_there_names() {
    let (lab, home) = lab();
    let (from, to) = (lab.dir().join("from"), lab.dir().join("to"));
    fs::create_dir(&from).unwrap();
    for name in ["f1", "f2", "other"] {
        fs::write(from.join(name), name).unwrap();
    }
    let mut rsync = as_alice(&home, "rsync");
    rsync
        .args(["--old-args", "-a", "-e", STANDS_IN, &format!("lab:{}/f*", from.display())])
        .arg(format!("{}/", to.display()));
    run(&mut rsync);
    let mut came: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    came.sort();
    assert_eq!(came, ["f1", "f2"]);
}

/// capuchin-ssh itself.
fn ssh(home: &Home, words: &[&str]) -> Command {
    let mut ssh = as_alice(home, STANDS_IN);
    ssh.args(words);
    ssh
}

/// Its exit status, stdout and stderr.
fn told(output: Output) -> (i32, String, String) {
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn scp_copies_both_ways_by_both_of_its_protocols() {
    let (lab, home) = lab();
    let [here, there, back] = ["here", "there", "back"].map(|name| lab.dir().join(name));
    for (protocol, content) in [("-s", "by SFTP\n"), ("-O", "by the old one\n")] {
        fs::write(&here, content).unwrap();
        let far = format!("lab:{}", there.display());
        let scp = |from: &str, to: &str| {
            run(as_alice(&home, "scp").args([protocol, "-q", "-S", STANDS_IN, "--", from, to]));
        };
        scp(here.to_str().unwrap(), &far);
        assert_eq!(fs::read_to_string(&there).unwrap(), content);
        scp(&far, back.to_str().unwrap());
        assert_eq!(fs::read_to_string(&back).unwrap(), content);
        for file in [&there, &back] {
            fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn sftp_speaks_to_the_server_there() {
    let (lab, home) = lab();
    fs::write(lab.dir().join("one"), "content").unwrap();
    let batch = lab.dir().join("batch");
    fs::write(&batch, format!("cd {0}\nrename one two\nget two {0}/three\n", lab.dir().display())).unwrap();
    let mut sftp = as_alice(&home, "sftp");
    run(sftp.arg("-b").arg(&batch).args(["-S", STANDS_IN, "alice@lab"]));
    assert!(!lab.dir().join("one").exists());
    assert_eq!(fs::read_to_string(lab.dir().join("three")).unwrap(), "content");
    let (code, _, said) = told(ssh(&home, &["-s", "lab", "netconf"]).output().unwrap());
    assert!(code == 255 && said.contains("knows sftp, and not netconf"), "{code}: {said}");
}

#[test]
fn n_leaves_the_input_of_a_loop_to_the_loop() {
    let (_lab, home) = lab();
    let looped = |options: &str| {
        let script = format!("while read word; do \"$0\" {options} lab \"cat; echo $word\"; done");
        let output = run_with(as_alice(&home, "sh").args(["-c", &script, STANDS_IN]), "one\ntwo\nthree\n");
        text(output.stdout)
    };
    assert_eq!(looped("-n"), "one\ntwo\nthree\n");
    assert_eq!(looped("-o StdinNull=yes"), "one\ntwo\nthree\n");
    assert_eq!(looped(""), "two\nthree\none\n", "without it, cat there has it all");
}

#[test]
fn users_and_options_are_taken_where_ssh_takes_them() {
    let policy = EVERYTHING.replace("\"alice\"", "[\"alice\", \"bob\"]") + "env.send = \"GREETING\"\n";
    let lab = Lab::start(&policy);
    let home = lab.join("alice");
    lab.join_at("bob", &home);
    // A line of its own for each, so that the audit says who came with it.
    for (number, (words, user)) in [
        (&["-lbob", "lab"][..], "bob"),
        (&["-l", "bob", "lab"], "bob"),
        (&["lab", "-l", "bob"], "bob"),
        (&["-oUser=bob", "lab"], "bob"),
        (&["-xqTlbob", "-o", "ForwardX11 no", "lab"], "bob"),
        (&["bob@lab"], "bob"),
        (&["-lbob", "-l", "alice", "lab"], "bob"),
        (&["-B", "eth0", "-P", "tag", "-i", "key", "-oStrictHostKeyChecking=no", "-4C", "lab"], "alice"),
        (&["-l", "alice", "--", "lab"], "alice"),
        (&["lab", "-l", "alice", "--"], "alice"),
        (&["-p", "PORT", "lab"], "alice"),
        (&["-oPort=PORT", "lab"], "alice"),
    ]
    .into_iter()
    .enumerate()
    {
        let port = lab.address.port().to_string();
        let line = format!("echo number-{number}");
        let words: Vec<_> = words.iter().map(|word| word.replace("PORT", &port)).collect();
        let mut words: Vec<_> = words.iter().map(String::as_str).collect();
        words.push(&line);
        assert_eq!(told(run(&mut ssh(&home, &words))), (0, format!("number-{number}\n"), String::new()), "{words:?}");
        let granted = lab.wait_for_audit("it", |entry| {
            entry["event"] == "spawn"
                && entry["target"].as_str().is_some_and(|target| target.ends_with(&format!("{line}'")))
        });
        assert_eq!(granted["user"], user, "{words:?}");
    }
    // Behind `--` the line begins, whatever it looks like.
    assert_ne!(ssh(&home, &["--", "lab", "-l", "bob"]).output().unwrap().status.code(), Some(0));
    let granted =
        lab.wait_for_audit("it", |entry| entry["target"].as_str().is_some_and(|it| it.ends_with("sh -c '-l bob'")));
    assert_eq!(granted["user"], "alice");
    let said = told(run(&mut ssh(&home, &["-oSetEnv=GREETING=a=b", "lab", "echo $GREETING; exit 0"])));
    assert_eq!(said, (0, "a=b\n".to_owned(), String::new()));
}

#[test]
fn a_host_without_a_line_opens_a_shell() {
    let (_lab, home) = lab();
    let output = run_with(&mut ssh(&home, &["lab"]), "echo in a shell of $((6*7)); exit 7\n");
    assert_eq!(told(output), (7, "in a shell of 42\n".to_owned(), String::new()));
}

#[test]
fn a_terminal_is_made_as_ssh_makes_one() {
    let (_lab, home) = lab();
    // Without one here, by -tt alone.
    let tty = |words: &[&str]| told(ssh(&home, &[words, &["lab", "tty"]].concat()).output().unwrap());
    for forced in [&["-tt"][..], &["-t", "-t"], &["-oRequestTTY=force"]] {
        let (code, said, _) = tty(forced);
        assert!(code == 0 && said.starts_with("/dev/pts/"), "{forced:?}: {code} {said}");
    }
    let (code, said, aside) = tty(&["-t"]);
    assert_eq!((code, said.as_str()), (1, "not a tty\n"));
    assert!(aside.contains("no terminal is made, as stdin is none here"), "{aside}");
    assert_eq!(tty(&["-T"]), (1, "not a tty\n".to_owned(), String::new()));
    // On one, by -t.
    for (word, said) in [("-t", "/dev/pts/"), ("-T", "not a tty")] {
        let mut pty = Pty::open();
        let mut child = pty.start(&mut ssh(&home, &[word, "lab", "tty"]));
        pty.wait_for(said);
        child.wait().unwrap();
    }
}

#[test]
fn what_it_cannot_do_is_said_and_nothing_runs() {
    let (lab, home) = lab();
    let mark = lab.dir().join("ran");
    let touch = format!("touch {}", mark.display());
    for (words, what) in [
        (&["-L", "8080:a:80"][..], "capuchin forward HOST -L"),
        (&["-R8080:a:80"], "capuchin forward HOST -R"),
        (&["-ND", "1080"], "capuchin forward HOST -N"),
        (&["-W", "a:80"], "capuchin forward HOST -W"),
        (&["-f"], "background"),
        (&["-G"], "-G is ssh's own"),
        (&["-O", "exit"], "-O is ssh's own"),
        (&["-oLocalForward=1 a:2"], "capuchin forward"),
        (&["-o", "RemoteCommand=ls"], "-o RemoteCommand=ls is not done"),
        (&["-z"], "-z is no option of ssh's"),
    ] {
        let (code, said, aside) = told(ssh(&home, &[words, &["lab", &touch]].concat()).output().unwrap());
        assert_eq!((code, said.as_str()), (255, ""), "{words:?}: {aside}");
        assert!(aside.starts_with("capuchin-ssh: ") && aside.contains(what), "{words:?}: {aside}");
        assert_eq!(aside.lines().count(), 1, "{words:?}: {aside}");
    }
    assert!(!mark.exists());
    for words in [&[][..], &["-l"], &["-l", "alice"]] {
        assert_eq!(ssh(&home, words).output().unwrap().status.code(), Some(255), "{words:?}");
    }
    // What goes without it goes on, and says so.
    let (code, said, aside) = told(ssh(&home, &["-AX", "lab", "echo on"]).output().unwrap());
    assert_eq!((code, said.as_str(), aside.lines().count()), (0, "on\n", 2), "{aside}");
}
