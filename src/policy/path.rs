//! Paths at the lender: as they are asked for, and as rules cover them.
//!
//! Compared by whole components, never by text: `/srv/data` says nothing about `/srv/data2`. A path is judged as it is
//! given; whoever follows links judges where they lead.

use std::fmt;

use super::{
    Policy,
    covered::Covers,
    decide::{Facts, Principal},
    kind::Kind,
    refusal::{Reason, Refusal, RuleRef},
    search::{Search, Select, Wanted},
};

/// Longest path, in bytes: PATH_MAX of Linux without its NUL.
pub const PATH_BYTES_MAX: usize = 4095;

/// An absolute path of the lender without `.`, `..`, `//` and NUL; any other bytes, for file names need not be text.
///
/// ```
/// use capuchin::policy::LenderPath;
/// assert_eq!(LenderPath::parse("/srv/data").unwrap().to_string(), "/srv/data");
/// assert!(LenderPath::parse("/srv/../etc/shadow").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LenderPath(Vec<u8>);

/// Why bytes are not a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Relative, or with a part that is no name.
    #[error("{0:?} is not an absolute path: begin with `/`, without `.`, `..`, `//` or a `/` at the end")]
    NotAbsolute(String),
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("a path of {bytes} bytes is too long: the limit is {PATH_BYTES_MAX}")]
    TooLong {
        /// Its length, in bytes.
        bytes: usize,
    },
    /// A `*` where a folder covers everything anyway.
    #[error("{0:?}: a folder covers everything below it, write it without `*`")]
    Star(String),
    /// A `*` that is not the whole last component.
    #[error("{0:?}: a `*` is the whole last component of a path, as in /run/user/1000/*")]
    InnerStar(String),
}

impl LenderPath {
    /// Checks a path.
    ///
    /// # Errors
    /// [`PathError`] if it is relative, too long, or holds a component that is no name.
    pub fn parse(path: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let path = path.as_ref();
        if path.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong { bytes: path.len() });
        }
        let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        let fits = match path.strip_prefix(b"/") {
            Some([]) => true,
            Some(rest) => rest.split(|byte| *byte == b'/').all(plain),
            None => false,
        };
        if fits { Ok(Self(path.to_owned())) } else { Err(PathError::NotAbsolute(shown(path))) }
    }

    /// The path as the system takes it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is `folder` or below it.
    pub fn is_within(&self, folder: &Self) -> bool {
        let mut components = self.components();
        folder.components().all(|part| components.next() == Some(part))
    }

    fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// How many components both begin with.
    fn shared(&self, other: &Self) -> usize {
        self.components().zip(other.components()).take_while(|(left, right)| left == right).count()
    }

    fn parent_is(&self, folder: &Self) -> bool {
        self.is_within(folder) && self.components().count() == folder.components().count() + 1
    }
}

impl fmt::Display for LenderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LenderPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

/// A path of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PathPattern {
    /// It and everything below.
    Tree(LenderPath),
    /// `/*`: what is directly in it.
    Directly(LenderPath),
    /// As a deny names it, and as links lead from there: it holds for both.
    Linked(Box<[Self; 2]>),
}

impl PathPattern {
    /// What `read` and `write` take.
    pub fn parse_tree(text: &str) -> Result<Self, PathError> {
        if text.contains('*') {
            return Err(PathError::Star(text.to_owned()));
        }
        LenderPath::parse(text).map(Self::Tree)
    }

    /// What `unix` and `unix_listen` take.
    pub fn parse_socket(text: &str) -> Result<Self, PathError> {
        let (path, directly) = match text.strip_suffix("/*") {
            Some("") => ("/", true),
            Some(folder) => (folder, true),
            None => (text, false),
        };
        if path.contains('*') {
            return Err(PathError::InnerStar(text.to_owned()));
        }
        LenderPath::parse(path).map(if directly { Self::Directly } else { Self::Tree })
    }

