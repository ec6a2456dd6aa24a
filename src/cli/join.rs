//! `capuchin join` and `capuchin login`.

use std::path::PathBuf;

use super::{
    host::{HostArgument, log_in, password_question},
    prompt::{self, Stdin},
    report::{Failure, print},
    signals,
};
use crate::{Alias, BorrowError, Borrower, Join, Profiles, proto::ErrorKind, trust::password::Password};

/// Join a lender with the one line that it printed, and log in
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin join                              asks for the line and the password
  capuchin join cap1_… --as attic            calls the lender attic here
  capuchin join - --password-file - < both   both from stdin, the line first")]
pub struct Arguments {
    /// The line, or - to read it from stdin; asked for if left out
    line: Option<String>,
    /// What to call the lender here; its own name otherwise
    #[arg(long = "as", value_name = "ALIAS")]
    alias: Option<String>,
    /// Read the password from a file (mode 0600), or - for stdin, behind the line if that comes from there too
    #[arg(long, value_name = "FILE|-")]
    password_file: Option<PathBuf>,
}

/// Log in with the password, and keep the ticket for the commands that follow
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin login lab   renews a certificate that has ended, too
  capuchin login ana@lab --password-file - < secret")]
pub struct LoginArguments {
    #[command(flatten)]
    host: HostArgument,
    /// Read the password from a file (mode 0600), or - for stdin
    #[arg(long, value_name = "FILE|-")]
    password_file: Option<PathBuf>,
}

pub async fn join(arguments: Arguments) -> Result<(), Failure> {
    let alias = arguments.alias.map(|alias| alias.parse::<Alias>()).transpose()?;
    let mut stdin = None;
    let line = match arguments.line.as_deref() {
        Some("-") => stdin.insert(Stdin::read()?).take_line()?,
        Some(line) => line.to_owned().into(),
        None => prompt::join_line()?,
    };
    let join = Join::begin(&Profiles::from_env()?, &line, alias).await?;
    let (user, lender) = (join.user(), join.lender());
    let password = match (arguments.password_file, stdin) {
        _ if !join.needs_password() => None,
        (Some(path), Some(stdin)) if path.as_os_str() == "-" => Some(stdin.into_password()?),
        (Some(path), _) => Some(from_file(path)?),
        (None, _) if join.sets_password() => {
            Some(prompt::new_password(&format!("New password of {user} at {lender}: "))?)
        }
        (None, _) => Some(prompt::password(&password_question(user, lender))?),
    };
    // Not before: at a prompt a signal ends the program by itself.
    let borrower = signals::interruptible(async {
        Ok(match &password {
            Some(password) => join.finish(password).await?,
            None => join.finish_without_password().await?,
        })
    });
    borrower.await?.leave().await;
    print(&format!("Joined {lender} as {user}; it is called {} here, and you are logged in.", join.alias()))
}

pub async fn login(arguments: LoginArguments) -> Result<(), Failure> {
    let LoginArguments { host, password_file } = arguments;
    let host = host.text()?;
    // Before the question: an unknown host needs no password.
    let (profile, user) = Profiles::from_env()?.find(&host.parse()?)?;
    let borrower = match password_file {
        Some(path) => Borrower::login(&host, &from_file(path)?).await?,
        // Whom the lender asks for no password is not asked here either.
        None => match Borrower::login_by_certificate(&host).await {
            Err(error) if needs_password(&error) => log_in(&host, (&user, &profile.lender), prompt::password).await?,
            outcome => outcome?,
        },
    };
    borrower.leave().await;
    print(&format!("Logged in at {} as {}.", borrower.lender(), borrower.user()))
}

/// A lender that wants one says so; one that does not know another way ends the connection.
fn needs_password(error: &BorrowError) -> bool {
    matches!(error, BorrowError::Login { .. } | BorrowError::Ended { kind: ErrorKind::Protocol, .. })
}

fn from_file(path: PathBuf) -> Result<Password, Failure> {
    if path.as_os_str() == "-" { Stdin::read()?.into_password() } else { prompt::password_file(&path) }
}
