//! Real servers under `run`, with a connection for each page, against the same servers as they are.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    ROUNDS, borrowed,
    served::rate,
    support::{
        median,
        processes::{free_port, spawn, wait_for},
        row,
    },
};

const PAGE: &str = "a page\n";

/// The rows.
pub fn measure(folder: &Path) {
    let pages = folder.join("pages");
    std::fs::create_dir(&pages).expect("a folder");
    std::fs::write(pages.join("index.html"), PAGE).expect("a file");
    for (name, server) in [("nginx", nginx as fn(&Path, u16) -> Vec<String>), ("python3 -m http.server", python)] {
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let fetched = |command: Command| fetched(command, |port| server(folder, port));
            let (native, ours) = (fetched(Command::new("env")), fetched(borrowed(folder)));
            eprintln!("{name}: pages/s as it is {native:.0}, capuchin run {ours:.0}");
            ratios.push(ours / native);
        }
        row(
            &format!("run: {name}, accepted connections/s"),
            "the same server as it is",
            median(&mut ratios),
            0.5,
            true,
        );
    }
}

/// nginx as it is set up by default: a worker for each processor.
fn nginx(folder: &Path, port: u16) -> Vec<String> {
    let config = format!(
        "user root; daemon off; worker_processes auto; pid {0}/nginx.pid; error_log stderr crit;
        events {{}}
        http {{ access_log off; server {{ listen {port}; root {0}/pages; }} }}",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, config).expect("a file");
    ["nginx", "-c", &file.display().to_string()].map(String::from).to_vec()
}

fn python(folder: &Path, port: u16) -> Vec<String> {
    let pages = folder.join("pages").display().to_string();
    ["python3", "-m", "http.server", "--directory", &pages, &port.to_string()].map(String::from).to_vec()
}

/// Pages a second, each over a connection of its own, that a server gives under `command`.
fn fetched(mut command: Command, server: impl Fn(u16) -> Vec<String>) -> f64 {
    let port = free_port();
    let _running = Running(spawn(command.args(server(port)).stdout(Stdio::null()).stderr(Stdio::null())));
    wait_for(port);
    rate(port, |socket| {
        socket.write_all(b"GET / HTTP/1.0\r\nHost: lab\r\n\r\n").expect("connected");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("an answer");
        assert!(answer.ends_with(PAGE.as_bytes()), "{}", String::from_utf8_lossy(&answer));
    })
}

/// A server that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = Pid::from_raw(self.0.id() as i32) {
            // SIGTERM, which `run` passes on; what is left is waited for.
            let _ = kill_process(process, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
