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
