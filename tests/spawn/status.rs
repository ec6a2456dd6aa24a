//! How a program ends is how the command ends.

use std::os::unix::process::ExitStatusExt;

use capuchin::{Borrower, Profiles};

use crate::{
    exec, lab,
    support::{Home, fails, run},
};

pub async fn connect(home: &Home) -> Borrower {
    let folder = home.folder.path();
    let profiles = Profiles::at(&folder.join("config"), &folder.join("state"));
    Borrower::connect_with(&profiles, "lab").await.unwrap()
}

/// In one session, as 256 logins would only test those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_exit_status_and_every_signal_arrives() {
    let (_lab, home) = lab();
    let borrower = connect(&home).await;
    for status in 0..=255 {
        let ended = borrower.command("sh").args(["-c", "exit $0", &status.to_string()]).status().await.unwrap();
        assert_eq!(ended.code(), Some(status));
    }
    // Those that do not end a program by default, or stop it: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH. And 32 and 33,
    // which the C library keeps to itself.
    let harmless = [17, 18, 19, 20, 21, 22, 23, 28, 32, 33];
    for number in (1..=64).filter(|number| !harmless.contains(number)) {
        // No shell knows all of the real-time signals, and perl ignores one of the others.
        let ended = if number < 32 {
            borrower.command("sh").args(["-c", "kill -$0 $$; sleep 60", &number.to_string()]).status().await.unwrap()
        } else {
            borrower.command("perl").args(["-e", &format!("kill {number}, $$; sleep 60")]).status().await.unwrap()
        };
        assert_eq!(ended.signal(), Some(number), "{ended:?}");
    }
}

#[test]
fn the_command_ends_as_a_shell_says_it() {
    let (_lab, home) = lab();
    run(&mut exec(&home, &["true"]));
    for (script, code) in [("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let output = exec(&home, &["sh", "-c", script]).output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(code), Vec::new()), "{script}");
    }
    assert!(fails(&mut exec(&home, &["no-such-program"]), 127).contains("no-such-program"));
    assert!(fails(&mut exec(&home, &["/no/such/program"]), 127).contains("/no/such/program"));
    assert!(fails(&mut exec(&home, &["/etc/passwd"]), 126).contains("Permission denied"));
    assert!(fails(home.capuchin().args(["exec", "nowhere", "true"]), 255).starts_with("error[config]"));
}

#[test]
fn a_login_shell_reads_what_stdin_says() {
    let (_lab, home) = lab();
    let mut command = home.capuchin();
    let output = crate::support::run_with(command.args(["shell", "-T", "lab"]), "echo $0; exit 5\n");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(crate::support::text(output.stdout).trim_end().starts_with('-'), "a login shell");
}
