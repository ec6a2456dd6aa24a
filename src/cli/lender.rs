//! `capuchind`: make a lender, run it, and hand what else it does to whoever does that.

use std::{
    convert::Infallible,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    Args, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
};

use super::{
    audit,
    check::{self, Verdict},
    descriptors, grants,
    report::{Failure, print, warn},
    sessions, signals, users,
};
use crate::{
    lend::{self, AdminReply, AdminRequest, CheckReply, LendError, Lender, LenderConfig, LenderDir, Setup},
    proto::ErrorKind,
};

/// `capuchind`, or `capuchin lender`.
#[derive(Args)]
pub struct Arguments {
    /// The lender's folder [default: ~/.config/capuchin/lender, for root /etc/capuchin and /var/lib/capuchin] [env:
    /// CAPUCHIND_DIR]
    #[arg(long, global = true, env = "CAPUCHIND_DIR", hide_env = true, value_name = "DIR", value_parser = OsStringValueParser::new().try_map(folder))]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a lender: CA, keys, lender.toml and a policy.toml that allows nothing yet
    #[command(before_help = "\
Examples:
  capuchind init                                              named as this host
  capuchind init --name lab --advertise lab.example.org:2278")]
    Init(Init),
    /// Serve borrowers until SIGINT or SIGTERM
    #[command(before_help = "\
Examples:
  capuchind serve
  capuchind serve --dir /srv/lab

A service manager may pass the sockets (LISTEN_FDS), and is told when it serves. SIGHUP reads policy.toml at once.")]
    Serve,
    /// Make a lender where there is none, serve, and print a join line while no device has joined
    #[command(before_help = "\
Examples:
  capuchind up                                    on a machine of one's own
  capuchind up --advertise lab.example.org:2278   where borrowers find it

It lends to the user who runs it all that he can do here, as policy.toml says; `init` begins with nothing.")]
    Up(Init),
    #[command(flatten)]
    Users(users::Command),
    #[command(flatten)]
    Live(sessions::Command),
    #[command(flatten)]
    Grants(grants::Command),
    /// Say whether the policy would allow something, and why; nothing is done
    #[command(before_help = "\
Examples:
  capuchind check ana connect db.internal:5432
  capuchind check ana exec '/usr/bin/git status' --json

Exit status: 0 allowed, 1 denied, 2 no answer.")]
    Check {
        /// Who would ask
        user: String,
        #[command(flatten)]
        question: check::Question,
    },
    Audit(audit::Arguments),
}

/// A new lender's settings.
#[derive(Args)]
struct Init {
    /// The lender's name, one DNS label [default: the host name]
    #[arg(long)]
    name: Option<crate::proto::LenderName>,
    /// Where to accept connections, or an inherited socket [default: [::]:2278]
    #[arg(long, value_name = "ADDR:PORT|fd:N")]
    listen: Option<lend::Listen>,
    /// Where borrowers find it; up to four times
    #[arg(long, value_name = "HOST:PORT", value_parser = advertised)]
    advertise: Vec<String>,
}

/// Runs one command of `capuchind`.
pub async fn run(Arguments { dir, command }: Arguments) -> Result<(), Failure> {
    let flag = dir.as_deref().map(dir_flag).unwrap_or_default();
    let dir = match dir {
        Some(dir) => LenderDir::single(dir),
        None => LenderDir::of_this_user().ok_or_else(|| {
            Failure::new(ErrorKind::Usage, "there is no home folder to keep the lender in: name one with --dir")
        })?,
    };
    match command {
        Command::Init(init) => {
            let config = lend::init(&dir, init.setup())?;
            warn(&format!("lender {} is made in {}", config.name, dir.config().display()));
            warn(&format!("allow something in {}, then: capuchind serve{flag}", dir.policy_toml().display()));
            Ok(())
        }
        Command::Serve => serve_dir(&dir).await,
        Command::Up(init) => up(&dir, init).await,
        Command::Users(command) => users::run(&dir, command).await,
        Command::Live(command) => sessions::run(&dir, command).await,
        Command::Grants(command) => grants::run(&dir, command).await,
        Command::Check { user, question } => ask_gate(&dir, user, question).await,
        Command::Audit(arguments) => audit::run(&dir.audit(), arguments).await,
    }
}

/// How the next command finds the folder, which it does by itself where the environment names it.
fn dir_flag(dir: &Path) -> String {
    match std::env::var_os("CAPUCHIND_DIR") {
        Some(named) if named == dir => String::new(),
        _ => format!(" --dir {}", dir.display()),
    }
}

impl Init {
    fn setup(self) -> Setup {
        Setup { name: self.name, listen: self.listen, advertise: self.advertise, owner: None }
    }
}

