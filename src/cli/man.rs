//! `capuchin man`: the manual pages, from the very definitions that read the command lines.

use std::path::PathBuf;

use clap::CommandFactory;

use super::{
    Borrowing, Lending,
    report::{Failure, print},
};
use crate::proto::ErrorKind;

/// Write the manual pages of all commands into a folder
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin man /usr/local/share/man/man1
  capuchin man . && man -l capuchin-exec.1")]
pub struct Arguments {
    /// Where to; it must exist
    folder: PathBuf,
}

pub fn run(Arguments { folder }: &Arguments) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(ErrorKind::Local, format!("cannot write to {}: {error}", folder.display()))
    };
    for command in [Borrowing::command(), Lending::command()] {
        clap_mangen::generate_to(command, folder).map_err(failed)?;
    }
    print(&format!("The manual pages are in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_and_hidden_ones_have_none() {
        let folder = tempfile::tempdir().unwrap();
        run(&Arguments { folder: folder.path().to_owned() }).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(read("capuchin-exec.1").contains("capuchin exec"));
        assert!(read("capuchind.1").contains("capuchind") && read("capuchind-invite.1").contains("invite"));
        assert!(!folder.path().join("capuchin-demo-machine.1").exists());
        let nowhere = Arguments { folder: folder.path().join("missing") };
        assert_eq!(run(&nowhere).unwrap_err().kind, ErrorKind::Local);
    }
}
