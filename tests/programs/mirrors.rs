//! apt and pip, as clients of mirrors that only the lender reaches.

use std::{path::Path, process::Command};

use crate::{
    stage::{for_each_guest, stage},
    support::{run, text},
};

/// A package with one file.
fn build_deb(folder: &Path) {
    let (tree, mirror) = (folder.join("deb"), folder.join("www/apt"));
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(&mirror).unwrap();
    let control =
        "Package: hello-lab\nVersion: 1.0\nArchitecture: all\nMaintainer: lab <lab@lab.test>\nDescription: hello\n";
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let package = mirror.join("hello-lab_1.0_all.deb");
    run(Command::new("dpkg-deb").args(["-b", "--root-owner-group"]).arg(&tree).arg(&package));
    let sum = text(run(Command::new("sha256sum").arg(&package)).stdout);
    let (size, sum) = (std::fs::metadata(&package).unwrap().len(), sum.split(' ').next().unwrap().to_owned());
    let index = format!("{control}Filename: ./hello-lab_1.0_all.deb\nSize: {size}\nSHA256: {sum}\n");
    std::fs::write(mirror.join("Packages"), index).unwrap();
}

#[test]
fn apt_updates_and_downloads() {
    build_deb(&stage().folder);
    // As root it downloads as a user of its own, `_apt`, who must reach where it does.
    let program = r#"
        cd "$0"
        mkdir -p state/lists/partial cache/archives/partial etc/preferences.d etc/trusted.gpg.d
        echo 'deb [trusted=yes] http://web.lab.test/apt ./' > etc/sources.list
        : > status
        apt="apt-get -qq -o Dir::State=$PWD/state -o Dir::Cache=$PWD/cache -o Dir::Etc=$PWD/etc -o Dir::State::status=$PWD/status \
            -o Acquire::http::Proxy=DIRECT -o Acquire::Retries=0"
        $apt update
        $apt download hello-lab
        dpkg-deb -f hello-lab_1.0_all.deb Package
    "#;
    for_each_guest(|guest| {
        let folder = stage().file(&format!("apt-{}", guest.uid));
        std::fs::create_dir(&folder).unwrap();
        let owner = if guest.uid == 0 { "_apt" } else { &guest.uid.to_string() };
        run(Command::new("chown").arg(owner).arg(&folder));
        let said = run(&mut guest.run(&[], &["sh", "-ec", program, folder.to_str().unwrap()]));
        assert_eq!(text(said.stdout), "hello-lab\n");
        let told = text(said.stderr);
        assert!(!told.contains("unsandboxed"), "it did not become _apt: {told}");
    });
}

/// A wheel is a zip file with a few texts.
const BUILD_WHEEL: &str = r#"
import os, sys, zipfile
folder = os.path.join(sys.argv[1], "simple/hello-lab")
os.makedirs(folder, exist_ok=True)
wheel = "hello_lab-1.0-py3-none-any.whl"
with zipfile.ZipFile(os.path.join(folder, wheel), "w") as file:
    file.writestr("hello_lab.py", "print('hello')\n")
    info = "hello_lab-1.0.dist-info/"
    file.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: hello-lab\nVersion: 1.0\n")
    file.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    file.writestr(info + "RECORD", "")
with open(os.path.join(folder, "index.html"), "w") as index:
    index.write(f'<a href="{wheel}">{wheel}</a>')
"#;

#[test]
fn pip_downloads() {
    run(Command::new("/usr/bin/python3").args(["-c", BUILD_WHEEL]).arg(stage().file("www")));
    let pip = [
        "/usr/bin/python3",
        "-m",
        "pip",
        "-q",
        "--isolated",
        "--disable-pip-version-check",
        "download",
        "--no-cache-dir",
        "--no-deps",
        "--index-url",
        "http://web.lab.test/simple",
        "--trusted-host",
        "web.lab.test",
        "-d",
        ".",
        "hello-lab",
    ];
    for_each_guest(|guest| {
        guest.says(&pip);
        assert!(guest.home.folder.path().join("hello_lab-1.0-py3-none-any.whl").exists());
    });
}
