//! Paths of the lender, where a session is shared: as its `ls` lists them, if the policy lets this user run that.
//!
//! A Tab never dials, nor asks for a password, and each is a line of the lender's audit log, as any program is. A name that a
//! shell would read as more than itself (`$(…)`, a blank, a colour) is not offered: bash types it as it is, and the lender
//! is not to write into the command line of a borrower.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

use clap::FromArgMatches;
use clap_complete::{CompletionCandidate, engine::ValueCompleter};
use tokio::{io::AsyncReadExt, time::timeout};

use super::{super::host::HostArgument, line::Line};
use crate::{Borrower, Stdio};

/// How long a person waits for a Tab.
const LISTING_MAX: Duration = Duration::from_secs(2);
/// Read of a listing, in bytes; nobody looks through more.
const LISTING_BYTES_MAX: u64 = 256 * 1024;

/// A path at the host that stands in the same line.
pub struct RemotePath {
    line: Line,
    /// The argument that is the lender's program, which its PATH finds, and what is said to that. `None`: a folder.
    program: Option<&'static str>,
}

impl RemotePath {
    pub fn folder(line: &Line) -> Self {
        Self { line: line.clone(), program: None }
    }

    pub fn program(line: &Line, argument: &'static str) -> Self {
        Self { line: line.clone(), program: Some(argument) }
    }
}

impl ValueCompleter for RemotePath {
    fn complete(&self, typed: &OsStr) -> Vec<CompletionCandidate> {
        let typed = typed.as_bytes();
        if !typed.contains(&b'/') && self.program.is_some_and(|argument| self.line.is_at_the_first_word(argument)) {
            return Vec::new();
        }
        let (folder, begun) = typed.split_at(typed.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1));
        let Some(line) = self.line.read() else { return Vec::new() };
        let Ok(host) = HostArgument::from_arg_matches(&line).map_err(drop).and_then(|host| host.text().map_err(drop))
        else {
            return Vec::new();
        };
        // A folder to work in is not within itself.
        let working = line.get_one::<PathBuf>("folder").filter(|_| self.program.is_some());
        let mut listing = Vec::new();
        // What cannot be listed completes nothing.
        let _ = super::super::block_on(async {
            let listed = list(&host, OsStr::from_bytes(folder), working);
            listing = timeout(LISTING_MAX, listed).await.ok().flatten().unwrap_or_default();
            Ok(())
        });
        let names = listing.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
        names
            .filter(|name| name.starts_with(begun) && (self.program.is_some() || name.ends_with(b"/")))
            .filter(|name| !name.starts_with(b".") || begun.starts_with(b"."))
            .filter(|name| is_plain(name))
            .map(|name| CompletionCandidate::new(OsString::from_vec([folder, name].concat())))
            .collect()
    }
}

/// A line for each file in `folder`, with `/` behind a folder's name. `None`: no session is shared, or it may not be listed.
async fn list(host: &str, folder: &OsStr, working: Option<&PathBuf>) -> Option<Vec<u8>> {
    let borrower = Borrower::shared_by_others(host).await.ok()??;
    let mut ls = borrower.command("ls");
    ls.args(["-1ALp", "--"]).arg(if folder.is_empty() { OsStr::new(".") } else { folder }).stdout(Stdio::Piped);
    if let Some(working) = working {
        ls.current_dir(working);
    }
    let mut child = ls.spawn().await.ok()?;
    let mut listing = Vec::new();
    child.stdout.take()?.take(LISTING_BYTES_MAX).read_to_end(&mut listing).await.ok()?;
    Some(listing)
}

/// Whether every shell takes the name for itself and nothing more.
fn is_plain(name: &[u8]) -> bool {
    let is_harmless = |character: char| character.is_alphanumeric() || "._-+,:@%=/".contains(character);
    !name.starts_with(b"-") && std::str::from_utf8(name).is_ok_and(|name| name.chars().all(is_harmless))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_shell_would_read_as_more_is_not_plain() {
        for name in ["hostname", "init.d/", "a-b_c+d,e%f=g:h@i", "größe"] {
            assert!(is_plain(name.as_bytes()), "{name}");
        }
        for name in
            ["a b", "$(reboot)", "`reboot`", "a;b", "a\u{1b}[31m", "-rf", "~", "a*", "#a", "a\\", "!!", "'", "\""]
        {
            assert!(!is_plain(name.as_bytes()), "{name}");
        }
        assert!(!is_plain(b"\xff"));
    }
}
