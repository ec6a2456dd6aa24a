//! The host that a command is about, as ssh takes it: `HOST`, `USER@HOST`, `-l USER`, `-p PORT`.

use super::{
    connect, prompt,
    report::{Failure, warn},
};
use crate::{
    BorrowError, Borrower, Host, Profiles,
    borrow::{
        Beginning,
        run::{self, HOST_VARIABLE},
    },
    proto::{ErrorKind, LenderName, UserName},
    trust::password::Password,
};

/// Questions for a password until the command fails, as ssh's NumberOfPasswordPrompts; the lender locks after five.
const PASSWORD_PROMPTS: u32 = 3;

/// Changes HOST where it stands, for `mut_args`: `mut_arg` would move it behind the arguments that follow.
pub fn host_in_place(change: impl Fn(clap::Arg) -> clap::Arg) -> impl Fn(clap::Arg) -> clap::Arg {
    move |argument| if argument.get_id() == "host" { change(argument) } else { argument }
}

/// Whom to borrow from.
#[derive(clap::Args)]
pub struct HostArgument {
    /// The host, as `capuchin hosts` lists it, or USER@HOST; . is the lender of this machine itself
    host: String,
    /// As this user, like USER@HOST [env: CAPUCHIN_USER]
    #[arg(short = 'l', long = "user", value_name = "USER")]
    user: Option<String>,
    /// The port of the lender, at each of its addresses [env: CAPUCHIN_PORT]
    #[arg(short = 'p', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

/// What becomes of the signals that end a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// They end it.
    Open,
    /// `run` keeps them, to pass them on to its program.
    Kept,
}

impl Signals {
    /// Does something that they are to end as well, as a question to a person.
    fn let_through<T>(self, it: impl FnOnce() -> T) -> Result<T, Failure> {
        match self {
            Self::Open => Ok(it()),
            Self::Kept => Ok(run::at_a_prompt(it)?),
        }
    }
}

impl HostArgument {
    /// The host in one text: `USER@HOST:PORT`, with what was given.
    ///
    /// # Errors
    /// Two users, a port for the lender of this machine, or that lender where another's network is borrowed.
    pub fn text(&self) -> Result<String, Failure> {
        let usage = |why: String| Failure::new(ErrorKind::Usage, why);
        if let Some(outer) = std::env::var_os(HOST_VARIABLE).filter(|_| self.host.ends_with('.')) {
            // Its door leads to the network that this program was taken from.
            let outer = outer.to_string_lossy();
            return Err(usage(format!("the lender of this machine cannot be reached inside `capuchin run {outer}`")));
        }
        let mut text = match (&self.user, self.host.split_once('@')) {
            (Some(user), Some((other, _))) if user != other => {
                return Err(usage(format!("both {other} and {user} are named as the user: leave one out")));
            }
            (Some(user), None) => format!("{user}@{}", self.host),
            _ => self.host.clone(),
        };
        if let Some(port) = self.port {
            if text.ends_with('.') {
                return Err(usage("the lender of this machine has a door and no port: leave -p out".to_owned()));
            }
            text = format!("{text}:{port}");
        }
        Ok(text)
    }

    /// As [`Self::connect`], over the session that `capuchin connect` keeps, if there is one. Where config.toml says
    /// `share = true`, one is begun.
    pub async fn connect_or_share(&self) -> Result<Borrower, Failure> {
        self.connect_or_share_by(Signals::Open).await
    }

    /// As [`Self::connect_or_share`], for a command that may keep signals to itself.
    pub async fn connect_or_share_by(&self, signals: Signals) -> Result<Borrower, Failure> {
        let host = self.text()?;
        if let Some(borrower) = Borrower::shared_by_others(&host).await? {
            return Ok(borrower);
        }
        let shares = is_to_share(&host)?;
        let beginning = shares.then(|| Beginning::announce(&host)).flatten();
        let own = match self.connect_by(signals).await {
            Ok(own) => own,
            Err(failure) => {
                drop(beginning);
                return shared_behind(failure, &host).await;
            }
        };
        if !shares {
            return Ok(own);
        }
        // As `capuchin connect` does: a person has been asked, and there is a ticket. The policy may allow one session alone.
        let _ = own.close().await;
        // It has our mask of signals, and is to hear them.
        let started = signals.let_through(|| connect::start(&host))?;
        drop(beginning);
        let ended = || Failure::new(ErrorKind::Local, "it has ended".to_owned());
        // Another command may have been faster.
        let why = match shared_behind(started.err().unwrap_or_else(ended), &host).await {
            Ok(borrower) => return Ok(borrower),
            Err(failure) => failure.text,
        };
        warn(&format!("capuchin: no session is shared with {host}: {why}"));
        match self.connect_by(signals).await {
            Ok(own) => Ok(own),
            Err(failure) => shared_behind(failure, &host).await,
        }
    }

