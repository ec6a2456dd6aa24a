//! Clients of web servers and databases, and what connect() tells them.

use std::process::Command;

use crate::{
    stage::{Guest, for_each_guest, stage},
    support::{run, text},
};

const PAGE: &str = "hello from lab\n";
const URL: &str = "http://web.lab.test/hello";

fn source(name: &str) -> String {
    format!("{}/tests/programs/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn curl_fetches_by_a_name_that_only_the_lender_knows() {
    for_each_guest(|guest| {
        assert_eq!(guest.says(&["curl", "-sS", URL]), PAGE);
        assert_eq!(guest.says(&["curl", "-sS", "-4", "http://own.lab.test/hello"]), PAGE, "from the lender's hosts");
        assert_eq!(guest.says(&["curl", "-sS", "-6", URL]), PAGE);
        assert_eq!(guest.says(&["curl", "-sS", "http://web/hello"]), PAGE, "by the lender's search list");
    });
}

#[test]
fn curl_hears_of_a_refused_port_and_waits_for_a_silent_one() {
    for_each_guest(|guest| {
        guest.fails(&["curl", "-sS", "http://web.lab.test:9/"], 7);
        guest.fails(&["curl", "-sS", "-4", "-m", "2", "http://web.lab.test:81/"], 28);
        guest.fails(&["curl", "-sS", "http://nowhere.lab.test/"], 6);
    });
}

#[test]
fn node_fetches_by_http_and_by_fetch() {
    let program = "const http = require('http');
        http.get(process.argv[1], (answer) => answer.pipe(process.stdout).on('unpipe', async () =>
            process.stdout.write(await (await fetch(process.argv[1])).text())));";
    for_each_guest(|guest| assert_eq!(guest.says(&["node", "-e", program, URL]), PAGE.repeat(2)));
}

#[test]
fn java_fetches_by_its_http_client() {
    for_each_guest(|guest| assert_eq!(guest.says(&["java", "-Xint", &source("Fetch.java"), URL]), PAGE));
}

#[test]
fn a_static_go_program_fetches() {
    let program = stage().file("fetch");
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(source("fetch.go"));
    run(build.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod").env("GOCACHE", stage().file("go-cache")));
    for_each_guest(|guest| assert_eq!(guest.says(&[program.to_str().unwrap(), URL]), PAGE));
}

#[test]
fn the_loops_of_python_fetch() {
    for_each_guest(|guest| {
        let said = guest.says(&["/usr/bin/python3", &source("loops.py"), URL]);
        assert_eq!(said, format!("asyncio {PAGE}uvloop {PAGE}"));
    });
}

#[test]
fn psql_reaches_the_lenders_loopback() {
    for_each_guest(|guest| {
        let said = guest.says(&["psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", "select 40 + 2"]);
        assert_eq!(said, "42\n");
    });
}

#[test]
fn a_rule_for_a_name_alone_lets_psql_in_by_the_name_alone() {
    let psql = |host: &'static str| ["psql", "-h", host, "-U", "postgres", "-Atc", "select 40 + 2"];
    for uid in [0, 65534] {
        let carol = Guest::new("carol", uid);
        assert_eq!(carol.says(&psql("db.lab.test")), "42\n", "as {uid}");
        let output = carol.fails(&psql("10.77.0.1"), 2);
        let said = text(output.stderr);
        assert!(said.contains("connect 10.77.0.1:5432 is refused: no rule allows it"), "as {uid}: {said}");
    }
}

#[test]
fn connect_says_what_the_lenders_connect_said() {
    let program = source("errnos.py");
    let attempts = [
        "ok4=10.77.0.1=5301",
        "refused4=10.77.0.1=9",
        "unrouted4=203.0.113.5=80",
        "policy4=10.77.0.1=25",
        "ok6=fd77::1=5301",
        "refused6=fd77::1=9",
        "unrouted6=2001:db8::5=80",
        "policy6=fd77::1=25",
    ];
    let expected = "ok4 ok ok\nrefused4 ECONNREFUSED ECONNREFUSED\nunrouted4 ENETUNREACH at-once-ENETUNREACH\n\
        policy4 EHOSTUNREACH EHOSTUNREACH\nok6 ok ok\nrefused6 ECONNREFUSED ECONNREFUSED\n\
        unrouted6 ENETUNREACH at-once-ENETUNREACH\npolicy6 EACCES EACCES\n";
    for_each_guest(|guest| {
        assert_eq!(guest.says(&[&["/usr/bin/python3", &program][..], &attempts].concat()), expected);
    });
}

#[test]
fn a_variable_of_the_lender_is_borrowed_by_name() {
    for_each_guest(|guest| {
        let output = run(&mut guest.run(&["--env", "LAB_COLOUR"], &["printenv", "LAB_COLOUR"]));
        assert_eq!(text(output.stdout), "green\n");
        let output = guest.run(&["--env", "HOME"], &["true"]).output().unwrap();
        let said = text(output.stderr);
        assert_eq!(output.status.code(), Some(255), "{said}");
        assert!(said.contains("error[policy]") && said.contains("env.read HOME is refused"), "{said}");
    });
}
