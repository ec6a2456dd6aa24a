//! Servers, unmodified, met at the lender's address from the lender's side.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    stage::{Guest, for_each_guest, stage},
    support::{Daemon, run, text, wait_until},
};

/// Waits until somebody listens at a port, and is away again.
const WAIT: &str = r#"
import socket, sys, time
end = time.time() + 60
while True:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), 20).close()
        break
    except OSError:
        if time.time() > end:
            raise
        time.sleep(0.05)
"#;

/// A server that runs, and the port at which it is met.
struct Served {
    server: Daemon,
    port: String,
}

impl Served {
    /// Starts it, and waits until it is met; `program` gets its port for `PORT`.
    fn start(guest: &Guest, port: u16, program: &[&str]) -> Self {
        let served = Self::begin(guest, port, program);
        run(&mut there(&["python3", "-c", WAIT, "10.77.0.1", &served.port]));
        served
    }

    /// As [`Self::start`], without waiting.
    fn begin(guest: &Guest, port: u16, program: &[&str]) -> Self {
        // No guest waits for what lingers of another's.
        let port = (port + u16::from(guest.uid != 0)).to_string();
        let program: Vec<String> = program.iter().map(|word| word.replace("PORT", &port)).collect();
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        Self { server: Daemon::spawn(guest.run(&[], &program).stdin(Stdio::piped())), port }
    }

    /// What a program on the lender's machine says, which gets the port for `PORT`.
    fn visited(&self, program: &[&str]) -> String {
        text(run(&mut self.visitor(program)).stdout)
    }

