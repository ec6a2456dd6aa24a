use proptest::prelude::*;

use super::*;
use crate::proto::{VARIABLE_NAME_MAX, VARIABLES_MAX};

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[test]
fn requests_have_their_golden_bytes() {
    let target = Target { host: "db.internal".into(), port: 5432 };
    let wire = message::encode_prefixed(&Request::TcpConnect(target.clone()));
    assert_eq!(hex(&wire), "0000001fa3006b7463702d636f6e6e656374016b64622e696e7465726e616c02191538");
    assert_eq!(Request::decode(&wire[4..]), Ok(Ok(Request::TcpConnect(target.clone()))));
    let ask = Ask { kind: "connect".into(), target: "db.internal:5432".into() };
    let wire = message::encode(&Request::Check(ask.clone()));
    assert_eq!(hex(&wire), "a30065636865636b0167636f6e6e656374027064622e696e7465726e616c3a35343332");
    assert_eq!(Request::decode(&wire), Ok(Ok(Request::Check(ask))));
    let wire = message::encode(&Request::Resolve);
    assert_eq!(hex(&wire), "a100677265736f6c7665");
    assert_eq!(Request::decode(&wire), Ok(Ok(Request::Resolve)));
    let wire = message::encode(&Request::OwnRules);
    assert_eq!(hex(&wire), "a100696f776e2d72756c6573");
    assert_eq!(Request::decode(&wire), Ok(Ok(Request::OwnRules)));
    let profile = Request::Profile(vec!["LANG".into()]);
    let wire = message::encode(&profile);
    assert_eq!(hex(&wire), "a2006770726f66696c650181644c414e47");
    assert_eq!(Request::decode(&wire), Ok(Ok(profile)));
    let python = Request::Planned { name: "objects", ask: Ask { kind: "python".into(), target: String::new() } };
    let wire = message::encode(&python);
    assert_eq!(hex(&wire), "a300676f626a656374730166707974686f6e0260");
    assert_eq!(Request::decode(&wire), Ok(Ok(python)));
}

#[test]
fn renewals_have_their_golden_bytes() {
    let certificate = Request::RenewCertificate(vec![1, 2, 3]);
    let wire = message::encode(&certificate);
    assert_eq!(hex(&wire), "a2007172656e65772d63657274696669636174650143010203");
    assert_eq!(Request::decode(&wire), Ok(Ok(certificate)));
    let wire = message::encode(&Request::RenewTicket);
    assert_eq!(hex(&wire), "a1006c72656e65772d7469636b6574");
    assert_eq!(Request::decode(&wire), Ok(Ok(Request::RenewTicket)));
}

#[test]
fn a_planned_request_is_of_one_of_its_kinds_and_within_its_bounds() {
    let decode = |name: &'static str, kind: &str, bytes: usize| {
        let ask = Ask { kind: kind.into(), target: "x".repeat(bytes) };
        Request::decode(&message::encode(&Request::Planned { name, ask }))
    };
    for (name, kinds) in PLANNED {
        assert!(kinds.iter().all(|kind| matches!(decode(name, kind, 1), Ok(Ok(Request::Planned { .. })))), "{name}");
        assert!(matches!(decode(name, "connect", 1), Err(ProtocolError::Malformed { .. })), "{name}");
    }
    assert!(decode("files", "read", ASK_TARGET_MAX).is_ok() && decode("files", "read", ASK_TARGET_MAX + 1).is_err());
    let check = |kind: usize| {
        let ask = Ask { kind: "k".repeat(kind), target: String::new() };
        Request::decode(&message::encode(&Request::Check(ask)))
    };
    assert!(check(ASK_KIND_MAX).is_ok() && check(ASK_KIND_MAX + 1).is_err() && check(0).is_err());
}

#[test]
fn a_profile_asks_for_so_many_variables() {
    let decode = |count: usize, bytes: usize| {
        Request::decode(&message::encode(&Request::Profile(vec!["V".repeat(bytes); count])))
    };
    assert!(decode(VARIABLES_MAX, VARIABLE_NAME_MAX).is_ok() && decode(0, 0).is_ok());
    assert!(
        decode(VARIABLES_MAX + 1, 1).is_err() && decode(1, VARIABLE_NAME_MAX + 1).is_err() && decode(1, 0).is_err()
    );
    let bare = data_encoding::HEXLOWER.decode(b"a1006770726f66696c65").unwrap();
    assert_eq!(Request::decode(&bare), Ok(Ok(Request::Profile(Vec::new()))));
}

#[test]
fn keys_that_a_newer_peer_adds_are_skipped() {
    let wire = data_encoding::HEXLOWER.decode(b"a4006b7463702d636f6e6e65637401616102185018638301f5f6").unwrap();
    let target = Target { host: "a".into(), port: 80 };
    assert_eq!(Request::decode(&wire), Ok(Ok(Request::TcpConnect(target))));
}

#[test]
fn a_request_that_nobody_knows_is_refused_by_its_name() {
    let wire = data_encoding::HEXLOWER.decode(b"a1006474656c65").unwrap();
    let error = Request::decode(&wire).unwrap().unwrap_err();
    assert_eq!(error.to_string(), "this lender does not know the request \"tele\"");
}

#[test]
fn targets_read_as_people_write_them() {
    for (text, host, port) in
        [("db.internal:5432", "db.internal", 5432), ("[::1]:80", "::1", 80), ("10.0.0.1:1", "10.0.0.1", 1)]
    {
        let target: Target = text.parse().unwrap();
        assert_eq!((target.host.as_str(), target.port), (host, port));
        assert_eq!(target.to_string(), text);
    }
    for bad in [
        "",
        "db",
        "db:",
        ":80",
        "db:0",
        "db:65536",
        "::1:80",
        "[::1:80",
        "db:-1",
        "[]:80",
        "[127.0.0.1]:80",
        "[db]:80",
        "db:080",
        "db:+80",
    ] {
        assert!(bad.parse::<Target>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(&bytes);
    }

    #[test]
    fn requests_survive_the_wire(host in "[a-z0-9.:-]{1,255}", port in 1..=u16::MAX) {
        let request = Request::TcpConnect(Target { host, port });
        prop_assert_eq!(Request::decode(&message::encode(&request)), Ok(Ok(request)));
    }
}
