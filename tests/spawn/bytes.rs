//! What goes in comes out: arguments, stdin, stdout, stderr, the environment.

use std::{
    ffi::OsStr,
    io::Write,
    os::unix::ffi::OsStrExt,
    process::{Command, Stdio},
    thread,
};

use crate::{
    exec, lab,
    support::{Home, Lab, fails, in_environment_of, run, run_with, text, wait_until},
};

/// Bytes that repeat nowhere near.
fn random(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

#[test]
fn a_hundred_megabytes_come_back_as_they_went() {
    let (_lab, home) = lab();
    let sent = random(100_000_000);
    let mut child = exec(&home, &["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            stdin.write_all(&sent).unwrap();
            drop(stdin);
        });
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success() && output.stdout == sent, "{} bytes came back", output.stdout.len());
}

#[test]
fn a_stdin_that_fails_is_no_end_of_input_to_the_program() {
    let (lab, home) = lab();
    let whole = lab.dir().join("whole");
    // Nothing is at its beginning, which reads as a disk that fails.
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let line = "cat; echo whole >\"$0\"";
    let said = fails(exec(&home, &["sh", "-c", line, whole.to_str().unwrap()]).stdin(memory), 255);
    assert!(said.contains("error[local]: cannot read stdin: Input/output error"), "{said}");
    lab.wait_for_audit("its end", |line| line["event"] == "spawn-ended");
    assert!(!whole.exists());
}

#[test]
fn arguments_arrive_one_by_one_whatever_bytes_they_are() {
    let (_lab, home) = lab();
    let odd: [&[u8]; 9] =
        [b"a b", b"'", b"\"", b"line\nbreak", b"\xff\xfe", b"", b"$HOME `id` $(id); |&", b"--", b"-n"];
    let mut command = exec(&home, &["printf", "%s\\0"]);
    command.args(odd.map(OsStr::from_bytes));
    let expected: Vec<u8> = odd.iter().flat_map(|word| [word, &b"\0"[..]].concat()).collect();
    assert_eq!(run(&mut command).stdout, expected);
    let many: Vec<String> = (0..10_000).map(|number| format!("argument-{number}")).collect();
    let mut command = exec(&home, &["printf", "%s\\n"]);
    command.args(&many);
    assert_eq!(text(run(&mut command).stdout), many.join("\n") + "\n");
}

#[test]
fn more_arguments_than_a_program_can_have_are_refused_as_the_kernel_does() {
    let (_lab, home) = lab();
    let long = "x".repeat(100_000);
    let mut command = exec(&home, &["true"]);
    command.args(std::iter::repeat_n(&long, 19));
    // 1.9 MB: within our limit, and the kernel's word counts.
    assert!([0, 126].contains(&command.output().unwrap().status.code().unwrap()));
    let stderr = fails(exec(&home, &["true"]).args(std::iter::repeat_n("x", 70_000)), 126);
    assert!(stderr.contains("too many"), "{stderr}");
    let output = run(&mut exec(&home, &["echo", "still"]));
    assert_eq!(text(output.stdout), "still\n");
}

#[test]
fn stderr_stays_apart_and_a_closed_stdin_is_an_end() {
    let (_lab, home) = lab();
    let output = run_with(&mut exec(&home, &["sh", "-c", "cat; echo said >&2"]), "heard");
    assert_eq!((text(output.stdout), text(output.stderr)), ("heard".to_owned(), "said\n".to_owned()));
    // stdin is /dev/null, and -n makes it so.
    assert_eq!(text(run(&mut exec(&home, &["cat"])).stdout), "");
    let mut command = home.capuchin();
    command.args(["exec", "-n", "lab", "cat"]);
    assert_eq!(text(run_with(&mut command, "unread").stdout), "");
}

/// As with docker run -d.
#[test]
fn what_is_detached_reads_nothing_of_our_stdin() {
    let lab = Lab::start(&(crate::EVERYTHING.to_owned() + "detach = true\n"));
    let home = lab.join("alice");
    let (part, whole) = (home.folder.path().join("part"), home.folder.path().join("whole"));
    let script = "cat > \"$0\"; mv \"$0\" \"$1\"";
    let mut command = home.capuchin();
    command.args(["exec", "--detach", "lab", "sh", "-c", script]).args([&part, &whole]);
    let said = run_with(&mut command, vec![b'x'; 1_000_000]);
    assert!(said.status.success(), "{said:?}");
    assert!(text(said.stdout).trim_end().parse::<u32>().is_ok());
    wait_until("it has read to the end", || whole.exists());
    assert_eq!(std::fs::read(&whole).unwrap(), b"");
}

#[test]
fn a_program_that_reads_no_more_breaks_the_pipe_and_not_the_session() {
    let (_lab, home) = lab();
    let output = run_with(&mut exec(&home, &["sh", "-c", "exec <&-; sleep 0.2; echo done"]), random(3_000_000));
    assert_eq!((output.status.code(), text(output.stdout)), (Some(0), "done\n".to_owned()));
}

