//! Names that a `*` may end: environment variables and services.

use super::{
    Policy,
    covered::Covers,
    decide::Principal,
    kind::Kind,
    refusal::{Reason, Refusal, RuleRef},
    search::{Search, Select, Wanted},
};

/// Longest name of a variable or a service, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WordError {
    /// No shell could set it.
    #[error("{0:?} is not a variable: use letters, digits and _, not a digit first, and `*` only at the end of a rule")]
    Variable(String),
    /// Not fit for a path, a log line or a terminal.
    #[error("{0:?} is not a service: use letters, digits, _ . and -, and `*` only at the end of a rule")]
    Service(String),
}

/// A name in a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WordPattern {
    Exactly(String),
    /// Kept without its `*`; empty is every name.
    Beginning(String),
}

impl WordPattern {
    pub fn parse_variable(text: &str) -> Result<Self, WordError> {
        Self::parse(text, is_variable).ok_or_else(|| WordError::Variable(shown(text)))
    }

    pub fn parse_service(text: &str) -> Result<Self, WordError> {
        Self::parse(text, is_service).ok_or_else(|| WordError::Service(shown(text)))
    }

    fn parse(text: &str, fits: fn(&str) -> bool) -> Option<Self> {
        match text.strip_suffix('*') {
            Some("") => Some(Self::Beginning(String::new())),
            Some(start) => fits(start).then(|| Self::Beginning(start.to_owned())),
            None => fits(text).then(|| Self::Exactly(text.to_owned())),
        }
    }

    fn start(&self) -> &str {
        let (Self::Exactly(start) | Self::Beginning(start)) = self;
        start
    }
}

impl Covers for WordPattern {
    fn covers_all_of(&self, allow: &Self) -> bool {
        match self {
            Self::Exactly(_) => self == allow,
            Self::Beginning(start) => allow.start().starts_with(start.as_str()),
        }
    }
}

/// A name of a variable, as a borrower asks for it.
pub(super) fn variable(text: &str) -> Result<String, WordError> {
    if is_variable(text) { Ok(text.to_owned()) } else { Err(WordError::Variable(shown(text))) }
}

/// A name of a service, as a borrower asks for it.
pub(super) fn service(text: &str) -> Result<String, WordError> {
    if is_service(text) { Ok(text.to_owned()) } else { Err(WordError::Service(shown(text))) }
}

/// What is no name, for its error: of what is longer than any name, and may have megabytes, the beginning.
fn shown(text: &str) -> String {
    match text.char_indices().nth(NAME_BYTES_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Judges `word` by the patterns of a kind that is about names.
pub(super) fn judge(
    policy: &Policy,
    principal: &Principal,
    (kind, select): (Kind, Select<WordPattern>),
    word: &str,
) -> Result<RuleRef, Refusal> {
    Search { policy, user: &principal.user, kind, select }
        .judge(&Asked { word, steers: kind == Kind::EnvSend && steers(word) })
}

struct Asked<'a> {
    word: &'a str,
    /// A variable that decides what a program does, and not only how it says it.
    steers: bool,
}

impl Wanted<WordPattern> for Asked<'_> {
    fn target(&self) -> String {
        self.word.to_owned()
    }

    fn is_covered_by(&self, pattern: &WordPattern) -> bool {
        match pattern {
            WordPattern::Exactly(word) => word == self.word,
            WordPattern::Beginning(start) => self.word.starts_with(start.as_str()),
        }
    }

    fn guard(&self) -> Option<Reason> {
        self.steers.then_some(Reason::SteeringVariable)
    }

    fn is_opened_by(&self, pattern: &WordPattern) -> bool {
        matches!(pattern, WordPattern::Exactly(_))
    }

    /// The more letters both begin with.
    fn closeness(&self, pattern: &WordPattern) -> usize {
        self.word.bytes().zip(pattern.start().bytes()).take_while(|(left, right)| left == right).count()
    }
}

/// Whether a variable makes loaders, shells, interpreters or common tools run or read what it says; such a one is sent
/// where a rule spells it out, and not by a `*`.
fn steers(variable: &str) -> bool {
    let any = |words: &str, fits: fn(&str, &str) -> bool| words.split(' ').any(|word| fits(variable, word));
    any(NAMES, |variable, name| variable == name)
        || any(STARTS, |variable, start| variable.starts_with(start))
        || any(ENDS, |variable, end| variable.ends_with(end))
}

const NAMES: &str = "\
    BASHOPTS BASH_ENV BROWSER BZIP BZIP2 CC CURL_HOME CXX ENV EXINIT GCC_EXEC_PREFIX GETCONF_DIR GLOBIGNORE GNUPGHOME \
    GOROOT GZIP HISTFILE HOME HOSTALIASES IFS INPUTRC JAVA_HOME KUBECONFIG LOCALDOMAIN LOGNAME MAILCAPS MAKEFILES \
    MYSQL_HOME MYVIMRC NETRC PGSERVICEFILE PGSYSCONFDIR PHPRC PHP_INI_SCAN_DIR PS0 PS1 PS2 PS4 PSQLRC R_ENVIRON \
    R_ENVIRON_USER R_PROFILE R_PROFILE_USER SHELL SHELLOPTS SSLKEYLOGFILE TAPE TERMCAP TMPDIR UNZIP USER VIM VIMINIT \
    VIMRUNTIME WGETRC XZ_DEFAULTS ZDOTDIR ZIP ZIPINFO shell_escape";
