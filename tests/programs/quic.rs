//! HTTP/3: a program that moves megabytes in datagrams, with its own idea of loss and pace.

use std::process::Command;

use crate::{
    stage::{for_each_guest, stage},
    support::{Daemon, run, text},
};

#[test]
fn http3_moves_megabytes_each_way_over_both_families() {
    let program = stage().file("quic");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/quic.go"));
    // With the library that Debian has; without modules nothing is fetched.
    build.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOCACHE", stage().file("go-cache"));
    run(build.env("CGO_ENABLED", "0"));
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
