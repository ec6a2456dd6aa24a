//! `capuchin hosts`.

use serde_json::{Value, json};

use super::{
    completion, presence,
    report::{Failure, escape, print, print_json, warn},
};
use crate::{
    Alias, Host, Profile, Profiles, lender_address,
    proto::{ErrorKind, UserName},
    trust::UnixTime,
};

/// List the hosts that this machine has joined, say where one is, or remove one
#[derive(clap::Args)]
#[command(
    before_help = "\
Examples:
  capuchin hosts
  capuchin hosts --json | jq -r '.hosts[].alias'
  capuchin hosts set lab lab.example.org 10.0.0.5:2279   it is nowhere else
  capuchin hosts set lab --auto                          add where it says it is
  capuchin hosts remove lab                              with keys and logins",
    args_conflicts_with_subcommands = true
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// One JSON document: hosts, each with alias, lender, addresses, default_user and users (user, ticket_expires);
    /// times are in seconds since 1970
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Replace every address of a host; what its lender tells is then not added any more
    Set {
        /// The host, as `capuchin hosts` lists it
        #[arg(add = completion::aliases())]
        alias: String,
        /// Where it is; the port is 2278 if left out
        #[arg(value_name = "HOST[:PORT]", required_unless_present = "auto", conflicts_with = "auto")]
        addresses: Vec<String>,
        /// Add again what its lender tells, to the addresses that there are
        #[arg(long)]
        auto: bool,
    },
    /// Remove a host with its keys and logins; joining it again takes a new join line
    Remove {
        /// The host, as `capuchin hosts` lists it
        #[arg(add = completion::aliases())]
        alias: String,
    },
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        Some(Command::Set { alias, addresses, auto: _ }) => set(&alias.parse()?, addresses),
        Some(Command::Remove { alias }) => remove(&alias.parse()?),
        None => list(arguments),
    }
}

/// Without addresses: `--auto`.
fn set(alias: &Alias, addresses: &[String]) -> Result<(), Failure> {
    let profiles = Profiles::from_env()?;
    let addresses = addresses.iter().map(|text| lender_address(text)).collect::<Result<Vec<_>, _>>()?;
    match addresses.is_empty() {
        true => profiles.learn_again(alias)?,
        false => profiles.set_addresses(alias, &addresses)?,
    }
    let settled = profiles.settings(alias)?.addresses;
    if !settled.is_empty() {
        let (file, settled) = (profiles.settings_file().display(), settled.join(", "));
        warn(&format!("warning: {alias} is looked for at {settled} all the same: {file} says so, and counts more"));
    }
    Ok(())
}

fn remove(alias: &Alias) -> Result<(), Failure> {
    let profiles = Profiles::from_env()?;
    let failed = |error| Failure::new(ErrorKind::Local, format!("cannot see what is connected: {error}"));
    for command in presence::all().map_err(failed)? {
        let host = command["host"].as_str().unwrap_or_default();
        if command["command"] == "connect" && host.parse::<Host>().is_ok_and(|host| host.alias == *alias) {
            let text = format!("{host} is connected by process {}, and stays", command["pid"]);
            let notes = vec![format!("to end that: capuchin connect --stop {host}")];
            return Err(Failure { notes, ..Failure::new(ErrorKind::Usage, text) });
        }
    }
    // One that cannot be read can be removed.
    let lender = profiles.profile(alias).map_or_else(|_| alias.to_string(), |profile| profile.lender.to_string());
    let devices = profiles.remove(alias)?;
    print(&format!("{alias} is removed"))?;
    for (user, device) in devices {
        warn(&format!("to have {lender} forget this device of {user}, there: capuchind revoke --device {device}"));
    }
    Ok(())
}

fn list(arguments: &Arguments) -> Result<(), Failure> {
    let (profiles, now) = (Profiles::from_env()?, UnixTime::now());
    let mut hosts = Vec::new();
    for (alias, profile) in profiles.list()? {
        match profile {
            // Where it is looked for, as every command does.
            Ok(profile) => hosts.push(match profiles.settings(&alias)?.addresses {
                settled if settled.is_empty() => profile,
                addresses => Profile { addresses, ..profile },
            }),
            Err(error) => warn(&format!("warning: {alias} is left out: {error}")),
        }
    }
    let until = |profile: &Profile, user: &UserName| profiles.logged_in_until(&profile.alias, user, now);
    if arguments.json {
        let hosts: Vec<_> = hosts.iter().map(|profile| document(profile, |user| until(profile, user))).collect();
        return print_json(&json!({ "hosts": hosts }));
    }
    if hosts.is_empty() {
        warn("This machine has joined no host yet: on a lender run `capuchind invite USER`, here `capuchin join`.");
    }
    for profile in &hosts {
        let users: Vec<_> = profile.users.iter().map(|user| described(user, until(profile, user), now)).collect();
        let addresses = escape(&profile.addresses.join(", "));
        print(&format!("{}\t{} at {addresses}\t{}", profile.alias, profile.lender, users.join(", ")))?;
    }
    Ok(())
}

fn document(profile: &Profile, until: impl Fn(&UserName) -> Option<UnixTime>) -> Value {
    let user = |user: &UserName| json!({ "user": user.as_str(), "ticket_expires": until(user).map(|time| time.0) });
    json!({
        "alias": profile.alias.as_str(),
        "lender": profile.lender.as_str(),
        "addresses": profile.addresses,
        "default_user": profile.default_user.as_str(),
        "users": profile.users.iter().map(user).collect::<Vec<_>>(),
    })
}

fn described(user: &UserName, until: Option<UnixTime>, now: UnixTime) -> String {
    match until {
        Some(until) => {
            let minutes = until.0.saturating_sub(now.0) / 60;
            format!("{user} (logged in for {} h {} min)", minutes / 60, minutes % 60)
        }
        None => format!("{user} (not logged in)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_document_are_stable() {
        let profile = Profile {
            alias: "attic".parse().unwrap(),
            lender: "lab".parse().unwrap(),
            addresses: vec!["lab.example:2278".to_owned()],
            default_user: "ana".parse().unwrap(),
            users: vec!["ana".parse().unwrap(), "bob".parse().unwrap()],
            learns_addresses: true,
        };
        let until = |user: &UserName| (user.as_str() == "ana").then_some(UnixTime(7));
        assert_eq!(
            document(&profile, until).to_string(),
            r#"{"addresses":["lab.example:2278"],"alias":"attic","default_user":"ana","lender":"lab","users":[{"ticket_expires":7,"user":"ana"},{"ticket_expires":null,"user":"bob"}]}"#
        );
    }

    #[test]
    fn a_person_reads_how_long_a_login_lasts() {
        let ana = "ana".parse().unwrap();
        assert_eq!(described(&ana, Some(UnixTime(7380)), UnixTime(0)), "ana (logged in for 2 h 3 min)");
        assert_eq!(described(&ana, None, UnixTime(0)), "ana (not logged in)");
    }
}