const STARTS: &str = "\
    AWS_ BASH_FUNC_ BUNDLE_ CARGO_ CORECLR_ COR_ CVS_ DBUS_ DOCKER_ DOTNET_ DYLD_ ERL_ GEM_ GIO_ GIT_ GLIBC_ GRADLE_ \
    GS_ GST_ GTK_ HG KRB5 LD_ LESS LUA_ MALLOC_ MAVEN_ NODE_ NPM_CONFIG_ OPENSSL_ PERL PIP_ PYTHON QT_ RCLONE_ RESOLV_ \
    RSYNC_ RUBY RUSTC R_LIBS SSH_ SYSTEMD_ TERMINFO TEXMF VK_ XDG_ npm_config_";
/// What programs call their own of a kind: where they look, what they start, what else stands on their command line.
const ENDS: &str = "\
    ARGS ASKPASS COMMAND EDIT EDITOR FLAGS OPT OPTIONS OPTS PAGER PATH VISUAL _PRELOAD _RSH _SSH _WRAPPER";

fn is_variable(text: &str) -> bool {
    let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    is_name(text, fits) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn is_service(text: &str) -> bool {
    is_name(text, |c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

fn is_name(text: &str, fits: impl Fn(u8) -> bool) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_ends_a_name_and_stands_nowhere_else() {
        for good in ["LANG", "LC_*", "*", "_x1"] {
            assert!(WordPattern::parse_variable(good).is_ok() && WordPattern::parse_service(good).is_ok(), "{good}");
        }
        for bad in ["", "L*G", "**", "*X", "A=B", "A B", "A\0"] {
            assert!(WordPattern::parse_variable(bad).is_err() && WordPattern::parse_service(bad).is_err(), "{bad:?}");
        }
        assert!(WordPattern::parse_variable("1X").is_err() && WordPattern::parse_variable("a-b").is_err());
        assert!(WordPattern::parse_service("pay-roll.v1").is_ok());
    }

    #[test]
    fn of_what_is_longer_than_any_name_an_error_shows_the_beginning() {
        let long = "é".repeat(1 << 20);
        for error in [variable(&long).unwrap_err(), service(&long).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("éé…") && text.len() < 1024, "{} bytes", text.len());
        }
    }

    /// Attack 53.
    #[test]
    fn what_steers_programs_is_spelled_out_or_refused() {
        let judged = |rule: &str, name: &str| {
            let policy = format!("[[allow]]\nwho = \"ana\"\nenv.send = {rule}");
            let policy = Policy::parse(&policy, "policy.toml").unwrap();
            let ana = Principal { user: "ana".parse().unwrap(), device: crate::proto::DeviceId::from_digest(&[0; 32]) };
            judge(&policy, &ana, (Kind::EnvSend, |patterns| &patterns.env_send), name).is_ok()
        };
        for name in [
            "LD_PRELOAD",
            "PATH",
            "BASH_ENV",
            "IFS",
            "BASH_FUNC_ls",
            "PYTHONPATH",
            "GIT_SSH_COMMAND",
            "TAR_OPTIONS",
            "MAKEFLAGS",
            "_JAVA_OPTIONS",
            "RIPGREP_CONFIG_PATH",
            "LUA_INIT",
            "SYSTEMD_PAGER",
            "ZIPOPT",
            "XZ_OPT",
            "MANROFFOPT",
            "MAVEN_ARGS",
            "FZF_DEFAULT_COMMAND",
            "RESTIC_PASSWORD_COMMAND",
            "FCEDIT",
            "SVN_SSH",
            "GETCONF_DIR",
            "DBUS_SESSION_BUS_ADDRESS",
            "GRADLE_USER_HOME",
            "PS1",
        ] {
            assert!(
                !judged("[\"*\", \"LANG\"]", name) && !judged("[\"LD_*\", \"P*\", \"BASH*\", \"I*\"]", name),
                "{name}"
            );
            assert!(judged(&format!("[{name:?}]"), name), "{name}");
        }
        for harmless in ["TERM", "TZ", "COLORTERM", "NO_COLOR", "DATA_DIR", "GREETING"] {
            assert!(judged("\"*\"", harmless), "{harmless}");
        }
        assert!(judged("\"*\"", "LANG") && judged("\"LC_*\"", "LC_ALL") && !judged("\"LANG\"", "LANGUAGE"));
    }

    #[test]
    fn who_asks_names_one_and_no_pattern() {
        assert!(variable("LANG").is_ok() && service("calc").is_ok());
        for bad in ["LC_*", "*", "", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(variable(bad).is_err() && service(bad).is_err(), "{bad}");
        }
    }
}