async fn up(dir: &LenderDir, init: Init) -> Result<(), Failure> {
    let (owner, mapped_from) = lend::owner_name();
    let setup = Setup { owner: Some(owner.clone()), ..init.setup() };
    match lend::init(dir, setup.clone()) {
        Ok(config) => {
            let policy = dir.policy_toml();
            warn(&format!("lender {} is made in {}", config.name, dir.config().display()));
            warn(&format!("{owner} may do over it what the user who runs it can do here: {}", policy.display()));
            if let Some(from) = mapped_from {
                warn(&format!("the user name {from:?} is not one of capuchin's; it is {owner} here"));
            }
        }
        Err(LendError::Exists(_)) => is_as_asked(dir, setup)?,
        Err(error) => return Err(error.into()),
    }
    descriptors::raise_limit();
    let lender = lend::open_to_serve(dir).await?;
    let listeners = lender.listen().await?;
    if !lender.has_devices()? {
        let user = owner.to_string();
        let users = match lender.execute(AdminRequest::UserList).await? {
            AdminReply::Users { users } => users,
            other => return Err(strange(&other)),
        };
        if !users.iter().any(|entry| entry.user == user && entry.created.is_some()) {
            lender.execute(AdminRequest::UserAdd { user: user.clone() }).await?;
        }
        warn("no device has joined yet; within 15 minutes, on yours: capuchin join LINE");
        match lender.execute(AdminRequest::Invite { user, ttl_seconds: 15 * 60 }).await? {
            AdminReply::Invitation { line } => print(&line)?,
            other => return Err(strange(&other)),
        }
    }
    serve(&lender, listeners).await
}

/// What a lender was made with is kept in lender.toml: served otherwise than asked for, it would be looked for in vain.
fn is_as_asked(dir: &LenderDir, asked: Setup) -> Result<(), Failure> {
    let kept = LenderConfig::load(dir)?;
    let asked = [
        ("name", asked.name.map(|name| name.to_string()), kept.name.to_string()),
        ("listen", asked.listen.map(|listen| listen.to_string()), kept.listen.to_string()),
        ("advertise", Some(asked.advertise.join(" ")).filter(|all| !all.is_empty()), kept.advertise.join(" ")),
    ];
    for (setting, asked, kept) in asked {
        if let Some(asked) = asked.filter(|asked| *asked != kept) {
            let text = format!("there is a lender already, and its {setting} is {kept:?} and not {asked:?}");
            let note = format!("what it was made with stands in {}", dir.lender_toml().display());
            return Err(Failure { notes: vec![note], ..Failure::new(ErrorKind::Usage, text) });
        }
    }
    Ok(())
}

/// `capuchind serve --dir DIR`, for the demo.
pub async fn serve_in(dir: PathBuf) -> Result<(), Failure> {
    serve_dir(&LenderDir::single(dir)).await
}

async fn serve_dir(dir: &LenderDir) -> Result<(), Failure> {
    descriptors::raise_limit();
    let lender = lend::open_to_serve(dir).await?;
    let listeners = lender.listen().await?;
    serve(&lender, listeners).await
}

async fn serve(lender: &Lender, listeners: lend::Listeners) -> Result<(), Failure> {
    let mut stop = signals::Stop::of_daemon()?;
    for address in lender.addresses() {
        warn(&format!("{} listens on {address}", lender.config().name));
    }
    if let Some(door) = lender.door() {
        warn(&format!("users of this machine need no join: HOST . is {}", door.display()));
    }
    let hangups = signals::hangups()?;
    let serving = lender.serve(listeners, async { _ = stop.next().await });
    tokio::select! {
        served = serving => Ok(served?),
        never = reload_at_each(lender, hangups) => match never {},
    }
}

/// SIGHUP reads the policy again. What is wrong with it is in the log, and the policy of before stays.
async fn reload_at_each(lender: &Lender, mut hangups: tokio::signal::unix::Signal) -> Infallible {
    loop {
        hangups.recv().await;
        let _ = lender.reload_policy().await;
    }
}

/// As [`lend::ask`]; a daemon that is late is told of.
pub(super) async fn ask(dir: &LenderDir, request: AdminRequest) -> Result<AdminReply, LendError> {
    lend::ask(dir, request, |late| warn(&late.to_string())).await
}

pub(super) fn done(reply: AdminReply) -> Result<(), Failure> {
    match reply {
        AdminReply::Done => Ok(()),
        other => Err(strange(&other)),
    }
}

pub(super) fn strange(reply: &AdminReply) -> Failure {
    Failure::from(LendError::AdminAnswer(format!("{reply:?}")))
}

async fn ask_gate(dir: &LenderDir, user: String, question: check::Question) -> Result<(), Failure> {
    let (kind, target) = question.words();
    let request = AdminRequest::Check { user: user.clone(), kind, target };
    let asked = ask(dir, request).await;
    let reply = asked.map_err(|error| question.unanswered(("user", &user), Failure::from(error)))?;
    let AdminReply::Check(CheckReply { allowed, rule, reason, notes, warnings, .. }) = reply else {
        return Err(question.unanswered(("user", &user), strange(&reply)));
    };
    let verdict = match allowed {
        true => Verdict::Allowed { rule: rule.unwrap_or_default(), warnings },
        false => Verdict::Denied { reason: reason.unwrap_or_default(), notes, warnings },
    };
    check::show(("user", &user), &question, verdict)
}

impl From<LendError> for Failure {
    fn from(error: LendError) -> Self {
        Self::new(error.kind(), error.line())
    }
}

fn folder(path: OsString) -> Result<PathBuf, &'static str> {
    let is_empty = path.is_empty();
    (!is_empty).then(|| path.into()).ok_or("it is empty; name a folder, or unset CAPUCHIND_DIR to have the default")
}

fn advertised(text: &str) -> Result<String, String> {
    lend::check_advertised(text).map(|()| text.to_owned())
}

/// A number and one of s, m, h, d.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 90s, 15m, 2h or 1d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| (1..=30 * 86400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is outside 1s to 30d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_a_bound() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86400)));
        for bad in ["", "15", "m", "-1m", "1w", "0s", "31d", "99999999999999999999d", "é"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
