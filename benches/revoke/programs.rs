//! A borrower's programs that would outlive a hang-up, and when the last of them is gone.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Stdio},
    time::Instant,
};

use crate::{support::processes::run, tunnels::borrower};

/// Each says that it lives, ignores what would end it, and holds the pipe open: its last holder's end is the pipe's.
const FAMILY: &str = r#"exec 9>"$1"
trap '' HUP TERM INT
stays='echo lives >&9; exec sleep 600'
setsid sh -c "$stays" &
nohup sh -c "$stays" >/dev/null 2>&1 &
(setsid sh -c "($stays) &" &)
eval "$stays""#;
const MEMBERS: usize = 4;

pub struct Programs {
    command: Child,
    alive: BufReader<File>,
}

impl Programs {
    /// Starts them, and waits until all live.
    pub fn start(folder: &Path) -> Self {
        let pipe = folder.join("alive");
        std::fs::remove_file(&pipe).ok();
        run(std::process::Command::new("mkfifo").arg(&pipe));
        let mut command = borrower(folder);
        command.args(["exec", "lab", "--", "/usr/bin/sh", "-c", FAMILY, "sh"]).arg(&pipe);
        let command = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("capuchin");
        let mut alive = BufReader::new(File::open(&pipe).expect("a pipe"));
        for _ in 0..MEMBERS {
            let mut line = String::new();
            alive.read_line(&mut line).expect("a line");
            assert_eq!(line, "lives\n");
        }
        Self { command, alive }
    }

    /// Seconds from `end` until none of them lives.
    pub fn last_end(mut self, end: impl FnOnce()) -> f64 {
        let began = Instant::now();
        end();
        self.alive.read_to_end(&mut Vec::new()).expect("the end");
        let took = began.elapsed().as_secs_f64();
        assert_eq!(self.command.wait().expect("its end").code(), Some(255), "it was taken back");
        took
    }
}
