use proptest::prelude::*;

use super::*;
use crate::proto::{
    Answer, Errno, ErrorKind, Greeting, LocalNames, Login, LoginMethod, Refusal, RenewedCertificate, Resolving,
    TcpConnected, Verdict, Welcome, WireAddr, mux,
};

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
    let shell = Request::Planned { name: "spawn", ask: Ask { kind: "shell".into(), target: String::new() } };
    let wire = message::encode(&shell);
    assert_eq!(hex(&wire), "a30065737061776e01657368656c6c0260");
    assert_eq!(Request::decode(&wire), Ok(Ok(shell)));
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
    let answer = Answer::Granted(RenewedCertificate { certificate: vec![7] });
    let wire = message::encode(&answer);
    assert_eq!(hex(&wire), "a100a1004107");
    assert_eq!(message::decode::<Answer<RenewedCertificate>>("answer", &wire), Ok(answer));
}

#[test]
fn answers_have_their_golden_bytes() {
    let connected = TcpConnected {
        peer: WireAddr("10.0.0.1:80".parse().unwrap()),
        local: WireAddr("[fd00::1]:81".parse().unwrap()),
    };
    let granted = Answer::Granted(connected);
    let wire = message::encode(&granted);
    assert_eq!(hex(&wire), "a100a200460a00000100500152fd0000000000000000000000000000010051");
    assert_eq!(message::decode::<Answer<TcpConnected>>("answer", &wire), Ok(granted));
    let resolving = Answer::Granted(Resolving {});
    let wire = message::encode(&resolving);
    assert_eq!(hex(&wire), "a100a0");
    assert_eq!(message::decode::<Answer<Resolving>>("answer", &wire), Ok(resolving));
    let refused: Answer<TcpConnected> =
        Answer::Refused(Refusal::new(ErrorKind::Policy, "no").with_errno(Some(Errno::EACCES)).with_notes(["n".into()]));
    let wire = message::encode(&refused);
    assert_eq!(hex(&wire), "a101a40007010d02626e6f0381616e");
    assert_eq!(message::decode::<Answer<TcpConnected>>("answer", &wire), Ok(refused));
}

#[test]
fn a_verdict_has_its_golden_bytes_and_its_warnings_may_be_missing() {
    let verdict = Answer::Granted(Verdict::new(&"p:3 shell = true", ["w".to_owned()]));
    let wire = message::encode(&verdict);
    assert_eq!(hex(&wire), "a100a20070703a33207368656c6c203d207472756501816177");
    assert_eq!(message::decode::<Answer<Verdict>>("answer", &wire), Ok(verdict));
    let bare = data_encoding::HEXLOWER.decode(b"a100a1006172").unwrap();
    let expected = Answer::Granted(Verdict { rule: "r".into(), warnings: Vec::new() });
    assert_eq!(message::decode::<Answer<Verdict>>("answer", &bare), Ok(expected));
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
fn greetings_and_logins_have_their_golden_bytes() {
    let greeting = message::encode(&Greeting::new(&mux::Config::default()));
    assert_eq!(hex(&greeting), "a5000001000201031a0001000004191000");
    let login = |method, password, user| Login { method, password, ticket_id: None, ticket_proof: None, user };
    let by_password = login(LoginMethod::Password, Some(b"pw".to_vec()), None);
    assert_eq!(hex(&message::encode(&by_password)), "a2000001427077");
    let as_ana = login(LoginMethod::Peer, None, Some("ana".to_owned()));
    assert_eq!(hex(&message::encode(&as_ana)), "a200020463616e61");
    let names = LocalNames { user: "ana".to_owned(), lender: "lab".to_owned(), os_user: Some("Ana".to_owned()) };
    let welcome = Welcome { session: [3; 16], ticket: None, local: Some(names) };
    let names = "a30063616e6101636c61620263416e61";
    assert_eq!(hex(&message::encode(&welcome)), format!("a20050{}02{names}", "03".repeat(16)));
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
    for bad in ["", "db", "db:", ":80", "db:0", "db:65536", "::1:80", "[::1:80", "db:-1", "[]:80"] {
        assert!(bad.parse::<Target>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(&bytes);
        let _ = message::decode::<Answer<TcpConnected>>("answer", &bytes);
        let _ = message::decode::<crate::proto::FromBorrower>("login", &bytes);
    }

    #[test]
    fn requests_survive_the_wire(host in "[a-z0-9.:-]{1,255}", port in 1..=u16::MAX) {
        let request = Request::TcpConnect(Target { host, port });
        prop_assert_eq!(Request::decode(&message::encode(&request)), Ok(Ok(request)));
    }
}
