//! The AppArmor profile that `run` prints, read by AppArmor's own parser.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, process::Command};

use crate::support::{Home, run, text};

#[test]
fn the_apparmor_profile_is_of_this_very_command() {
    let said = text(run(Home::new().capuchin().args(["run", "--print-apparmor"])).stdout);
    let line = format!("profile capuchin {} flags=(unconfined) {{\n  userns,\n", env!("CARGO_BIN_EXE_capuchin"));
    assert!(said.contains(&line), "{said}");
}

/// What apparmor_parser(8) makes of a profile for the kernel; it is loaded nowhere. A parser before 4.0, which has no kernel that
/// restricts namespaces either, is spared what it cannot know: the rule `userns`, and the list of what a kernel of 4.0 has.
fn compiled(profile: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profile");
    let parse = |profile: &str| {
        fs::write(&file, profile).unwrap();
        let mut parser = Command::new("/sbin/apparmor_parser");
        parser.args(["--stdout", "--skip-kernel-load", "--skip-cache", "-I"]).arg(folder.path());
        parser.args(["-I", "/etc/apparmor.d"]).arg(&file);
        parser
    };
    let knows_userns = parse("profile knows { userns, }").output().unwrap().status.success();
    if knows_userns {
        return run(&mut parse(profile)).stdout;
    }
    fs::create_dir(folder.path().join("abi")).unwrap();
    fs::copy("/etc/apparmor.d/abi/3.0", folder.path().join("abi/4.0")).unwrap();
    run(&mut parse(&profile.replace("  userns,\n", ""))).stdout
}

#[test]
fn the_apparmor_profile_is_read_as_it_is_meant_wherever_the_command_lies() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let names = [
        "plain-1.0_x",
        "with space",
        "quo\"ted'",
        "back\\slash",
        "any*thing?",
        "[abc]",
        "{a,b}",
        "@{HOME}",
        "#end,",
        "a^b",
        "naïve",
        "line\nprofile evil /** flags=(unconfined) {",
        "tab\t",
        "$(x)",
        "** flags=(complain)",
    ];
    for name in names.map(OsStr::new).into_iter().chain([OsStr::from_bytes(b"\xff\xfe")]) {
        let folder = place.path().join(name);
        // One of them has a slash.
        fs::create_dir_all(&folder).unwrap();
        let command = folder.join("capuchin");
        fs::hard_link(env!("CARGO_BIN_EXE_capuchin"), &command).unwrap();
        let printed = text(run(Command::new(&command).args(["run", "--print-apparmor"])).stdout);
        let whole = compiled(&printed);
        assert_eq!(printed.matches("profile ").count(), 1, "{printed}");
        let path = printed
            .lines()
            .find_map(|line| line.strip_prefix("profile capuchin ")?.strip_suffix(" flags=(unconfined) {"));
        // A pattern that anything else matched would be another.
        let other = |path: &str, instead: &str| compiled(&printed.replace(path, instead));
        let path = path.unwrap();
        if name == "any*thing?" {
            assert_eq!(whole, other(path, &path.replace(r"\052", r"\*").replace(r"\077", r"\?")), "{printed}");
            assert_ne!(whole, other(path, &path.replace(r"\052", "*")), "{printed}");
            assert_ne!(whole, other(path, &path.replace(r"\077", "?")), "{printed}");
        }
        if name == "[abc]" || name == "{a,b}" {
            let pattern = [(r"\133", "["), (r"\135", "]"), (r"\173", "{"), (r"\175", "}"), (r"\054", ",")];
            let pattern = pattern.iter().fold(path.to_owned(), |path, (number, sign)| path.replace(number, sign));
            assert_ne!(whole, other(path, &pattern), "{printed}");
        }
    }
}
