//! `capuchind allow` and `grants`: rules for a while.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    check,
    lender::{ask, done, duration, strange},
    report::{Failure, escape, print, print_json, warn},
};
use crate::{
    lend::{AdminReply, AdminRequest, LenderDir},
    policy::Kind,
    trust::UnixTime,
};

#[derive(Subcommand)]
pub enum Command {
    /// Allow a user something for a while, as a rule of policy.toml would; a deny there still beats it. Prints the grant's number
    Allow(Allow),
    /// List the grants that stand, or end one
    Grants(Grants),
}

#[derive(Args)]
#[command(before_help = "\
Examples:
  capuchind allow ana connect db.internal:5432 --for 1h
  capuchind allow ana exec '/usr/bin/git status' --for 1d")]
pub struct Allow {
    /// Whom
    user: String,
    /// What it is, by its key in policy.toml
    #[arg(value_parser = check::kinds())]
    kind: Kind,
    /// The pattern: host:port, a path, a name, or a command line in one argument; none for shell, python and profile
    target: Option<String>,
    /// How long, such as 90s, 15m, 2h or 1d
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasting: Duration,
}

#[derive(Args)]
#[command(
    before_help = "\
Examples:
  capuchind grants
  capuchind grants remove 3   and what only it allowed",
    args_conflicts_with_subcommands = true
)]
pub struct Grants {
    /// One JSON document: grants, each with grant, user, kind, target, created and expires; times are in seconds since 1970
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Remove>,
}

#[derive(Subcommand)]
enum Remove {
    /// End a grant now, and what only it allowed
    Remove {
        /// Its number
        grant: u64,
    },
}

pub async fn run(dir: &LenderDir, command: Command) -> Result<(), Failure> {
    match command {
        Command::Allow(Allow { user, kind, target, lasting }) => {
            let request = AdminRequest::Allow {
                user,
                kind: kind.to_string(),
                target: target.unwrap_or_default(),
                seconds: lasting.as_secs(),
            };
            match ask(dir, request).await? {
                AdminReply::Granted { grant, .. } => {
                    warn(&format!("grant {grant} stands; to end it before: capuchind grants remove {grant}"));
                    print(&grant.to_string())
                }
                other => Err(strange(&other)),
            }
        }
        Command::Grants(Grants { command: Some(Remove::Remove { grant }), .. }) => {
            done(ask(dir, AdminRequest::GrantRemove { grant }).await?)
        }
        Command::Grants(Grants { json, .. }) => list(ask(dir, AdminRequest::Grants).await?, json),
    }
}

fn list(reply: AdminReply, as_json: bool) -> Result<(), Failure> {
    let AdminReply::Grants { grants } = reply else { return Err(strange(&reply)) };
    if as_json {
        return print_json(&serde_json::json!({ "grants": grants }));
    }
    let now = UnixTime::now();
    for entry in grants {
        let minutes = entry.expires.saturating_sub(now.0).div_ceil(60);
        let what = format!("{} {}", entry.kind, entry.target);
        print(&escape(&format!("{}  {} {}, for {minutes} min more", entry.grant, entry.user, what.trim_end())))?;
    }
    Ok(())
}
