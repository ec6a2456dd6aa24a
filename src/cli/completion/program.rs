//! A program of this machine and its arguments, as a shell completes them behind nohup(1).

use std::{collections::BTreeSet, env, ffi::OsStr, fs, os::unix::fs::PermissionsExt, path::Path};

use clap_complete::{CompletionCandidate, PathCompleter, engine::ValueCompleter};

use super::line::{Line, path_in};

/// Names that PATH finds first, then files.
pub struct Program {
    pub line: Line,
    /// The argument that it is.
    pub argument: &'static str,
}

impl ValueCompleter for Program {
    fn complete(&self, typed: &OsStr) -> Vec<CompletionCandidate> {
        match typed.to_str().filter(|typed| !typed.contains('/') && self.line.is_at_the_first_word(self.argument)) {
            Some(name) => found_by_path(name).map(CompletionCandidate::new).collect(),
            None => {
                let (front, path) = path_in(typed);
                PathCompleter::any().complete(path).into_iter().map(|path| path.add_prefix(front)).collect()
            }
        }
    }
}

/// The names of programs that begin so, each once.
fn found_by_path(begun: &str) -> impl Iterator<Item = String> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let entries = env::split_paths(&folders).filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| name.starts_with(begun))?;
        is_executable(&entry.path()).then_some(name)
    });
    names.collect::<BTreeSet<_>>().into_iter()
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}
