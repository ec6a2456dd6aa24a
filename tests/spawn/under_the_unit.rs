//! A lender of root under what contrib/capuchind.service lets it have: its capabilities and umask, without systemd.

use std::process::Command;

use crate::{
    ends::Stubborn,
    support::{Home, Lab, run, text},
    users::{
        POLICY, SETUID, are_connected_and_created_as_the_user, cannot_see_each_other,
        gain_privileges_where_a_rule_says_so, lab_after, lab_of_sockets, run_as_their_user, with_setuid,
    },
};

/// What the unit says of a setting, if it is not commented out there.
fn setting(name: &str) -> Option<String> {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/capuchind.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    unit.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// The words that start a command as the unit would.
fn as_the_unit_starts_it() -> Vec<String> {
    let capabilities = setting("CapabilityBoundingSet").unwrap();
    let capabilities = capabilities.split(' ').map(|one| one.strip_prefix("CAP_").unwrap().to_lowercase());
    let kept: Vec<_> = capabilities.map(|one| format!(",+{one}")).collect();
    let mut words = vec!["setpriv".to_owned(), format!("--bounding-set=-all{}", kept.concat())];
    words.extend((setting("NoNewPrivileges").as_deref() == Some("yes")).then(|| "--no-new-privs".to_owned()));
    words
}

/// A lender with this policy that is started so.
fn lab_under_the_unit(policy: &str) -> (Lab, Home, Home) {
    let (umask, words) = (setting("UMask").unwrap(), as_the_unit_starts_it());
    let start = words.join(" ");
    let prepare = format!("{SETUID} && umask {umask} && folder=$1 && shift && set -- \"$folder\" {start} \"$@\"");
    let (lab, alice, bob) = lab_after(policy, &prepare);
    let expected = text(run(Command::new(&words[0]).args(&words[1..]).args(["cat", "/proc/self/status"])).stdout);
    let daemon = std::fs::read_to_string(format!("/proc/{}/status", lab.daemon.child.id())).unwrap();
    let [has, expected] =
        [&daemon, &expected].map(|status| status.lines().find(|line| line.starts_with("CapEff:")).unwrap());
    assert_eq!(has, expected);
    assert!(daemon.contains(&format!("Umask:\t{umask}\n")), "{daemon}");
    (lab, alice, bob)
}

#[test]
fn programs_are_lent_under_the_units_settings() {
    let (lab, alice, bob) = lab_under_the_unit(POLICY);
    run_as_their_user(&alice, &bob);
    cannot_see_each_other(&alice, &bob);
    let stubborn = Stubborn::start(&alice);
    run(lab.admin().args(["revoke", "--user", "alice"]));
    stubborn.are_gone();
    assert_eq!(stubborn.command.wait_with_output().unwrap().status.code(), Some(255));
}

#[test]
fn programs_gain_privileges_under_the_units_settings_where_a_rule_says_so() {
    let (_lab, alice, bob) = lab_under_the_unit(&with_setuid());
    gain_privileges_where_a_rule_says_so(&alice, &bob);
    cannot_see_each_other(&alice, &bob);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_are_lent_under_the_units_settings() {
    let (_lab, alice, _folder, root) = lab_of_sockets(lab_under_the_unit);
    are_connected_and_created_as_the_user(&alice, &root).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_ports_are_lent_under_the_units_settings() {
    let policy = POLICY.replacen("run_as", "listen = \"127.0.0.1:1-1023\"\nrun_as", 1);
    let (_lab, alice, _bob) = lab_under_the_unit(&policy);
    let borrower = alice.connect().await;
    // Somebody else may have one of them.
    let mut refused = Vec::new();
    for port in (900..1000).rev() {
        match borrower.tcp_listen(format!("127.0.0.1:{port}")).await {
            Ok(listener) => return assert_eq!(listener.local_addr().port(), port),
            Err(error) => refused.push(error.to_string()),
        }
    }
    panic!("{refused:?}");
}
