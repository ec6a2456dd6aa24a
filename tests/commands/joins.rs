//! What a join is called here, and what it leaves behind that does not come to its end.

use crate::support::{Home, LOOPBACK, Lab, PASSWORD, fails, run, text};

#[test]
fn a_host_is_called_here_as_its_join_says() {
    let (lab, other) = (Lab::start(LOOPBACK), Lab::start(LOOPBACK));
    let home = Home::new();
    let password = home.password_file(PASSWORD);
    let join = |lab: &Lab, alias: &[&str]| {
        let mut command = home.capuchin();
        command.args(["join", lab.invite("alice").trim()]).args(alias).arg("--password-file").arg(&password);
        command
    };
    let check = |host: &str| {
        let mut command = home.capuchin();
        command.args(["check", host, "connect", "127.0.0.1:1"]);
        command
    };
    let said = text(run(&mut join(&lab, &["--as", "attic"])).stdout);
    assert_eq!(said, "Joined lab as alice; it is called attic here, and you are logged in.\n");
    run(&mut check("attic"));
    assert!(fails(&mut check("lab"), 2).contains("joined so far: attic"));
    // Another lender, which calls itself the same.
    let said = fails(&mut join(&other, &["--as", "attic"]), 255);
    assert!(said.starts_with("error[") && said.contains("--as"), "{said}");
    run(&mut join(&other, &[]));
    for (lab, host) in [(&lab, "attic"), (&other, "lab")] {
        std::fs::write(lab.dir().join("policy.toml"), "").unwrap();
        lab.wait_for_audit("the other policy", |line| line["event"] == "policy-loaded");
        fails(&mut check(host), 1);
    }
}

#[test]
fn a_join_whose_login_cannot_be_kept_says_that_it_is_done_itself() {
    let lab = Lab::start(LOOPBACK);
    let home = Home::new();
    let state = home.folder.path().join("state/capuchin");
    std::fs::create_dir_all(&state).unwrap();
    // In the place of the folder that holds logins.
    std::fs::write(state.join("tickets"), "").unwrap();
    let line = lab.invite("alice");
    let password = home.password_file(PASSWORD);
    let said = fails(home.capuchin().args(["join", line.trim(), "--password-file"]).arg(&password), 255);
    assert!(said.starts_with("error[config]: cannot make ") && said.contains(": Not a directory"), "{said}");
    assert!(said.contains("the join itself is done; log in again: capuchin login lab"), "{said}");
    std::fs::remove_file(state.join("tickets")).unwrap();
    let login = run(home.capuchin().args(["login", "lab", "--password-file"]).arg(&password));
    assert_eq!(text(login.stdout), "Logged in at lab as alice.\n");
}