#[test]
fn the_environment_is_that_of_a_login_and_what_the_policy_lets_through() {
    let policy = crate::EVERYTHING.to_owned() + "env = { send = [\"LANG\", \"LC_*\"] }\n";
    let lab = Lab::start(&policy);
    let home = lab.join("alice");
    let mut command = home.capuchin();
    command.env("LC_TIME", "de_DE").env("SECRET", "x").env("LC_ALL", "not sent");
    command.args(["exec", "--env", "LANG=C.UTF-8", "--env", "LC_TIME", "lab", "env"]);
    let environment = text(run(&mut command).stdout);
    let mut names: Vec<_> = environment.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LANG", "LC_TIME", "LOGNAME", "PATH", "SHELL", "USER"]);
    assert!(environment.contains("LANG=C.UTF-8\n") && environment.contains("LC_TIME=de_DE\n"));
}

/// As ssh(1) sends them.
#[test]
fn on_a_terminal_the_language_goes_along_where_the_policy_lets_it_through() {
    let policy = |send: &str| crate::EVERYTHING.to_owned() + &format!("env = {{ send = [{send}] }}\n");
    let languages = |home: &Home, options: &[&str]| {
        let mut command = home.capuchin();
        command.env("LANG", "de_DE").env("LC_TIME", "C").env("LC_ALL", "fr_FR").env("LANGUAGE", "x");
        let said = text(run(command.arg("exec").args(options).args(["lab", "env"])).stdout);
        let mut lines: Vec<_> =
            said.lines().filter(|line| line.starts_with('L') && !line.starts_with("LOGNAME")).collect();
        lines.sort_unstable();
        lines.join(" ")
    };
    let lab = Lab::start(&policy("\"LANG\", \"LC_T*\""));
    let home = lab.join("alice");
    assert_eq!(languages(&home, &["-t"]), "LANG=de_DE LC_TIME=C");
    assert_eq!(languages(&home, &["-t", "--env", "LANG=C"]), "LANG=C LC_TIME=C", "what is asked for counts more");
    assert_eq!(languages(&home, &[]), "", "no person reads it");
    let (_lab, home) = crate::lab();
    assert_eq!(languages(&home, &["-t"]), "", "and no word of it");
}

#[test]
fn the_working_directory_is_home_or_what_is_asked_for() {
    let (_lab, home) = lab();
    let pwd = |cwd: &[&str]| {
        let mut command = home.capuchin();
        command.arg("exec").args(cwd).args(["lab", "sh", "-c", "pwd; echo $HOME"]);
        text(run(&mut command).stdout)
    };
    let (folder, own) = pwd(&[]).split_once('\n').map(|(a, b)| (a.to_owned(), b.trim().to_owned())).unwrap();
    assert_eq!(folder, own);
    assert!(pwd(&["--cwd", "/usr/bin"]).starts_with("/usr/bin\n"));
    let mut command = home.capuchin();
    let stderr = fails(command.args(["exec", "--cwd", "/no/such/folder", "lab", "true"]), 255);
    let why = "true: the working directory /no/such/folder cannot be entered: No such file or directory";
    assert!(stderr.contains(why) && stderr.starts_with("error[target]: lab: "), "{stderr}");
    let mut command = home.capuchin();
    let stderr = fails(command.args(["exec", "--cwd", "/etc/passwd", "lab", "true"]), 255);
    assert!(stderr.contains("the working directory /etc/passwd cannot be entered: Not a directory"), "{stderr}");
}

/// As ssh has it: what the shell that started us has closed is as if it were /dev/null.
#[test]
fn a_stdin_that_is_closed_here_is_an_end_and_a_closed_stdout_takes_everything() {
    let (_lab, home) = lab();
    let said = |redirections: &str, options: &str| {
        let capuchin = home.capuchin();
        let mut shell = Command::new("sh");
        let line = format!(
            "\"$0\" exec {options} lab -- sh -c 'cat; echo out; echo err >&2; exit 4' {redirections}; echo status $?"
        );
        shell.args(["-c", &line]).arg(capuchin.get_program());
        let output = run_with(in_environment_of(&mut shell, &capuchin), "heard\n");
        (text(output.stdout), text(output.stderr))
    };
    let expect = |out: &str, err: &str| (out.to_owned(), err.to_owned());
    assert_eq!(said("", ""), expect("heard\nout\nstatus 4\n", "err\n"));
    assert_eq!(said("<&-", ""), expect("out\nstatus 4\n", "err\n"));
    assert_eq!(said(">&-", ""), expect("status 4\n", "err\n"));
    assert_eq!(said("2>&-", ""), expect("heard\nout\nstatus 4\n", ""));
    assert_eq!(said("<&- >&- 2>&-", ""), expect("status 4\n", ""));
    assert_eq!(said("<&-", "-t"), expect("out\r\nerr\r\nstatus 4\n", ""));
    // A folder is nothing that could be read.
    assert_eq!(said("</", ""), expect("out\nstatus 4\n", "err\n"));
}
