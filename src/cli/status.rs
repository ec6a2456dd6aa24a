//! `capuchin status`: what runs now and borrows.

use serde_json::{Value, json};

use super::{
    presence,
    report::{Failure, escape, print, print_json, warn},
};
use crate::{proto::ErrorKind, trust::UnixTime};

/// List the commands of this user that borrow now, from whom and what for
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin status
  capuchin status --json | jq -r '.borrowing[] | select(.state != \"up\") | .host'")]
pub struct Arguments {
    /// One JSON document: borrowing, each with pid, command, host, lender, user, session, since (seconds since 1970), state
    /// (up, reconnecting or over), why, and purposes
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let all =
        presence::all().map_err(|error| Failure::new(ErrorKind::Local, format!("cannot list what runs: {error}")))?;
    if arguments.json {
        return print_json(&json!({ "borrowing": all }));
    }
    if all.is_empty() {
        warn("Nothing is borrowed by a command that runs now.");
    }
    let now = UnixTime::now();
    all.iter().flat_map(|one| lines(one, now)).try_for_each(|line| print(&line))
}

/// One line of the command, and one for each thing that it is for.
fn lines(one: &Value, now: UnixTime) -> Vec<String> {
    let text = |key: &str| escape(one[key].as_str().unwrap_or_default());
    if one["state"] == presence::SILENT {
        return vec![format!("{}\tdoes not answer; it may be stopped", one["pid"])];
    }
    let minutes = now.0.saturating_sub(one["since"].as_u64().unwrap_or(now.0)) / 60;
    let state = match one["why"].as_str() {
        Some(why) => format!("{} ({})", text("state"), escape(why)),
        None => text("state"),
    };
    let head = format!(
        "{}\t{} {}\tas {} at {}\tfor {} h {} min\t{state}",
        one["pid"],
        text("command"),
        text("host"),
        text("user"),
        text("lender"),
        minutes / 60,
        minutes % 60,
    );
    let purposes = one["purposes"].as_array().into_iter().flatten().filter_map(Value::as_str);
    std::iter::once(head).chain(purposes.map(|purpose| format!("\t{}", escape(purpose)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_who_borrows_what_and_how_it_stands() {
        let one = json!({
            "pid": 7, "command": "forward", "host": "lab", "lender": "lab", "user": "ana", "since": 60, "state": "reconnecting",
            "why": "gone\u{1b}", "purposes": ["127.0.0.1:1 -> a:2"],
        });
        assert_eq!(
            lines(&one, UnixTime(7380)),
            ["7\tforward lab\tas ana at lab\tfor 2 h 2 min\treconnecting (gone\\u{1b})", "\t127.0.0.1:1 -> a:2"]
        );
    }
}
