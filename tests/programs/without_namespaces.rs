//! `--no-netns`: names, and programs that no library of this machine is in.

use crate::stage::{for_each_guest, stage};
use crate::support::{run, text};

/// What a program says that must succeed.
fn says(guest: &crate::stage::Guest, program: &[&str]) -> String {
    text(run(&mut guest.run(&["--no-netns"], program)).stdout)
}

#[test]
fn a_name_that_only_the_lender_knows_is_looked_up_by_every_kind_of_resolver() {
    for_each_guest(|guest| {
        let page = says(guest, &["curl", "-sS", "--noproxy", "*", "http://web.lab.test/hello"]);
        assert_eq!(page, "hello from lab\n", "as {}", guest.uid);
        let looked_up = says(guest, &["getent", "ahosts", "web.lab.test"]);
        assert!(looked_up.contains("10.77.0.1") && looked_up.contains("fd77::1"), "{looked_up}");
        for transport in ["+notcp", "+tcp"] {
            for server in [&[][..], &["@127.0.0.1"][..]] {
                let dig = [&["dig", "+short", transport], server, &["web.lab.test", "TXT"]].concat();
                assert_eq!(says(guest, &dig), "\"hello-from-the-zone\"\n", "{dig:?} as {}", guest.uid);
            }
        }
        let node = "require('dns').resolve4('web.lab.test', (error, found) => console.log(error || found[0]))";
        assert_eq!(says(guest, &["node", "-e", node]), "10.77.0.1\n", "as {}", guest.uid);
    });
}

/// Neither the C library nor anything that could be put in its place.
const STATIC: &str = r#"
package main

import (
    "fmt"
    "io"
    "net/http"
)

func main() {
    for _, url := range []string{"http://web.lab.test/hello", "http://[fd77::1]/hello"} {
        answer, err := http.Get(url)
        if err != nil {
            fmt.Println(err)
            return
        }
        body, _ := io.ReadAll(answer.Body)
        fmt.Print(string(body))
    }
    _, err := http.Get("http://10.77.0.1:9/")
    fmt.Println(err)
}
"#;

#[test]
fn a_static_program_is_held_as_well() {
    let folder = stage().file("static");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("main.go"), STATIC).unwrap();
    let mut build = std::process::Command::new("go");
    build.args(["build", "-o"]).arg(folder.join("fetch")).arg(folder.join("main.go"));
    build.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", folder.join("cache"));
    run(build.env("HOME", &folder));
    for_each_guest(|guest| {
        let said = says(guest, &[folder.join("fetch").to_str().unwrap()]);
        let expected = "hello from lab\nhello from lab\nGet \"http://10.77.0.1:9/\": dial tcp 10.77.0.1:9: connect: connection refused\n";
        assert_eq!(said, expected, "as {}", guest.uid);
    });
}

#[test]
fn programs_of_the_other_mode_run_in_this_one() {
    for_each_guest(|guest| {
        let clone = "git clone -q http://web.lab.test/code.git bare && cat bare/README && rm -rf bare";
        assert_eq!(says(guest, &["sh", "-c", clone]), "code of lab\n", "as {}", guest.uid);
        let psql = ["psql", "-h", "db.lab.test", "-U", "postgres", "-At", "-c", "select 6 * 7"];
        assert_eq!(says(guest, &psql), "42\n", "as {}", guest.uid);
    });
}
