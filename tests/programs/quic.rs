//! HTTP/3: a program that moves megabytes in datagrams, with its own idea of loss and pace.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use crate::{
    stage::{for_each_guest, stage},
    support::{Daemon, run, text},
};

/// The client and server, built once.
fn built() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let program = stage().file("quic");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/quic.go"));
        // With the library that Debian has; without modules nothing is fetched.
        build.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOCACHE", stage().file("go-cache"));
        run(build.env("CGO_ENABLED", "0"));
        program
    };
    BUILT.get_or_init(build).clone()
}

#[test]
fn http3_moves_megabytes_each_way_over_both_families() {
    let program = built();
    let addresses = ["10.77.0.1:4433", "[fd77::1]:4433"];
    let _servers = addresses.map(|address| {
        let server = Daemon::spawn(stage().there(&program).args(["serve", address]));
        server.wait_for_line("serves");
        server
    });
    for_each_guest(|guest| {
        let words = [program.to_str().unwrap(), addresses[0], addresses[1]];
        let without_namespaces = text(run(&mut guest.run(&["--no-netns"], &words)).stdout);
        let said = guest.says(&words);
        assert_eq!(without_namespaces, said, "as {}", guest.uid);
        assert_eq!(said, "HTTP/3.0 true\nHTTP/3.0 true\n");
    });
}

#[test]
fn an_http3_server_is_met_at_the_lender_over_both_families() {
    let program = built();
    let program = program.to_str().unwrap();
    for_each_guest(|guest| {
        let port = 8122 + u16::from(guest.uid != 0);
        let addresses = ["10.77.0.1", "[fd77::1]"].map(|host| format!("{host}:{port}"));
        let servers = addresses.each_ref().map(|address| {
            let server = Daemon::spawn(&mut guest.run(&[], &[program, "serve", address]));
            server.wait_for_line("serves");
            server
        });
        let mut visit = stage().there(program.as_ref());
        let said = text(run(visit.args(&addresses)).stdout);
        assert_eq!(said, "HTTP/3.0 true\nHTTP/3.0 true\n", "as {}", guest.uid);
        drop(servers);
    });
}
