//! Files that others could read or change.

use std::{
    fs::Permissions,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use crate::{
    still_serves,
    support::{LOOPBACK, Lab, fails},
};

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_66_readable_keys_symlinked_keys_and_writable_policies() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    lab.daemon.kill();
    for (file, open, closed, mend) in [
        ("ca.key", 0o644, 0o600, "chmod"),
        ("server.key", 0o640, 0o600, "chmod"),
        ("policy.toml", 0o664, 0o644, "chmod"),
        ("lender.toml", 0o666, 0o644, "chmod"),
        ("state.redb", 0o644, 0o600, "chmod"),
    ] {
        let path = lab.dir().join(file);
        mode(&path, open);
        let stderr = fails(lab.admin().arg("serve"), 255);
        assert!(stderr.starts_with("error[config]"), "{file}: {stderr}");
        assert!(stderr.contains(mend) && stderr.contains(file), "{file}: {stderr}");
        mode(&path, closed);
    }
    let key = lab.dir().join("ca.key");
    let elsewhere = lab.dir().join("elsewhere");
    std::fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    let stderr = fails(lab.admin().arg("serve"), 255);
    assert!(stderr.contains("ca.key") && stderr.contains("link"), "{stderr}");
    std::fs::remove_file(&key).unwrap();
    std::fs::rename(&elsewhere, &key).unwrap();

    // The borrower's side, and then all is well again.
    let lab = Lab::serve(lab.folder);
    let key = home.profile().join("alice/client.key");
    mode(&key, 0o604);
    let stderr = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(stderr.contains("client.key") && stderr.contains("chmod 600"), "{stderr}");
    mode(&key, 0o600);
    still_serves(&lab, &home).await;
}
