//! `capuchin check`: would the policy allow it, and by which rule?

use serde_json::json;

use super::report::{Failure, escape, print, print_json};
use crate::{
    BorrowError, Borrower,
    proto::{ErrorKind, Target},
};

/// Exit status when the policy says no.
const DENIED: u8 = 1;
/// Exit status when there is no answer.
const ERROR: u8 = 2;

/// Ask whether the policy would allow something, and why; nothing is connected
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin check lab connect db.internal:5432
  capuchin check lab connect db.internal:5432 --json

Exit status: 0 allowed, 1 denied, 2 no answer.")]
pub struct Arguments {
    /// The host, as `capuchin hosts` lists it, or USER@HOST
    host: String,
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Connect to host:port by TCP
    Connect {
        /// As in db.internal:5432 or [fd00::1]:443
        target: String,
        /// One JSON document: host, target, allowed, and rule or reason and notes
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { host, what: What::Connect { target, json } } = arguments;
    let verdict = ask(&host, &target).await;
    let (document, text, result) = match verdict {
        Ok(rule) => (
            json!({ "host": host, "target": target, "allowed": true, "rule": rule }),
            format!("allowed: connect {} by {}", escape(&target), escape(&rule)),
            Ok(()),
        ),
        Err(BorrowError::Refused { kind: ErrorKind::Policy, reason, notes, .. }) => {
            let mut text = format!("denied: {}", escape(&reason));
            for note in &notes {
                text.push_str(&format!("\n  {}", escape(note.trim_start())));
            }
            (
                json!({ "host": host, "target": target, "allowed": false, "reason": reason, "notes": notes }),
                text,
                Err(Failure::silent(DENIED)),
            )
        }
        Err(error) => return Err(Failure::from(error).with_code(ERROR)),
    };
    if json {
        print_json(&document)?
    } else {
        print(&text)?
    }
    result
}

async fn ask(host: &str, target: &str) -> Result<String, BorrowError> {
    let wrong = |error: crate::proto::TargetError| BorrowError::Usage { text: error.to_string(), notes: Vec::new() };
    let target: Target = target.parse().map_err(wrong)?;
    Ok(Borrower::connect(host).await?.check(&target).await?.rule)
}
