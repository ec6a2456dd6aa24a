//! The two that run programs, each a real daemon on loopback.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::processes::{free_port, run, spawn, sshd, wait_for};

/// How to run something over one of them.
pub struct Peer {
    program: Vec<String>,
    environment: Vec<(&'static str, String)>,
    terminal: &'static str,
    /// Between the host and the program.
    separator: Option<&'static str>,
    host: &'static str,
    /// How the session that commands share begins and ends.
    share: [Vec<String>; 2],
    daemon: Option<Child>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        match &mut self.daemon {
            Some(daemon) => {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            None => run(&mut self.command(&self.share[1])),
        }
    }
}

impl Peer {
    /// OpenSSH with its fastest cipher here.
    pub fn ssh(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let (daemon, client) = sshd(folder);
        let words = std::iter::once(client.get_program()).chain(client.get_args());
        let program: Vec<String> = words.map(|word| word.to_str().expect("text").to_owned()).collect();
        let control = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned());
            ["ssh".to_owned(), "-S".to_owned(), path("control")].into_iter().chain(words).collect::<Vec<_>>()
        };
        let mut begin = program.clone();
        begin.extend(["-fNM", "-S", &path("control"), "127.0.0.1"].map(str::to_owned));
        let share = [begin, control(&["-O", "exit", "127.0.0.1"])];
        let (environment, daemon) = (Vec::new(), Some(daemon));
        Self { program, environment, terminal: "-tt", separator: None, host: "127.0.0.1", share, daemon }
    }

    /// A lender, and a borrower that joined.
    pub fn capuchin(folder: &Path) -> Self {
        let lab = folder.join("lab");
        let lender = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_capuchind"));
            command.args(args).env("CAPUCHIND_DIR", &lab);
            command
        };
        let port = free_port();
        run(&mut lender(&["init", "--name", "lab", "--listen", &format!("127.0.0.1:{port}")]));
        let policy = "[[allow]]\nwho = \"bench\"\nexec = [{ path = \"*\" }]\nallow_root = true\n";
        std::fs::write(lab.join("policy.toml"), policy).expect("a file");
        run(&mut lender(&["user", "add", "bench"]));
        let daemon = spawn(&mut lender(&["serve"]));
        wait_for(port);
        let line = lender(&["invite", "bench"]).output().expect("a join line").stdout;
        let line = String::from_utf8(line).expect("a line");
        std::fs::write(folder.join("password"), "a password for the bench").expect("a file");
        let path = |name: &str| folder.join(name).display().to_string();
        let environment = vec![
            ("XDG_CONFIG_HOME", path("config")),
            ("XDG_STATE_HOME", path("state")),
            ("XDG_RUNTIME_DIR", path("run")),
        ];
        let words = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned());
            std::iter::once(env!("CARGO_BIN_EXE_capuchin").to_owned()).chain(words).collect::<Vec<_>>()
        };
        let peer = Self {
            program: words(&["exec"]),
            environment,
            terminal: "-t",
            separator: Some("--"),
            host: "lab",
            share: [words(&["connect", "lab"]), words(&["connect", "--stop", "lab"])],
            daemon: Some(daemon),
        };
        run(&mut peer.command(&words(&["join", line.trim(), "--password-file", &path("password")])));
        peer
    }

    /// The same over one connection that stays, until this is dropped. Nobody else uses it: a capuchin finds it by its
    /// runtime folder, an ssh is told where it is.
    pub fn shared(&self) -> Self {
        let mut program = self.program.clone();
        if self.separator.is_none() {
            program.extend(self.share[1].iter().skip(1).take(2).cloned());
        }
        let mut environment = self.environment.clone();
        for (_, folder) in environment.iter_mut().filter(|(name, _)| *name == "XDG_RUNTIME_DIR") {
            folder.push_str("-shared");
        }
        let shared = Self {
            program,
            environment,
            terminal: self.terminal,
            separator: self.separator,
            host: self.host,
            share: self.share.clone(),
            daemon: None,
        };
        // ssh's master keeps the descriptors that it is given, so that nobody may wait for their end.
        let mut begin = shared.command(&shared.share[0]);
        let status = begin.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("a shared connection");
        assert!(status.success());
        shared
    }

    /// A command that runs `argv` there.
    pub fn exec(&self, argv: &[&str]) -> Command {
        let mut command = self.command(&self.program);
        command.arg(self.host).args(self.separator).args(argv);
        command
    }

    /// The same with a terminal.
    pub fn exec_on_terminal(&self, argv: &[&str]) -> Command {
        let mut command = self.command(&self.program);
        command.arg(self.terminal).arg(self.host).args(self.separator).args(argv);
        command
    }

    fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }
}
