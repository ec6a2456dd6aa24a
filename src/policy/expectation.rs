//! `[[test]]`: what the admin expects of the rules, held when the file is read.
//!
//! A test resolves nothing. A name without `resolves_to` is judged by the rules that name it alone.

use std::net::IpAddr;

use super::{
    Policy,
    connect::{Connect, judge_unresolved},
    decide::{Facts, Principal, decide},
    host::{Host, HostError},
    pattern::{PatternError, parse_port, split_port},
    problem::{PolicyError, Problem},
    reader::{Block, Reader},
    refusal::{Refusal, RuleRef},
    rule::Place,
    undecided::Undecided,
};
use crate::proto::{DeviceId, UserName};

/// What a test asks.
enum Question {
    Connect { text: String, host: Result<Host, HostError>, port: u16 },
    Undecided(Undecided),
}

/// Reads one test and runs it.
pub(super) fn check(reader: &mut Reader<'_>, (span, table): Block<'_, '_>, policy: &Policy) -> Result<(), PolicyError> {
    let place = Place::Test.name();
    let (mut who, mut question, mut expect_allow, mut resolves_to) = (None, None, None, None);
    for (key, value) in table {
        let mut ask = |asked: Question| match question.replace(asked) {
            None => Ok(()),
            Some(_) => Err("a test asks one thing: write a second [[test]]"),
        };
        match key.get_ref().as_ref() {
            "who" => who = Some(reader.string(value, "who", str::parse::<UserName>)?.value),
            "expect" => expect_allow = Some(reader.string(value, "expect", parse_expect)?.value),
            "resolves_to" => resolves_to = Some((value, reader.strings(value, "resolves_to", parse_address)?)),
            "connect" => {
                let asked = reader.string(value, "connect", parse_connect)?.value;
                ask(asked).map_err(|message| reader.bad_value(value, "connect", message))?;
            }
            other => {
                let kind = Undecided::with_key(other);
                let kind = kind.ok_or_else(|| reader.unknown_key(key, place, Place::Test.keys()))?;
                kind.check(reader, value, Place::Test)?;
                ask(Question::Undecided(kind)).map_err(|message| reader.bad_value(value, kind.key(), message))?;
            }
        }
    }
    let missing = |key| reader.missing_key(span.clone(), key, place);
    let user = who.ok_or_else(|| missing("who"))?;
    let expect_allow = expect_allow.ok_or_else(|| missing("expect"))?;
    let question = question.ok_or_else(|| missing("connect"))?;
    if let (Some((value, _)), false) = (&resolves_to, question.is_about_a_name()) {
        return Err(reader.bad_value(value, "resolves_to", "only a name resolves: remove it"));
    }
    let addresses = resolves_to.map(|(_, entries)| entries.into_iter().map(|entry| entry.value).collect());
    let found = match question.judge(policy, user, addresses) {
        Ok(_) if expect_allow => return Ok(()),
        Err(_) if !expect_allow => return Ok(()),
        Ok(rule) => format!("it is allowed by {rule}"),
        Err(refusal) => match &refusal.rule {
            Some(rule) => format!("{refusal}, by {rule}"),
            None => refusal.to_string(),
        },
    };
    let expected = if expect_allow { "allow" } else { "deny" };
    Err(reader.error(span, Problem::TestFailed { found, expected }))
}

impl Question {
    fn is_about_a_name(&self) -> bool {
        matches!(self, Self::Connect { host: Ok(Host::Name(_)), .. })
    }

    fn judge(self, policy: &Policy, user: UserName, addresses: Option<Vec<IpAddr>>) -> Result<RuleRef, Refusal> {
        // A test stands for every device of its user: no rule tells them apart.
        let principal = Principal { user, device: DeviceId::from_digest(&[0; 32]) };
        let facts = Facts::default();
        match self {
            Self::Undecided(kind) => decide(policy, &principal, kind, &facts).map(|granted| granted.rule().clone()),
            Self::Connect { text, host, port } => {
                let host = host.map_err(|error| Refusal::bad_host(&text, error))?;
                let addresses = match (&host, addresses) {
                    (Host::Address(address), _) => vec![*address],
                    (Host::Name(_), Some(addresses)) => addresses,
                    (Host::Name(_), None) => return judge_unresolved(policy, &principal.user, &host, port),
                };
                let request = Connect { host, port, addresses };
                decide(policy, &principal, request, &facts).map(|granted| granted.rule().clone())
            }
        }
    }
}

/// A host that is none is the policy's to refuse, and so may be expected; a port that is none is a slip of the pen.
fn parse_connect(text: &str) -> Result<Question, PatternError> {
    let (host, port) = split_port(text)?;
    Ok(Question::Connect { text: text.to_owned(), host: Host::parse(host), port: parse_port(port)? })
}

fn parse_expect(text: &str) -> Result<bool, &'static str> {
    match text {
        "allow" => Ok(true),
        "deny" => Ok(false),
        _ => Err("write \"allow\" or \"deny\""),
    }
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address: write 10.1.2.3 or fd00::1"))
}
