//! `capuchind user`, `passwd` and `invite`: who there is, and how a device comes in.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;

use super::{
    lender::{ask, done, duration, strange},
    prompt::{self, Stdin},
    report::{Failure, escape, print, print_json},
};
use crate::{
    lend::{AdminReply, AdminRequest, LendError, LenderDir, SecretText},
    proto::{ErrorKind, NameError, UserName},
    trust::store::StoreError,
};

#[derive(Subcommand)]
pub enum Command {
    /// Add, list or remove users
    #[command(
        subcommand,
        before_help = "\
Examples:
  capuchind user add ana
  capuchind user list --json | jq -r '.users[].user'
  capuchind user remove ana"
    )]
    User(User),
    /// Set a user's password; the user's tickets end
    #[command(before_help = "\
Examples:
  capuchind passwd ana
  capuchind passwd ana --password-file - < secret")]
    Passwd {
        /// Whose
        user: String,
        /// Read the password from a file (mode 0600), or - for stdin
        #[arg(long, value_name = "FILE|-")]
        password_file: Option<PathBuf>,
    },
    /// Print a line with which one device of a user joins
    #[command(before_help = "\
Examples:
  capuchind invite ana            good once, and for 15 minutes
  capuchind invite ana --ttl 1d")]
    Invite {
        /// For whom
        user: String,
        /// How long it stands, such as 90s, 15m, 2h or 1d
        #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
        ttl: Duration,
    },
}

/// What is done with users.
#[derive(Subcommand)]
pub enum User {
    /// Add a user; `invite` then gives a join line for the first device
    Add {
        /// The name
        user: String,
    },
    /// List users and their devices
    List {
        /// One JSON document: users, each with user, created, password, devices, and barred where the door of this machine is
        /// closed; times are in seconds since 1970
        #[arg(long)]
        json: bool,
    },
    /// Remove a user with all devices, tickets and invitations; live sessions end
    Remove {
        /// The name
        user: String,
    },
}

pub async fn run(dir: &LenderDir, command: Command) -> Result<(), Failure> {
    match command {
        Command::User(User::Add { user }) => done(ask(dir, AdminRequest::UserAdd { user }).await?),
        Command::User(User::Remove { user }) => done(ask(dir, AdminRequest::UserRemove { user }).await?),
        Command::User(User::List { json }) => list(ask(dir, AdminRequest::UserList).await?, json),
        Command::Passwd { user, password_file } => {
            let password = match password_file {
                Some(path) if path.as_os_str() == "-" => Stdin::read()?.into_password()?,
                Some(path) => prompt::password_file(&path)?,
                None => {
                    is_known(dir, &user).await?;
                    prompt::new_password(&format!("New password of {user}: "))?
                }
            };
            let password = SecretText::of(&password)
                .map_err(|_| Failure::new(ErrorKind::Usage, "the password is not UTF-8 text"))?;
            done(ask(dir, AdminRequest::Passwd { user, password }).await?)
        }
        Command::Invite { user, ttl } => {
            match ask(dir, AdminRequest::Invite { user, ttl_seconds: ttl.as_secs() }).await? {
                AdminReply::Invitation { line } => print(&line),
                other => Err(strange(&other)),
            }
        }
    }
}

/// Nobody should think up a password for a slip of the pen.
async fn is_known(dir: &LenderDir, user: &str) -> Result<(), Failure> {
    let reply = ask(dir, AdminRequest::UserList).await?;
    let AdminReply::Users { users } = reply else { return Err(strange(&reply)) };
    if users.iter().any(|entry| entry.user == user && entry.created.is_some()) {
        return Ok(());
    }
    let name: UserName = user.parse().map_err(|error: NameError| Failure::new(ErrorKind::Usage, error.to_string()))?;
    Err(LendError::from(StoreError::NoUser(name)).into())
}

fn list(reply: AdminReply, as_json: bool) -> Result<(), Failure> {
    let AdminReply::Users { users } = reply else { return Err(strange(&reply)) };
    if as_json {
        return print_json(&serde_json::json!({ "users": users }));
    }
    for entry in users {
        let is_added = entry.created.is_some();
        let mut line = entry.user.clone();
        if !entry.devices.is_empty() {
            line.push_str(&format!("  {}", entry.devices.join(" ")));
        }
        if is_added && !entry.password {
            line.push_str("  (no password yet)");
        }
        if entry.barred.is_some() {
            let way = if is_added { "invite" } else { "user add" };
            line.push_str(&format!(
                "  (the door of this machine is closed; to open it: capuchind {way} {})",
                entry.user
            ));
        }
        print(&escape(&line))?;
    }
    Ok(())
}
