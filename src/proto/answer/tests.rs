use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
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
    let folder: Answer<Resolving> =
        Answer::Refused(Refusal::new(ErrorKind::Target, "no").with_errno(Some(Errno(2))).with_before_program(true));
    let wire = message::encode(&folder);
    assert_eq!(hex(&wire), "a101a50009010202626e6f038005f5");
    assert_eq!(message::decode::<Answer<Resolving>>("answer", &wire), Ok(folder));
    let checked = Refusal::new(ErrorKind::Policy, "no");
    assert_eq!(checked.clone().with_before_program(false), checked);
    assert_eq!(checked.clone().with_warnings([]), checked);
    let warned: Answer<Verdict> = Answer::Refused(checked.with_warnings(["w".into()]));
    let wire = message::encode(&warned);
    assert_eq!(hex(&wire), "a101a4000702626e6f038004816177");
    assert_eq!(message::decode::<Answer<Verdict>>("answer", &wire), Ok(warned));
}

#[test]
fn a_renewed_certificate_has_its_golden_bytes() {
    let answer = Answer::Granted(RenewedCertificate { certificate: vec![7] });
    let wire = message::encode(&answer);
    assert_eq!(hex(&wire), "a100a1004107");
    assert_eq!(message::decode::<Answer<RenewedCertificate>>("answer", &wire), Ok(answer));
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
fn the_own_rules_have_their_golden_bytes() {
    let rules = crate::proto::OwnRules { allows: vec!["a".into()], denies: vec!["d".into()], left_out: 2 };
    let answer = Answer::Granted(rules);
    let wire = message::encode(&answer);
    assert_eq!(hex(&wire), "a100a300816161018161640202");
    assert_eq!(message::decode::<Answer<crate::proto::OwnRules>>("answer", &wire), Ok(answer));
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = message::decode::<Answer<TcpConnected>>("answer", &bytes);
        let _ = message::decode::<Answer<Verdict>>("answer", &bytes);
    }
}