    /// Of a deny: it holds also where its links lead. `real` says where, of a path and of whether it is a folder of `/*`.
    pub fn follow(&mut self, real: impl Fn(&LenderPath, bool) -> LenderPath) {
        let led = match self {
            Self::Tree(path) => Self::Tree(real(path, false)),
            Self::Directly(folder) => Self::Directly(real(folder, true)),
            Self::Linked(_) => return,
        };
        if led != *self {
            *self = Self::Linked(Box::new([self.clone(), led]));
        }
    }

    fn covers(&self, path: &LenderPath) -> bool {
        match self {
            Self::Tree(folder) => path.is_within(folder),
            Self::Directly(folder) => path.parent_is(folder),
            Self::Linked(both) => both.iter().any(|pattern| pattern.covers(path)),
        }
    }

    fn folder(&self) -> &LenderPath {
        match self {
            Self::Tree(folder) | Self::Directly(folder) => folder,
            Self::Linked(both) => {
                let [named, _] = &**both;
                named.folder()
            }
        }
    }
}

impl Covers for PathPattern {
    fn covers_all_of(&self, allow: &Self) -> bool {
        match (self, allow) {
            (Self::Linked(both), _) => both.iter().any(|denied| denied.covers_all_of(allow)),
            (Self::Tree(denied), _) => allow.folder().is_within(denied),
            (Self::Directly(denied), Self::Directly(allowed)) => denied == allowed,
            (Self::Directly(_), _) => false,
        }
    }
}

/// Judges `path` by the patterns of a kind that names paths.
pub(super) fn judge(
    policy: &Policy,
    principal: &Principal,
    facts: &Facts<'_>,
    (kind, select): (Kind, Select<PathPattern>),
    path: &LenderPath,
) -> Result<RuleRef, Refusal> {
    let search = Search { policy, user: &principal.user, kind, select };
    search.judge(&Asked { path, own_folders: facts.own_folders })
}

struct Asked<'a> {
    path: &'a LenderPath,
    own_folders: &'a [LenderPath],
}

impl Asked<'_> {
    fn special_tree(&self) -> Option<&'static str> {
        let first = self.path.components().next()?;
        SPECIAL_TREES.into_iter().find(|tree| tree.as_bytes().get(1..) == Some(first))
    }
}

impl Wanted<PathPattern> for Asked<'_> {
    fn target(&self) -> String {
        self.path.to_string()
    }

    /// A file may be called `*`, but a rule cannot say so; nor can text name one that is not text.
    fn pattern(&self) -> Option<String> {
        let text = String::from_utf8(self.path.0.clone()).ok();
        text.filter(|text| !text.contains('*'))
    }

    fn never(&self) -> Option<Reason> {
        let own = self.own_folders.iter().find(|folder| self.path.is_within(folder))?;
        Some(Reason::OwnFolder { folder: own.clone() })
    }

    fn is_covered_by(&self, pattern: &PathPattern) -> bool {
        pattern.covers(self.path)
    }

    fn guard(&self) -> Option<Reason> {
        self.special_tree().map(|tree| Reason::SpecialTree { tree })
    }

    fn is_opened_by(&self, pattern: &PathPattern) -> bool {
        self.special_tree().is_none_or(|tree| pattern.folder().components().next() == tree.as_bytes().get(1..))
    }

    /// The longer the way that both go.
    fn closeness(&self, pattern: &PathPattern) -> usize {
        self.path.shared(pattern.folder())
    }
}

/// How much of a text that is no path is shown, in bytes.
const SHOWN_MAX: usize = 80;

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path.get(..SHOWN_MAX).unwrap_or(path)).into_owned()
}

/// The insides of running programs, this lender among them, and of the machine: `"/"` does not name them.
const SPECIAL_TREES: [&str; 3] = ["/proc", "/sys", "/dev"];

#[cfg(test)]
mod tests;
