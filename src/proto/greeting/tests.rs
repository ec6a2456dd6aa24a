use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[test]
fn greetings_and_logins_have_their_golden_bytes() {
    let greeting = message::encode(&Greeting::new(&mux::Config::default()));
    assert_eq!(hex(&greeting), "a5000001000201031a0001000004191000");
    let mut by_password = Login::by(LoginMethod::Password);
    by_password.password = Some(b"pw".to_vec());
    assert_eq!(hex(&message::encode(&by_password)), "a2000001427077");
    let mut as_ana = Login::by(LoginMethod::Peer);
    as_ana.user = Some("ana".to_owned());
    assert_eq!(hex(&message::encode(&as_ana)), "a200020463616e61");
    as_ana.replaces = Some([4; 16]);
    assert_eq!(hex(&message::encode(&as_ana)), format!("a300020463616e610550{}", "04".repeat(16)));
    assert_eq!(hex(&message::encode(&Login::by(LoginMethod::Certificate))), "a10003");
    let renewal = FromBorrower::Renewal(Renewal { password: b"pw".to_vec() });
    assert_eq!(hex(&message::encode(&renewal)), "a104a100427077");
    let renewed = FromLender::Renewed(RenewedCertificate { certificate: vec![7] });
    assert_eq!(hex(&message::encode(&renewed)), "a105a1004107");
    let names = LocalNames { user: "ana".to_owned(), lender: "lab".to_owned(), os_user: Some("Ana".to_owned()) };
    let welcome = Welcome { session: [3; 16], ticket: None, local: Some(names), addresses: None };
    let names = "a30063616e6101636c61620263416e61";
    assert_eq!(hex(&message::encode(&welcome)), format!("a20050{}02{names}", "03".repeat(16)));
    let moved = Welcome { session: [3; 16], ticket: None, local: None, addresses: Some(vec!["a:1".to_owned()]) };
    assert_eq!(hex(&message::encode(&moved)), format!("a20050{}038163613a31", "03".repeat(16)));
}

#[test]
fn tickets_and_refusals_have_their_golden_bytes() {
    let mut by_ticket = Login::by(LoginMethod::Ticket);
    (by_ticket.ticket_id, by_ticket.ticket_proof) = (Some([1; 8]), Some([2; 32]));
    let (id, proof) = ("01".repeat(8), "02".repeat(32));
    assert_eq!(hex(&message::encode(&FromBorrower::Login(by_ticket))), format!("a101a300010248{id}035820{proof}"));
    let ticket = Some(IssuedTicket { id: [1; 8], secret: [2; 32], expires: 1_700_000_000 });
    let welcome = FromLender::Welcome(Welcome { session: [3; 16], ticket, local: None, addresses: None });
    let ticket = format!("a30048{id}015820{proof}021a6553f100");
    assert_eq!(hex(&message::encode(&welcome)), format!("a101a20050{}01{ticket}", "03".repeat(16)));
    let refusal = FromLender::Refusal(crate::proto::Refusal::new(crate::proto::ErrorKind::Revoked, "no"));
    assert_eq!(hex(&message::encode(&refusal)), "a102a3000d02626e6f0380");
}

#[test]
fn joins_have_their_golden_bytes() {
    let question = JoinQuestion { id: [1; 8], csr: vec![7], proof: [2; 32] };
    let asked = format!("a30048{}014107025820{}", "01".repeat(8), "02".repeat(32));
    let request = JoinRequest { question: question.clone(), password: b"pw".to_vec() };
    for (message, wire) in [
        (FromBorrower::JoinQuestion(question), format!("a102{asked}")),
        (FromBorrower::JoinRequest(request), format!("a103a200{asked}01427077")),
    ] {
        let encoded = message::encode(&message);
        assert_eq!(hex(&encoded), wire);
        assert!(message::decode::<FromBorrower>("join", &encoded) == Ok(message));
    }
    let status = JoinStatus { user: "ana".to_owned(), sets_password: true, without_password: false };
    let answer = JoinAnswer { certificate: vec![7], ca: vec![8], proof: [2; 32] };
    for (message, wire) in [
        (FromLender::JoinStatus(status), "a103a30063616e6101f502f4".to_owned()),
        (FromLender::JoinAnswer(answer), format!("a104a3004107014108025820{}", "02".repeat(32))),
    ] {
        let encoded = message::encode(&message);
        assert_eq!(hex(&encoded), wire);
        assert!(message::decode::<FromLender>("join", &encoded) == Ok(message));
    }
}

#[test]
fn a_join_status_of_an_older_lender_asks_for_a_password() {
    let wire = data_encoding::HEXLOWER.decode(b"a20063616e6101f5").unwrap();
    let status: JoinStatus = message::decode("join status", &wire).unwrap();
    assert!(status.sets_password && !status.without_password);
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = message::decode::<FromBorrower>("login", &bytes);
        let _ = message::decode::<FromLender>("welcome", &bytes);
    }
}
