//! What a join leaves behind that does not come to its end.

use crate::support::{Home, LOOPBACK, Lab, PASSWORD, fails, run, text};

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
