//! `capuchind audit`: reads the log, follows it, and proves that it is whole. From the files: no daemon is asked.

use std::path::Path;

use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    lender::duration,
    report::{Failure, escape, print, print_json},
    signals,
};
use crate::{
    lend::{AuditError, AuditReader, AuditWatch, LendError, ascii_json, prove_audit},
    proto::{ErrorKind, UserName},
};

/// Exit status of `verify` when the log is not whole.
const BROKEN: u8 = 1;
/// What a person reads of every line, in this order; the rest follows by its name.
const FIRST: [&str; 5] = ["time", "event", "verdict", "user", "peer"];
/// What only the proof needs.
const HIDDEN: [&str; 2] = ["seq", "hash"];

/// Read the audit log: who did what, when, and by which rule
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    before_help = "\
Examples:
  capuchind audit --since 1h --user ana
  capuchind audit --follow
  capuchind audit --json | jq -r 'select(.verdict == \"refused\") | .target'
  capuchind audit verify

What the lines say: docs/AUDIT.md."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Prove that no line was changed, left out, put in or cut off
    #[command(before_help = "\
Examples:
  capuchind audit verify
  capuchind audit verify --json

Exit status: 0 whole, 1 not whole, 2 no answer.")]
    Verify {
        /// One JSON document: whole, and lines, last and hash, or reason
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Filter {
    /// Go on with each new line, until interrupted
    #[arg(short, long)]
    follow: bool,
    /// Only what this user did, or what was done to it
    #[arg(long)]
    user: Option<UserName>,
    /// Only from then on: 90s, 15m, 2h or 1d ago, 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME|DURATION", value_parser = since)]
    since: Option<OffsetDateTime>,
    /// The lines as they stand in the files, one JSON document each
    #[arg(long)]
    json: bool,
}

/// `capuchind audit`, of the log in this folder.
pub async fn run(dir: &Path, Arguments { command, filter }: Arguments) -> Result<(), Failure> {
    match command {
        Some(Command::Verify { json }) => verify(dir, json),
        None if filter.follow => signals::interruptible(show(dir, &filter)).await,
        // Nothing to tidy up: a signal ends it as it ends any program.
        None => show(dir, &filter).await,
    }
}

async fn show(dir: &Path, filter: &Filter) -> Result<(), Failure> {
    // Before the first line is read: what comes in between is not missed.
    let mut watch = if filter.follow { Some(AuditWatch::new(dir).map_err(no_log(dir))?) } else { None };
    let mut log = AuditReader::open(dir).map_err(no_log(dir))?;
    loop {
        while let Some(line) = log.next_line().map_err(no_log(dir))? {
            // A long log must not keep a signal waiting.
            tokio::task::consume_budget().await;
            let Ok(Value::Object(fields)) = serde_json::from_str(&line.text) else {
                let why = "it is no line of this log; capuchind audit verify says more";
                super::report::warn(&format!("warning: {}:{}: {why}", line.path.display(), line.number));
                continue;
            };
            if !filter.fits(&fields) {
                continue;
            }
            if filter.json { print(&ascii_json(&line.text))? } else { print(&shown(&fields))? }
        }
        match &mut watch {
            Some(watch) => watch.changed().await.map_err(no_log(dir))?,
            None => return Ok(()),
        }
    }
}

impl Filter {
    fn fits(&self, fields: &Map<String, Value>) -> bool {
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let by_user = self.user.as_ref().is_none_or(|user| text("user") == Some(user.as_str()));
        // Each line by its own time: after the clock was put back, earlier ones may follow.
        let time = || text("time").and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
        by_user && self.since.is_none_or(|since| time().is_some_and(|time| time >= since))
    }
}

/// A line for a person.
fn shown(fields: &Map<String, Value>) -> String {
    let word = |value: &Value| match value {
        // Any blank: what looks like two of them to a person would look like another field.
        Value::String(text) if !text.is_empty() && !text.contains(is_blank_or_quote) => text.clone(),
        other => other.to_string(),
    };
    let first = FIRST.iter().filter_map(|name| match (*name, fields.get(*name)?) {
        ("time", Value::String(time)) => Some(seconds(time)),
        (_, value) => Some(word(value)),
    });
    let is_rest = |name: &str| !FIRST.contains(&name) && !HIDDEN.contains(&name);
    let rest = fields.iter().filter(|(name, _)| is_rest(name)).map(|(name, value)| format!("{name}={}", word(value)));
    escape(&first.chain(rest).collect::<Vec<_>>().join("  "))
}

fn is_blank_or_quote(c: char) -> bool {
    // Line breaks are shown as what they are.
    c.is_whitespace() && !c.is_control() || c == '"'
}

/// A time without its fraction.
fn seconds(time: &str) -> String {
    let whole = time.split_once('.').map(|(whole, _)| format!("{whole}Z"));
    whole.unwrap_or_else(|| time.to_owned())
}

fn verify(dir: &Path, as_json: bool) -> Result<(), Failure> {
    match prove_audit(dir) {
        Ok(proof) if as_json => print_json(&serde_json::json!({
            "whole": true, "lines": proof.lines, "last": proof.last, "hash": proof.hash,
        })),
        Ok(proof) => {
            print(&format!("whole: {} lines, the last is {} with hash {}", proof.lines, proof.last, proof.hash))
        }
        Err(error @ AuditError::Broken { .. }) if as_json => {
            print_json(&serde_json::json!({ "whole": false, "reason": error.to_string() }))?;
            Err(Failure::silent(BROKEN))
        }
        Err(error @ AuditError::Broken { .. }) => {
            print(&format!("broken: {}", escape(&error.to_string())))?;
            Err(Failure::silent(BROKEN))
        }
        Err(error) => Err(no_log(dir)(error)),
    }
}

/// A folder that is not there is the usual mistake.
fn no_log(dir: &Path) -> impl Fn(AuditError) -> Failure {
    let dir = dir.display().to_string();
    move |error| match &error {
        AuditError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("there is no audit log in {dir}: has this lender been started, and is --dir right?");
            Failure::new(ErrorKind::Config, text)
        }
        _ => LendError::from(error).into(),
    }
}

