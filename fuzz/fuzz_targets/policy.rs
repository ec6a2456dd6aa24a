//! Whole policies, any text and rules that nearly parse: an error with its line or a policy, never a panic; and of a
//! policy, the same answer twice, nothing for whom it does not name, and a refusal that fits its message.

#![no_main]

use std::net::IpAddr;

use capuchin::{
    policy::{AnyRequest, Facts, Kind, Policy, Principal, decide},
    proto::{DeviceId, REFUSAL_NOTES_MAX},
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Rules for ana: whether each denies, which key it has, and the value as it stands in the file.
    rules: Vec<(bool, u8, &'a str)>,
    /// What stands behind them: anything.
    rest: &'a str,
    kind: u8,
    target: &'a str,
    addresses: Vec<IpAddr>,
}

/// The longest policy that is built, in rules: more are only slower.
const RULES_MAX: usize = 8;

const TERMS: [&str; 5] = ["limits", "run_as", "allow_root", "setuid", "detach"];

fn text_of(input: &Input<'_>) -> String {
    let mut text = String::new();
    for (denies, key, value) in input.rules.iter().take(RULES_MAX) {
        let keys: Vec<&str> = Kind::ALL.map(Kind::name).into_iter().chain(TERMS).collect();
        let key = keys[usize::from(*key) % keys.len()];
        text += &format!("[[{}]]\nwho = \"ana\"\n{key} = {value}\n", if *denies { "deny" } else { "allow" });
    }
    text + input.rest
}

fn principal(user: &str) -> Principal {
    Principal { user: user.parse().expect("a user"), device: DeviceId::from_bytes([0; 8]) }
}

fuzz_target!(|input: Input<'_>| {
    let text = text_of(&input);
    let policy = match Policy::parse(&text, "policy.toml") {
        Ok(policy) => policy,
        Err(error) => {
            assert!(error.line >= 1 && error.line as usize <= text.lines().count().max(1) + 1);
            assert_eq!(error.to_string().lines().count(), 1, "one line");
            return;
        }
    };
    let ana = principal("ana");
    let _ = (policy.terms(&ana.user), policy.warnings(&ana.user));
    let kind = Kind::ALL[usize::from(input.kind) % Kind::ALL.len()];
    let Ok(asked) = AnyRequest::parse(kind, input.target) else { return };
    let asked = asked.resolved(input.addresses);
    let facts = Facts::default();
    let judge = |who: &str| decide(&policy, &principal(who), asked.clone(), &facts);
    assert_eq!(judge("ana"), judge("ana"), "the same question has one answer");
    match judge("ana") {
        Ok(granted) => assert!(granted.again(&policy, &ana, &facts).is_ok(), "what is granted stands"),
        Err(refusal) => assert!(refusal.explain().len() - 1 <= REFUSAL_NOTES_MAX),
    }
    if !text.contains("zoe") {
        assert!(judge("zoe").is_err(), "nobody named her");
    }
});
