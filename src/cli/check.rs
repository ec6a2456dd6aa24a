//! `check`, on both sides: would the policy allow it, and by which rule?

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::json;

use super::{
    host::HostArgument,
    report::{Failure, escape, print, print_json},
};
use crate::{BorrowError, Borrower, policy::Kind, proto::ErrorKind};

/// Exit status when the policy says no.
const DENIED: u8 = 1;
/// Exit status when there is no answer, here and of `audit verify`.
pub const ERROR: u8 = 2;

/// Ask whether the policy would allow something, and why; nothing is done
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin check lab connect db.internal:5432
  capuchin check lab listen 127.0.0.1:9000/udp
  capuchin check lab exec '/usr/bin/git status' --json
  capuchin check lab shell

Exit status: 0 allowed, 1 denied, 2 no answer.")]
pub struct Arguments {
    #[command(flatten)]
    host: HostArgument,
    #[command(flatten)]
    question: Question,
}

/// What is asked about.
#[derive(clap::Args)]
pub struct Question {
    /// What it is, by its key in policy.toml
    #[arg(value_parser = kinds())]
    kind: Kind,
    /// What is wanted: host:port, a path, a name, or a command line in one argument; none for shell, python and profile
    target: Option<String>,
    /// One JSON document: host or user, kind, target, allowed, warnings, and rule or reason and notes; without an answer,
    /// error with kind, text and notes in the place of allowed
    #[arg(long)]
    json: bool,
}

/// What the gate says.
pub enum Verdict {
    /// Yes.
    Allowed {
        /// By this rule.
        rule: String,
        /// Rules that say less than they seem to.
        warnings: Vec<String>,
    },
    /// No.
    Denied {
        /// Why.
        reason: String,
        /// What explains it, and what to do.
        notes: Vec<String>,
        /// Rules that say less than they seem to.
        warnings: Vec<String>,
    },
}

impl Question {
    /// The kind and the target in words.
    pub fn words(&self) -> (String, String) {
        (self.kind.to_string(), self.target.clone().unwrap_or_default())
    }

    /// No answer: a failure like any other, and a script hears what was asked.
    pub fn unanswered(&self, (key, who): (&str, &str), failure: Failure) -> Failure {
        let (kind, target) = self.words();
        let about = [(key, who), ("kind", &kind), ("target", &target)];
        Failure { about: about.map(|(name, value)| (name.to_owned(), value.into())).into_iter().collect(), ..failure }
    }
}

/// `capuchin check`.
pub async fn run(Arguments { host, question }: Arguments) -> Result<(), Failure> {
    let (kind, target) = question.words();
    let named = host.text().unwrap_or_default();
    let failed = |failure: Failure| question.unanswered(("host", &named), failure);
    let borrower = host.connect_or_share().await.map_err(failed)?;
    let answer = ask(&borrower, &kind, &target).await;
    borrower.leave().await;
    let verdict = match answer {
        Ok(verdict) => verdict,
        Err(BorrowError::Refused { kind: ErrorKind::Policy, reason, notes, warnings, .. }) => {
            Verdict::Denied { reason, notes, warnings }
        }
        Err(error) => return Err(failed(error.into())),
    };
    show(("host", borrower.host()), &question, verdict)
}

/// Prints a verdict; a denial is its own exit status.
pub fn show((key, who): (&str, &str), question: &Question, verdict: Verdict) -> Result<(), Failure> {
    let (kind, target) = question.words();
    let (document, text, result) = match verdict {
        Verdict::Allowed { rule, warnings } => {
            let mut text = format!("allowed: {} by {}", escape(&question.kind.asked(&target)), escape(&rule));
            append(&mut text, "warning: ", &warnings);
            let document = json!({
                key: who, "kind": kind, "target": target, "allowed": true, "rule": rule, "warnings": warnings,
            });
            (document, text, Ok(()))
        }
        Verdict::Denied { reason, notes, warnings } => {
            let mut text = format!("denied: {}", escape(&reason));
            append(&mut text, "warning: ", &warnings);
            append(&mut text, "", &notes);
            let document = json!({
                key: who, "kind": kind, "target": target, "allowed": false, "reason": reason, "notes": notes,
                "warnings": warnings,
            });
            (document, text, Err(Failure::silent(DENIED)))
        }
    };
    if question.json {
        print_json(&document)?
    } else {
        print(&text)?
    }
    result
}

fn append(text: &mut String, label: &str, lines: &[String]) {
    for line in lines {
        text.push_str(&format!("\n  {label}{}", escape(line.trim_start())));
    }
}

async fn ask(borrower: &Borrower, kind: &str, target: &str) -> Result<Verdict, BorrowError> {
    let verdict = borrower.check(kind, target).await?;
    Ok(Verdict::Allowed { rule: verdict.rule, warnings: verdict.warnings })
}

/// Kinds by name, listed in the help.
pub fn kinds() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::ALL.map(Kind::name)).try_map(|name| name.parse::<Kind>())
}