    async fn connect_by(&self, signals: Signals) -> Result<Borrower, Failure> {
        self.connect_asking(|question| signals.let_through(|| prompt::password(question))?).await
    }

    /// Connects. Who is not logged in and sits at a terminal is asked for the password in place.
    pub async fn connect(&self) -> Result<Borrower, Failure> {
        self.connect_asking(prompt::password).await
    }

    async fn connect_asking(&self, ask: impl FnMut(&str) -> Result<Password, Failure>) -> Result<Borrower, Failure> {
        let host = self.text()?;
        let failure: Failure = match Borrower::connect(&host).await {
            Ok(borrower) => return Ok(borrower),
            Err(error) => error.into(),
        };
        if failure.kind != ErrorKind::Login || !prompt::has_terminal() {
            return Err(failure);
        }
        let Ok(parsed) = host.parse::<Host>() else { return Err(failure) };
        let (profile, user) = Profiles::from_env()?.find(&parsed)?;
        warn(&format!("capuchin: {}", failure.text));
        log_in(&host, (&user, &profile.lender), ask).await
    }
}

/// Logs in with the password that is answered, and asked for again where the lender does not take it.
pub async fn log_in(
    host: &str,
    (user, lender): (&UserName, &LenderName),
    mut ask: impl FnMut(&str) -> Result<Password, Failure>,
) -> Result<Borrower, Failure> {
    let question = password_question(user, lender);
    let mut left = PASSWORD_PROMPTS;
    loop {
        left -= 1;
        match Borrower::login(host, &ask(&question)?).await {
            Err(error @ BorrowError::Login { .. }) if left > 0 => warn(&format!("capuchin: {error}")),
            outcome => return Ok(outcome?),
        }
    }
}

/// As a password is asked for that is known to the lender.
pub fn password_question(user: &UserName, lender: &LenderName) -> String {
    format!("Password of {user} at {lender}: ")
}

/// The session that another command has begun to share, which may be all that the policy allows; without one, our own failure.
async fn shared_behind(failure: Failure, host: &str) -> Result<Borrower, Failure> {
    let look = async || Borrower::shared_by_others(host).await.ok().flatten();
    connect::found_behind(&failure, host, look).await.ok_or(failure)
}

/// Whether config.toml says that commands share a session with this host.
fn is_to_share(host: &str) -> Result<bool, Failure> {
    // The lender of this machine is at hand, and has no settings.
    let Ok(parsed) = host.parse::<Host>() else { return Ok(false) };
    Ok(Profiles::from_env()?.settings(&parsed.alias)?.share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(host: &str, user: Option<&str>, port: Option<u16>) -> Result<String, Failure> {
        HostArgument { host: host.to_owned(), user: user.map(str::to_owned), port }.text()
    }

    #[test]
    fn a_host_reads_as_ssh_reads_it() {
        for (host, user, port, whole) in [
            ("lab", None, None, "lab"),
            ("lab", Some("ana"), None, "ana@lab"),
            ("ana@lab", Some("ana"), Some(1), "ana@lab:1"),
            ("ana@lab", None, None, "ana@lab"),
            (".", Some("ana"), None, "ana@."),
        ] {
            assert_eq!(text(host, user, port).unwrap(), whole);
        }
        for (host, user, port) in [("ana@lab", Some("bob"), None), (".", None, Some(1))] {
            assert_eq!(text(host, user, port).unwrap_err().kind, ErrorKind::Usage);
        }
    }
}
