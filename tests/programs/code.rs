//! git, over http and over ssh.

use crate::{
    stage::{for_each_guest, stage},
    support::{run, text},
};

#[test]
fn git_clones_over_http() {
    for_each_guest(|guest| {
        let program = "git clone -q http://web.lab.test/code.git code && cat code/README";
        assert_eq!(guest.says(&["sh", "-c", program]), "code of lab\n");
    });
}

/// ssh refuses settings that belong to neither root nor the user, and in a user namespace root's belong to nobody.
#[test]
fn git_clones_over_ssh_with_a_drop_in_among_the_settings() {
    for_each_guest(|guest| {
        let key = guest.write("key", 0o600, &std::fs::read(stage().file("user_key")).unwrap());
        let drop_in = stage().file(&format!("drop-in-{}", guest.uid));
        std::fs::create_dir(&drop_in).unwrap();
        let settings = format!(
            "Host code.lab.test\n  User root\n  IdentityFile {}\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
            key.display()
        );
        std::fs::write(drop_in.join("50-lab.conf"), settings).unwrap();
        let path = stage().file("www/code.git");
        let clone = format!("git clone -q ssh://code.lab.test{} over-ssh && cat over-ssh/README", path.display());
        let inside = guest.run(&[], &["sh", "-c", &clone]);
        // The settings of this machine, for as long as the test takes.
        let script = "mount --bind \"$1\" /etc/ssh/ssh_config.d; uid=$2; shift 2
            exec setpriv --reuid=$uid --regid=$uid --clear-groups \"$@\"";
        let mut machine = guest.in_a_machine(script, &[drop_in.to_str().unwrap(), &guest.uid.to_string()], &inside);
        // The repository belongs to root, who serves it.
        assert_eq!(text(run(&mut machine).stdout), "code of lab\n");
    });
}
