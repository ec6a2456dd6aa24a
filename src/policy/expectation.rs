//! `[[test]]`: what the admin expects of the rules, held when the file is read.
//!
//! A test names one kind and one target, as `check` takes them, and resolves nothing: a name without `resolves_to` is
//! judged by the rules that name it alone.

use std::net::IpAddr;

use super::{
    Policy,
    any::{AnyRequest, TargetError, Why},
    decide::{Facts, Principal, decide},
    host::{Host, HostError},
    kind::Kind,
    problem::{PolicyError, Problem},
    reach::Reach,
    reader::{Block, Key, Reader, Value},
    refusal::{Refusal, RuleRef},
    rule::Place,
};
use crate::proto::{DeviceId, UserName};

/// What a test asks; a number that is no host is refused before any rule is asked.
type Question = Result<AnyRequest, Box<Refusal>>;

/// Reads one test and runs it.
pub(super) fn check(reader: &mut Reader<'_>, (span, table): Block<'_, '_>, policy: &Policy) -> Result<(), PolicyError> {
    let place = Place::Test.name();
    let (mut who, mut question, mut expect_allow, mut resolves_to) = (None, None, None, None);
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "who" => who = Some(reader.string(value, "who", str::parse::<UserName>)?.value),
            "expect" => expect_allow = Some(reader.string(value, "expect", parse_expect)?.value),
            "resolves_to" => resolves_to = Some((value, reader.strings(value, "resolves_to", parse_address)?)),
            _ => {
                let (kind, asked) = read_question(reader, key, value)?;
                if question.replace(asked).is_some() {
                    return Err(reader.bad_value(value, kind.name(), "a test asks one thing: write a second [[test]]"));
                }
            }
        }
    }
    let missing = |key| reader.missing_key(span.clone(), key, place);
    let user = who.ok_or_else(|| missing("who"))?;
    let expect_allow = expect_allow.ok_or_else(|| missing("expect"))?;
    let question: Question = question.ok_or_else(|| missing("connect"))?;
    let is_about_a_name = question.as_ref().is_ok_and(|asked| matches!(asked.host(), Some((_, Host::Name(_), _))));
    if let (Some((value, _)), false) = (&resolves_to, is_about_a_name) {
        return Err(reader.bad_value(value, "resolves_to", "only a name resolves: remove it"));
    }
    let addresses = resolves_to.map(|(_, entries)| entries.into_iter().map(|entry| entry.value).collect());
    let found = match judge(question, policy, user, addresses) {
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

/// Reads the key that says what is asked, e.g. `connect = "db.internal:5432"` or `env.send = "LANG"`.
fn read_question(reader: &mut Reader<'_>, key: &Key<'_>, value: &Value<'_>) -> Result<(Kind, Question), PolicyError> {
    let (outer, parts): (_, &[&str]) = match key.get_ref().as_ref() {
        "env" => ("env", &["send", "read"]),
        "services" => ("services", &["offer", "use"]),
        single => {
            let kind = single.parse().ok().filter(|kind| *kind != Kind::Profile && !single.contains('.'));
            let kind = kind.ok_or_else(|| reader.unknown_key(key, Place::Test.name(), Place::Test.keys()))?;
            return Ok((kind, read_target(reader, value, kind)?));
        }
    };
    let mut inside = reader.table(value, outer)?.iter();
    let (Some((part, target)), None) = (inside.next(), inside.next()) else {
        return Err(reader.bad_value(value, outer, "a test asks one thing: write one name"));
    };
    let kind = format!("{outer}.{}", part.get_ref()).parse();
    let kind = kind.map_err(|_| reader.unknown_key(part, outer, parts.iter().copied()))?;
    Ok((kind, read_target(reader, target, kind)?))
}

fn read_target(reader: &mut Reader<'_>, value: &Value<'_>, kind: Kind) -> Result<Question, PolicyError> {
    let key = kind.name();
    if !kind.takes_target() {
        return match reader.flag(value, key)? {
            true => Ok(parse_target(kind, "").map_err(|error| reader.bad_value(value, key, error.why))?),
            false => {
                let message = format!("false says nothing in {}: write true, or leave the key out", Place::Test);
                Err(reader.bad_value(value, key, message))
            }
        };
    }
    let parse = |text: &str| parse_target(kind, text).map_err(|error| error.why);
    Ok(reader.string(value, key, parse)?.value)
}

/// A number that resolvers read as an address is refused whatever the rules say, and a test may expect that. Any other
/// host that is none, as a pattern, would be refused as well, and such a test would say nothing of the hosts it seems to
/// mean.
fn parse_target(kind: Kind, text: &str) -> Result<Question, TargetError> {
    let error = match AnyRequest::parse(kind, text) {
        Ok(asked) => return Ok(Ok(asked)),
        Err(error) => error,
    };
    match (&error.why, error.refusal()) {
        (Why::Host(HostError::Numeric(_)), Some(refusal)) => Ok(Err(Box::new(refusal))),
        (Why::Host(none), _) => {
            let why = format!("{none}: a test names one target, not a pattern");
            Err(TargetError::new(kind, text, Why::Shape(why)))
        }
        (Why::Shape(_), _) => Err(error),
    }
}

fn judge(
    question: Question,
    policy: &Policy,
    user: UserName,
    addresses: Option<Vec<IpAddr>>,
) -> Result<RuleRef, Box<Refusal>> {
    let asked = question?;
    if let (Some((transport, host @ Host::Name(_), port)), None) = (asked.host(), &addresses) {
        let reach = Reach { transport, host, port, names: &[], aliases: &[], own: &[] };
        return Ok(reach.judge_unresolved(policy, &user)?);
    }
    // A test stands for every device of its user: no rule tells them apart.
    let principal = Principal { user, device: DeviceId::from_digest(&[0; 32]) };
    let asked = asked.resolved(addresses.unwrap_or_default());
    Ok(decide(policy, &principal, asked, &Facts::default())?.rule().clone())
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
