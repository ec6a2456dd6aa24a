//! One pattern and one target of a kind: never a panic; a deny of the pattern that allowed it refuses it; and a target
//! that is shown reads back as what it was.

#![no_main]

use std::net::IpAddr;

use capuchin::{
    policy::{AnyRequest, Facts, Grant, Host, Kind, LenderPath, Policy, Principal, Reason, decide},
    proto::DeviceId,
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    kind: u8,
    pattern: &'a str,
    /// None: the pattern itself is asked for.
    target: Option<&'a str>,
    address: IpAddr,
}

/// The rule as a deny of a file; none where it does not spell like TOML.
fn denial(kind: Kind, rule: &str) -> Option<Policy> {
    let value = rule.strip_prefix(kind.name())?.strip_prefix(" = ")?;
    let value = if kind == Kind::Exec { format!("[{value}]") } else { value.to_owned() };
    let key = match kind {
        Kind::Profile => return None,
        kind => kind.name(),
    };
    Policy::parse(&format!("[[deny]]\nwho = \"ana\"\n{key} = {value}\n"), "policy.toml").ok()
}

fuzz_target!(|input: Input<'_>| {
    let kind = Kind::ALL[usize::from(input.kind) % Kind::ALL.len()];
    let target = input.target.unwrap_or(input.pattern);
    if let Ok(host) = Host::parse(target) {
        assert_eq!(Host::parse(&host.to_string()), Ok(host), "one spelling");
    }
    if let Ok(path) = LenderPath::parse(target) {
        assert!(path.is_within(&path));
    }
    let ana = Principal { user: "ana".parse().expect("a user"), device: DeviceId::from_bytes([0; 8]) };
    let grant = Grant::parse(ana.user.clone(), kind, input.pattern, "grant 1");
    let Ok(asked) = AnyRequest::parse(kind, target) else { return };
    let asked = asked.resolved(vec![input.address]);
    let judge = |policy: &Policy| decide(policy, &ana, asked.clone(), &Facts::default());

    let refusal = judge(&Policy::default()).expect_err("nothing is allowed");
    assert_eq!(refusal.reason, Reason::NoRule);
    let shown = refusal.request.strip_prefix(kind.name()).expect("its kind comes first").trim_start_matches(' ');
    // A wildcard is shown in one family, a target with blanks at its ends without them, and one with control
    // characters between quotes.
    if kind != Kind::Listen && target.trim() == target && !target.contains(char::is_control) {
        let again = AnyRequest::parse(kind, shown).expect("what is shown can be asked");
        assert_eq!(again.resolved(vec![input.address]), asked);
    }

    let Ok(grant) = grant else { return };
    let Ok(granted) = judge(&Policy::default().with_grants([grant.clone()])) else { return };
    if let Some(denial) = denial(kind, &granted.rule().text) {
        assert!(judge(&denial.with_grants([grant])).is_err(), "a deny beats an allow of the same");
    }
});
