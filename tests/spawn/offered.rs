//! What the command offers a shell and a reader: completions, manual pages.

use crate::{
    lab,
    support::{run, text},
};

#[test]
fn shells_complete_commands_and_hosts() {
    let (_lab, home) = lab();
    let complete = |words: &[&str]| {
        let mut command = home.capuchin();
        command
            .env("COMPLETE", "bash")
            .env("_CLAP_IFS", "\n")
            .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
        command.env("_CLAP_COMPLETE_COMP_TYPE", "9").env("_CLAP_COMPLETE_SPACE", "true");
        text(run(command.arg("--").args(words)).stdout)
    };
    assert!(complete(&["capuchin", "ex"]).lines().any(|word| word == "exec"));
    for command in ["exec", "shell", "connect", "forward"] {
        assert!(complete(&["capuchin", command, ""]).lines().any(|word| word == "lab"), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let mut script = home.capuchin();
        assert!(text(run(script.env("COMPLETE", shell)).stdout).contains("capuchin"), "{shell}");
    }
}

#[test]
fn manual_pages_are_written() {
    let (_lab, home) = lab();
    run(home.capuchin().arg("man").arg(home.folder.path()));
    let page = std::fs::read_to_string(home.folder.path().join("capuchin-exec.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("no shell reads its arguments"), "{page}");
    assert!(home.folder.path().join("capuchind.1").exists());
}
