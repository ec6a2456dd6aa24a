//! The units in contrib, as systemd reads them.

use std::{fs, path::Path};

use crate::support::run;

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    for unit in ["capuchind.service", "capuchind.socket"] {
        // It must be there to be started, and is not installed on this machine.
        let text = fs::read_to_string(contrib.join(unit)).unwrap();
        let text = text.replace("/usr/local/bin/capuchind ", concat!(env!("CARGO_BIN_EXE_capuchind"), " "));
        fs::write(folder.path().join(unit), text).unwrap();
    }
    let verify = || {
        let mut verify = std::process::Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(folder.path().join("capuchind.service"));
        let output = run(verify.arg(folder.path().join("capuchind.socket")));
        String::from_utf8(output.stderr).unwrap()
    };
    // What it does not know it says, and goes on.
    assert_eq!(verify(), "");
    let service = folder.path().join("capuchind.service");
    let text = fs::read_to_string(&service).unwrap();
    fs::write(&service, text.replace("LockPersonality=", "LockPersonalty=")).unwrap();
    assert!(verify().contains("LockPersonalty"));
}