/// A time, a day, or how long ago.
fn since(text: &str) -> Result<OffsetDateTime, String> {
    if let Ok(ago) = duration(text) {
        return Ok(OffsetDateTime::now_utc() - ago);
    }
    let midnight = || OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339);
    OffsetDateTime::parse(text, &Rfc3339).or_else(|_| midnight()).map_err(|_| {
        format!("{text:?} is neither 90s, 15m, 2h or 1d ago (at most 30d), nor 2026-01-31 or 2026-01-31T12:00:00Z")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Map<String, Value> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_person_reads_one_line_that_cannot_steer_the_terminal() {
        let line = r#"{"seq":7,"time":"2026-01-31T12:00:00.123456789Z","event":"request","session":"ab","user":"ana","target":"a\u001b[2J\nb\u009b","verdict":"refused","why":"no rule","hash":"00"}"#;
        let shown = shown(&fields(line));
        assert_eq!(
            shown,
            r"2026-01-31T12:00:00Z  request  refused  ana  session=ab  target=a\u{1b}[2J\nb\u{9b}  why=".to_owned()
                + "\"no rule\""
        );
    }

    #[test]
    fn no_blank_makes_another_field_of_a_text() {
        for blank in [' ', '\u{a0}', '\u{2003}', '\u{3000}'] {
            let target = format!("a{blank}{blank}granted");
            let line = serde_json::json!({ "event": "request", "target": target }).to_string();
            assert_eq!(shown(&fields(&line)), format!("request  target=\"{target}\""));
        }
    }

    #[test]
    fn since_is_a_time_a_day_or_how_long_ago() {
        assert_eq!(since("2026-01-31").unwrap().unix_timestamp(), 1_769_817_600);
        assert_eq!(since("2026-01-31T01:00:00+01:00").unwrap(), since("2026-01-31").unwrap());
        let then = since("2h").unwrap();
        let ago = OffsetDateTime::now_utc() - then;
        assert!((7200..7230).contains(&ago.whole_seconds()), "{ago}");
        for bad in ["", "yesterday", "2026-02-30", "1w", "31d"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_are_chosen_by_user_and_by_their_own_time() {
        let filter = |user: Option<&str>, from: Option<&str>| Filter {
            follow: false,
            json: false,
            user: user.map(|user| user.parse().unwrap()),
            since: from.map(|from| since(from).unwrap()),
        };
        let line = fields(r#"{"time":"2026-01-31T12:00:00Z","user":"ana"}"#);
        for (user, from, fits) in [
            (None, None, true),
            (Some("ana"), Some("2026-01-31"), true),
            (Some("bob"), None, false),
            (None, Some("2026-02-01"), false),
        ] {
            assert_eq!(filter(user, from).fits(&line), fits, "{user:?} {from:?}");
        }
        assert!(!filter(Some("ana"), None).fits(&fields("{}")));
    }
}
