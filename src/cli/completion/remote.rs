//! Paths of the lender, where a session is shared: as its `ls` lists them, if the policy lets this user run that.
//!
//! A Tab never dials, nor asks for a password, and each is a line of the lender's audit log, as any program is. A name that a
//! shell would read as more than itself (`$(…)`, a blank, a colour) is not offered: the lender is not to write into the command
//! line of a borrower, however well the shell quotes.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    time::Duration,
};

use clap::FromArgMatches;
use clap_complete::{CompletionCandidate, engine::ValueCompleter};
use tokio::{io::AsyncReadExt, time::timeout};

use super::{
    super::host::HostArgument,
    is_plain,
    line::{Line, path_in},
};
use crate::{Borrower, Stdio};

/// How long a person waits for a Tab.
const LISTING_MAX: Duration = Duration::from_secs(2);
/// Read of a listing, in bytes: 200,000 names and more. Of one that is cut nothing is offered, since a shell would take the
/// only name that it is given for the only one that there is.
const LISTING_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Names that are offered, for the same reason all or none; a shell is slow with more, and nobody reads them.
const NAMES_MAX: usize = 4096;

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
        let is_folder = self.program.is_none();
        let (front, path) = if is_folder { (OsStr::new(""), typed) } else { path_in(typed) };
        let path = path.as_bytes();
        let is_found_by_path = || self.program.is_some_and(|argument| self.line.is_at_the_first_word(argument));
        // A flag of the program's is no path either.
        if path.starts_with(b"-") || !path.contains(&b'/') && is_found_by_path() {
            return Vec::new();
        }
        let (folder, begun) = path.split_at(path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1));
        let listing = self.list(OsStr::from_bytes(folder)).unwrap_or_default();
        offered(&listing, begun, is_folder)
            .into_iter()
            .map(|name| CompletionCandidate::new(OsString::from_vec([front.as_bytes(), folder, name].concat())))
            .collect()
    }
}

impl RemotePath {
    /// `None`: the line has no host, or what is in `folder` cannot be told.
    fn list(&self, folder: &OsStr) -> Option<Vec<u8>> {
        let line = self.line.read()?;
        let host = HostArgument::from_arg_matches(&line).ok()?.text().ok()?;
        // A folder to work in is not within itself.
        let working = line.get_one::<PathBuf>("folder").filter(|_| self.program.is_some());
        let listed = async { Ok(timeout(LISTING_MAX, list(&host, folder, working)).await.ok().flatten()) };
        super::super::block_on(listed).ok().flatten()
    }
}

/// A line for each file in `folder`, with `/` behind a folder's name. `None`: no session is shared, or it may not be listed,
/// or has too many.
async fn list(host: &str, folder: &OsStr, working: Option<&PathBuf>) -> Option<Vec<u8>> {
    let borrower = Borrower::shared_by_others(host).await.ok()??;
    let mut ls = borrower.command("ls");
    ls.args(["-1ALp", "--"]).arg(if folder.is_empty() { OsStr::new(".") } else { folder }).stdout(Stdio::Piped);
    if let Some(working) = working {
        ls.current_dir(working);
    }
    let mut child = ls.spawn().await.ok()?;
    let mut stdout = child.stdout.take()?.take(LISTING_BYTES_MAX);
    let mut listing = Vec::new();
    stdout.read_to_end(&mut listing).await.ok()?;
    (stdout.limit() > 0).then_some(listing)
}

/// The names that begin so and are safe to type, whatever the lender says: all, or none of too many.
fn offered<'a>(listing: &'a [u8], begun: &[u8], are_folders: bool) -> Vec<&'a [u8]> {
    let names: Vec<_> = listing
        .split(|byte| *byte == b'\n')
        .filter(|name| name.starts_with(begun) && (!are_folders || name.ends_with(b"/")))
        .filter(|name| !name.starts_with(b".") || begun.starts_with(b"."))
        .filter(|name| is_name(name))
        .take(NAMES_MAX + 1)
        .collect();
    if names.len() > NAMES_MAX { Vec::new() } else { names }
}

/// Whether it is the name of one file, which every shell takes for itself and nothing more.
fn is_name(line: &[u8]) -> bool {
    let name = line.strip_suffix(b"/").unwrap_or(line);
    let is_harmless = |character: char| is_plain(character) && character != '/';
    !name.is_empty()
        && !name.starts_with(b"-")
        && std::str::from_utf8(name).is_ok_and(|name| name.chars().all(is_harmless))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_shell_would_read_as_more_is_not_offered() {
        for name in ["hostname", "init.d/", "a-b_c+d,e%f=g:h@i", "größe"] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
        for name in
            ["a b", "$(reboot)", "`reboot`", "a;b", "a\u{1b}[31m", "-rf", "~", "a*", "#a", "a\\", "!!", "'", "\"", ">a"]
        {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
        assert!(!is_name(b"\xff"));
    }

    #[test]
    fn a_lender_offers_only_names_that_were_asked_for() {
        let listing = b"leaf/\nlemon\n.lease\nother\nle/../../etc/passwd\n/etc/passwd\n\n/\n--le\nletter";
        assert_eq!(offered(listing, b"le", false), [&b"leaf/"[..], b"lemon", b"letter"]);
        assert_eq!(offered(listing, b"", false), [&b"leaf/"[..], b"lemon", b"other", b"letter"]);
        assert_eq!(offered(listing, b"le", true), [b"leaf/"]);
        assert_eq!(offered(listing, b".", false), [b".lease"]);
    }

    #[test]
    fn of_too_many_names_none_is_offered() {
        let listing = "le\n".repeat(NAMES_MAX);
        assert_eq!(offered(listing.as_bytes(), b"le", false).len(), NAMES_MAX);
        assert!(offered(format!("{listing}lf\n").as_bytes(), b"l", false).is_empty());
    }
}
