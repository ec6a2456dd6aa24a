//! `capuchind sessions`, `cut`, `revoke` and `logout`: who borrows now, and how it is ended.

use clap::{ArgGroup, Args, Subcommand};

use super::{
    lender::{ask, done, strange},
    report::{Failure, escape, print, print_json, warn},
};
use crate::{
    lend::{AdminReply, AdminRequest, LenderDir, Revoked, SessionEntry},
    trust::UnixTime,
};

#[derive(Subcommand)]
pub enum Command {
    /// List the live sessions and what they hold
    #[command(before_help = "\
Examples:
  capuchind sessions
  capuchind sessions --json | jq -r '.sessions[].user'")]
    Sessions {
        /// One JSON document: sessions, each with session, user, device, peer, since and streams (stream, kind, target,
        /// since, bytes_in from the borrower, bytes_out to it); times are in seconds since 1970
        #[arg(long)]
        json: bool,
    },
    /// End a live session, or one stream of it; the borrower may come back
    #[command(before_help = "\
Examples:
  capuchind cut 3f9a     a session
  capuchind cut 3f9a/5   one stream of it")]
    Cut {
        /// A session's id or its first digits, and maybe a stream's number
        #[arg(value_name = "SESSION[/STREAM]")]
        what: String,
    },
    /// Take a user's devices, one device or a session away for good, and end what is live of it
    Revoke(Revoke),
    /// End a user's tickets: the next login needs the password
    #[command(before_help = "\
Examples:
  capuchind logout ana")]
    Logout {
        /// Whose
        user: String,
    },
}

#[derive(Args)]
#[command(before_help = "\
Examples:
  capuchind revoke --user ana
  capuchind revoke --device 4c1d5a0b9e27f386   as `user list` shows it
  capuchind revoke --session 3f9a")]
#[command(group(ArgGroup::new("whom").required(true)))]
pub struct Revoke {
    /// Every device, ticket and invitation of this user, and the door of this machine; `invite` lets both in again
    #[arg(long, group = "whom", value_name = "USER")]
    user: Option<String>,
    /// One device, by the 16 digits that `user list` or `sessions` shows
    #[arg(long, group = "whom", value_name = "DEVICE")]
    device: Option<String>,
    /// One session, and the tickets of its user; the door, if it came that way
    #[arg(long, group = "whom", value_name = "SESSION")]
    session: Option<String>,
}

pub async fn run(dir: &LenderDir, command: Command) -> Result<(), Failure> {
    match command {
        Command::Sessions { json } => list(ask(dir, AdminRequest::Sessions).await?, json),
        Command::Cut { what } => ended(ask(dir, AdminRequest::Cut { what }).await?),
        Command::Revoke(revoke) => match revoke.whom() {
            Some(whom) => ended(ask(dir, AdminRequest::Revoke { whom }).await?),
            // clap asks for one.
            None => Ok(()),
        },
        Command::Logout { user } => done(ask(dir, AdminRequest::Logout { user }).await?),
    }
}

impl Revoke {
    fn whom(self) -> Option<Revoked> {
        let Self { user, device, session } = self;
        user.map(Revoked::User).or(device.map(Revoked::Device)).or(session.map(Revoked::Session))
    }
}

fn list(reply: AdminReply, as_json: bool) -> Result<(), Failure> {
    let AdminReply::Sessions { sessions } = reply else { return Err(strange(&reply)) };
    if as_json {
        return print_json(&serde_json::json!({ "sessions": sessions }));
    }
    let now = UnixTime::now();
    for SessionEntry { session, user, device, peer, since, streams } in sessions {
        print(&escape(&format!("{session}  {user} on {device} from {peer}, for {}", age(now, since))))?;
        for stream in streams {
            let line = format!(
                "  /{}  {} {}, {} bytes in, {} out, for {}",
                stream.stream,
                stream.kind,
                stream.target,
                stream.bytes_in,
                stream.bytes_out,
                age(now, stream.since)
            );
            print(&escape(&line))?;
        }
    }
    Ok(())
}

fn ended(reply: AdminReply) -> Result<(), Failure> {
    let AdminReply::Cut { sessions, streams } = reply else { return Err(strange(&reply)) };
    warn(&format!("ended: {sessions} live sessions, {streams} streams"));
    Ok(())
}

/// The largest unit is enough to tell one session from another.
fn age(now: UnixTime, since: u64) -> String {
    match now.0.saturating_sub(since) {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..86400 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86400),
    }
}