    fn visitor(&self, program: &[&str]) -> Command {
        let program: Vec<String> = program.iter().map(|word| word.replace("PORT", &self.port)).collect();
        there(&program.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Ends it as a person does.
    fn end(mut self) {
        self.server.signal(rustix::process::Signal::TERM);
        self.server.wait();
    }
}

/// A program on the lender's machine, in a folder that every user may read.
fn there(program: &[&str]) -> Command {
    let (program, arguments) = program.split_first().unwrap();
    let mut command = stage().there(Path::new(program));
    command.args(arguments).stdin(Stdio::null()).current_dir(&stage().folder);
    command
}

const CURL: [&str; 6] = ["curl", "-sS", "--fail", "--noproxy", "*", "http://10.77.0.1:PORT/"];

#[test]
fn nc_takes_one_connection_and_its_port_closes_after_it() {
    for_each_guest(|guest| {
        // What it says and what it hears come by one pipe, in their order; it names who comes as the lender's hosts do.
        let mut served = Served::begin(guest, 8100, &["sh", "-c", "exec nc -v -l 0.0.0.0 PORT 2>&1"]);
        served.server.wait_for_line("Listening on");
        served.visited(&["sh", "-c", "echo hello from lab | nc -N 10.77.0.1 PORT"]);
        served.server.wait_for_line("Connection received on own.lab.test");
        served.server.wait_for_line("hello from lab");
        assert!(served.server.wait().success());
        // The lender hears of the end, and nobody waits until it has.
        let knock = || served.visitor(&["nc", "-z", "10.77.0.1", "PORT"]).status().unwrap().code();
        wait_until("its port is closed", || knock() == Some(1));
    });
}

#[test]
fn pythons_web_server_logs_who_came_and_fails_as_at_the_lender() {
    for_each_guest(|guest| {
        let page = guest.write("page.html", 0o644, b"a page of the borrower's\n");
        let page = page.file_name().unwrap().to_str().unwrap().to_owned();
        let program = ["/usr/bin/python3", "-u", "-m", "http.server", "--bind", "0.0.0.0", "PORT"];
        let served = Served::start(guest, 8102, &program);
        let fetch = format!("http://10.77.0.1:PORT/{page}");
        let said = served.visited(&["curl", "-sS", "--fail", "--noproxy", "*", "--interface", "10.77.0.2", &fetch]);
        assert_eq!(said, "a page of the borrower's\n");
        served.server.wait_for_line("10.77.0.2 - - [");
        let serve = |port: &str| guest.run(&[], &["/usr/bin/python3", "-m", "http.server", "--bind", "0.0.0.0", port]);
        let taken = text(serve(&served.port).output().unwrap().stderr);
        assert!(taken.contains("[Errno 98] Address already in use"), "{taken}");
        let low = text(serve("80").output().unwrap().stderr);
        assert!(low.contains("[Errno 13] Permission denied"), "{low}");
        served.end();
        let any = Daemon::spawn(
            &mut guest.run(&[], &["/usr/bin/python3", "-u", "-m", "http.server", "--bind", "0.0.0.0", "0"]),
        );
        let line = any.wait_for_line("Serving HTTP on");
        let port = line.split(' ').nth(5).unwrap();
        let fetch = format!("http://10.77.0.1:{port}/{page}");
        run(&mut there(&["curl", "-sS", "--fail", "--noproxy", "*", &fetch]));
    });
}

#[test]
fn redis_is_met_from_the_lenders_side_and_from_inside() {
    for_each_guest(|guest| {
        let script = "redis-server --port PORT --bind 0.0.0.0 --protected-mode no --save '' --daemonize no >&2 & \
            until redis-cli -h 127.0.0.1 -p PORT set who inside 2>/dev/null; do sleep 0.1; done; wait";
        let served = Served::start(guest, 8104, &["sh", "-c", script]);
        served.server.wait_for_line("OK");
        assert_eq!(served.visited(&["redis-cli", "-h", "10.77.0.1", "-p", "PORT", "get", "who"]), "inside\n");
        let peer = served.visited(&["redis-cli", "-h", "10.77.0.1", "-p", "PORT", "client", "list"]);
        assert!(peer.contains("addr=10.77.0.1:"), "{peer}");
        // 64 connections at once, 2,000 requests.
        let bench = ["redis-benchmark", "-h", "10.77.0.1", "-p", "PORT", "-n", "2000", "-c", "64", "-t", "get", "-q"];
        assert!(served.visited(&bench).contains("requests per second"));
        served.end();
    });
}

#[test]
fn nginx_knows_the_address_of_who_comes() {
    for_each_guest(|guest| {
        let folder = guest.home.folder.path().display().to_string();
        let settings = format!(
            "daemon off; pid {folder}/nginx.pid; error_log stderr; worker_processes 2; events {{}}
            http {{
                access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
                uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
                server {{ listen PORT; listen [::]:PORT; location / {{ return 200 \"$remote_addr\\n\"; }} }}
            }}\n"
        );
        let port = 8106 + u16::from(guest.uid != 0);
        let path = guest.write("nginx.conf", 0o644, settings.replace("PORT", &port.to_string()).as_bytes());
        let served =
            Served::start(guest, 8106, &["nginx", "-e", "stderr", "-p", &folder, "-c", path.to_str().unwrap()]);
        let from = |source: &str, at: &str| {
            served.visited(&["curl", "-sS", "--noproxy", "*", "--interface", source, &format!("http://{at}:PORT/")])
        };
        assert_eq!(from("10.77.0.2", "10.77.0.1"), "10.77.0.2\n");
        assert_eq!(from("fd77::1", "[fd77::1]"), "fd77::1\n");
        served.end();
    });
}

#[test]
fn postgres_answers_psql_on_the_lenders_machine() {
    let newest = |program: &str| {
        let list = format!("ls /usr/lib/postgresql/*/bin/{program} | tail -1");
        text(run(Command::new("sh").args(["-c", &list])).stdout).trim().to_owned()
    };
    for_each_guest(|guest| {
        // It does not run as root, who becomes somebody else.
        let become_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
        let before: &[&str] = if guest.uid == 0 { &become_postgres } else { &[] };
        let script = format!(
            "set -e; db=$(mktemp -d); {} -D $db/db -A trust -U postgres --no-sync -E UTF8 --locale=C >/dev/null
            echo 'host all all samenet trust' >> $db/db/pg_hba.conf
            exec {} -D $db/db -h 0.0.0.0 -p PORT -k $db -F",
            newest("initdb"),
            newest("postgres")
        );
        let program = [before, &["sh", "-c", &script]].concat();
        let served = Served::begin(guest, 8108, &program);
        // It accepts before that, only to say that it is starting up.
        served.server.wait_for_line("ready to accept connections");
        let ask = ["psql", "-h", "10.77.0.1", "-p", "PORT", "-U", "postgres", "-Atc", "select inet_client_addr()"];
        assert_eq!(served.visited(&ask), "10.77.0.1\n");
        served.end();
    });
}

#[test]
fn every_worker_of_a_node_cluster_is_met() {
    let program = br#"
const cluster = require("cluster"), http = require("http");
if (cluster.isPrimary) { cluster.fork(); cluster.fork(); }
else http.createServer((q, a) => { a.setHeader("Connection", "close"); a.end(cluster.worker.id + "\n"); }).listen(process.argv[2], "0.0.0.0");
"#;
    for_each_guest(|guest| {
        let served =
            Served::start(guest, 8110, &["node", guest.write("cluster.js", 0o644, program).to_str().unwrap(), "PORT"]);
        // The port is open as soon as one of them listens.
        let mut workers = std::collections::BTreeSet::new();
        wait_until("both have been met", || {
            workers.insert(served.visited(&CURL));
            workers.len() >= 2
        });
        assert!(workers.iter().eq(["1\n", "2\n"]), "{workers:?}");
        served.end();
    });
}

#[test]
fn a_static_go_server_is_met_over_both_families() {
    let folder = tempfile::tempdir_in(&stage().folder).unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("serve");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/serve.go");
    run(Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .env("CGO_ENABLED", "0")
        .env("GO111MODULE", "off")
        .env("GOCACHE", stage().file("go-cache")));
    for_each_guest(|guest| {
        let served = Served::start(guest, 8112, &[program.to_str().unwrap(), ":PORT"]);
        assert_eq!(served.visited(&CURL), "10.77.0.1\n");
        assert_eq!(served.visited(&["curl", "-sS", "--noproxy", "*", "http://[fd77::1]:PORT/"]), "fd77::1\n");
        served.end();
    });
}

#[test]
fn gunicorn_serves_with_workers_that_it_forked() {
    let app = b"import os\ndef app(environ, start):\n    start('200 OK', [])\n    return [(environ['REMOTE_ADDR'] + '\\n').encode()]\n";
    for_each_guest(|guest| {
        guest.write("prefork.py", 0o644, app);
        let program = ["/usr/bin/python3", "-m", "gunicorn", "--workers", "3", "--bind", "0.0.0.0:PORT", "prefork:app"];
        let served = Served::start(guest, 8114, &program);
        for _ in 0..6 {
            assert_eq!(served.visited(&CURL), "10.77.0.1\n");
        }
        served.end();
    });
}

#[test]
fn iperf3_measures_tcp_and_udp_both_ways() {
    for_each_guest(|guest| {
        // A stranger who only connects would keep it busy.
        let served = Served::begin(guest, 8116, &["iperf3", "-s", "--forceflush", "-p", "PORT"]);
        let end = |options: &[&str]| {
            // After each client it listens anew.
            served.server.wait_for_line("Server listening on");
            let client = ["iperf3", "-J", "-c", "10.77.0.1", "-p", "PORT"];
            let said: serde_json::Value = serde_json::from_str(&served.visited(&[&client, options].concat())).unwrap();
            said["end"].clone()
        };
        for way in [&[][..], &["-R"]] {
            let end_of = |options: &[&str]| end(&[options, way].concat());
            let bits = end_of(&["-t", "1"])["sum_received"]["bits_per_second"].as_f64();
            assert!(bits.is_some_and(|bits| bits > 1e6), "{way:?}: {bits:?}");
            // Of 64 KiB that wait on each side, whoever comes behind is lost. What is less in all arrives, however long either
            // side is kept from its work (a sender at this side may be told late that it is enough, and send more); of what goes
            // on for a second, as much as that takes is lost.
            let all = end_of(&["-u", "-b", "1M", "-l", "1200", "-n", "36000"])["sum"].clone();
            let (packets, lost) = (all["packets"].as_u64().unwrap(), all["lost_packets"].as_u64().unwrap());
            assert!(packets >= 30 && (lost == 0 || packets * 1200 > 64 * 1024), "{way:?}: {all}");
            let second = end_of(&["-u", "-b", "5M", "-l", "1200", "-t", "1"])["sum"].clone();
            let packets = |key: &str| second[key].as_u64().unwrap();
            assert!(packets("packets") - packets("lost_packets") >= 30, "{way:?}: {second}");
        }
        served.end();
    });
}

#[test]
fn iperf3_is_a_client_over_tcp_and_udp_both_ways() {
    // It listens anew after each client.
    let server = Daemon::spawn(&mut there(&["iperf3", "-s", "--forceflush", "-p", "5201"]));
    for_each_guest(|guest| {
        for way in [&[][..], &["-R"]] {
            let end = |options: &[&str]| {
                server.wait_for_line("Server listening on");
                let client = ["iperf3", "-J", "-c", "10.77.0.1", "-p", "5201", "-t", "1"];
                let said = guest.says(&[&client[..], options, way].concat());
                serde_json::from_str::<serde_json::Value>(&said).unwrap()["end"].clone()
            };
            let bits = end(&[])["sum_received"]["bits_per_second"].as_f64();
            assert!(bits.is_some_and(|bits| bits > 1e6), "{way:?} as {}: {bits:?}", guest.uid);
            let sum = end(&["-u", "-b", "1M", "-l", "1200"])["sum"].clone();
            let packets = |key: &str| sum[key].as_u64().unwrap();
            assert!(packets("packets") - packets("lost_packets") >= 30, "{way:?} as {}: {sum}", guest.uid);
        }
    });
}

/// It has one socket for every address, and tells by what comes beside each datagram (IP_PKTINFO) where it came; or one for each.
#[test]
fn dnsmasq_answers_the_lenders_side_from_the_address_that_was_asked() {
    for_each_guest(|guest| {
        for how in [&[][..], &["--listen-address=10.77.0.1", "--bind-interfaces"]] {
            let program = [
                "/usr/sbin/dnsmasq",
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file",
                "--no-resolv",
                "--no-hosts",
                "--log-facility=-",
                "--port=PORT",
                "--address=/borrowed.test/192.0.2.9",
            ];
            let served = Served::start(guest, if how.is_empty() { 8120 } else { 8118 }, &[&program, how].concat());
            for way in ["+notcp", "+tcp"] {
                let ask =
                    ["dig", "+short", "+tries=5", "+time=5", way, "@10.77.0.1", "-p", "PORT", "borrowed.test", "A"];
                assert_eq!(served.visited(&ask), "192.0.2.9\n", "{how:?} {way}");
            }
            served.end();
        }
    });
}
