use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn question(name: &str, kind: u16) -> Question {
    Question { name: name.to_owned(), kind }
}

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.replace(' ', "").as_bytes()).unwrap()
}

/// `wWw.a` A, with EDNS that wants signatures and has an option of four bytes.
const SPELLED: &str = "beef 0130 0001 0000 0000 0001 03775777016100 0001 0001 00 0029 1000 00008000 0004 000a0000";

fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    name::put(&mut out, name).unwrap();
    out
}

/// An answer to `asked` with these records: owner, type, TTL, data.
fn reply(id: u16, asked: &Question, records: &[(&str, u16, u32, Vec<u8>)]) -> Vec<u8> {
    let mut out = ask(id, asked).unwrap();
    out[2..4].copy_from_slice(&0x8180_u16.to_be_bytes());
    out[7] = records.len() as u8;
    for (owner, kind, ttl, bytes) in records {
        out.extend_from_slice(&labels(owner));
        out.put_u16(*kind);
        out.put_u16(1);
        out.put_u32(*ttl);
        out.put_u16(bytes.len() as u16);
        out.extend_from_slice(bytes);
    }
    out
}

#[test]
fn a_query_is_written_anew_with_its_question_and_nothing_else() {
    let query = Query::decode(&hex(SPELLED)).unwrap();
    assert_eq!(query.question(), &question("www.a", A));
    let forwarded = query.forward(0x0102, "www.a").unwrap();
    let expected = hex("0102 0130 0001 0000 0000 0001 03777777016100 0001 0001 00 0029 04d0 00008000 0000");
    assert_eq!(forwarded, expected, "lower case, a size of ours, DO, no options");
    assert_eq!(query.forward(1, "a b"), None);

    let answered = reply(0x0102, query.question(), &[("www.a", A, 60, vec![10, 0, 0, 1])]);
    let back = query.pass_on(Reply::decode(answered.clone(), 0x0102, query.question()).unwrap());
    assert_eq!(back[..2], [0xbe, 0xef]);
    assert_eq!(back[12..19], hex("03775777016100"), "the spelling of the borrower");
    assert_eq!(back[19..], answered[19..]);
    assert_eq!(query.fail(Rcode::Refused), hex("beef 8185 0001 0000 0000 0000 03775777016100 0001 0001"));
}

#[test]
fn an_answer_fits_into_the_datagram_that_its_asker_takes() {
    let plain = Query::decode(&ask(7, &question("db.lan", A)).unwrap()).unwrap();
    let edns = Query::decode(&hex(SPELLED)).unwrap();
    for (query, limit) in [(&plain, 512), (&edns, 4096)] {
        let mut answer = query.fail(Rcode::NxDomain);
        let question = answer.clone();
        answer.resize(limit, 0);
        assert_eq!(query.fit(answer.clone()), answer);
        answer.push(0);
        let cut = query.fit(answer);
        assert_eq!((cut.len(), cut[2] & 2, &cut[3..]), (question.len(), 2, &question[3..]), "cut, and told so");
    }
    let mut boundless = hex(SPELLED);
    let size = boundless.windows(4).position(|bytes| bytes == [0, 0x29, 0x10, 0]).unwrap() + 2;
    boundless[size] = 0xff;
    assert!(Query::decode(&boundless).unwrap().fit(vec![0; 4097]).len() < 4097, "whatever it says, no more than 4,096");
}

#[test]
fn an_answer_of_our_own_has_the_addresses_of_the_type_that_was_asked_for() {
    let query = Query::decode(&ask(7, &question("db.lan", A)).unwrap()).unwrap();
    let addresses: Vec<IpAddr> = ["::1", "10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap()).into();
    let own = Reply::decode(query.answer(&addresses, 9), 7, query.question()).unwrap();
    assert_eq!(own.addresses, [(addresses[1], 9), (addresses[2], 9)]);
    assert!(!own.is_failure() && !own.is_truncated());
    let none = Query::decode(&ask(7, &question("db.lan", AAAA)).unwrap()).unwrap();
    let own = Reply::decode(none.answer(&addresses[1..], 9), 7, none.question()).unwrap();
    assert!(own.addresses.is_empty() && !own.is_failure());
}

#[test]
fn what_is_no_query_of_one_question_is_answered_as_such() {
    let rcode = |text: &str| {
        let answer = Query::decode(&hex(text)).unwrap_err().into_answer();
        assert_eq!(answer.len(), HEADER_BYTES);
        assert_eq!(answer[2] & 0x80, 0x80, "an answer");
        answer[3] & 0x0f
    };
    let (form_err, not_imp) = (Rcode::FormErr as u8, Rcode::NotImp as u8);
    for (text, expected) in [
        ("", form_err),
        ("beef", form_err),
        ("beef 0100 0001 0000 0000 0000", form_err),
        ("beef 8100 0001 0000 0000 0000 016100 0001 0001", form_err),
        ("beef 2800 0001 0000 0000 0000 016100 0001 0001", not_imp),
        ("beef 0100 0002 0000 0000 0000 016100 0001 0001 016100 0001 0001", form_err),
        ("beef 0100 0001 0001 0000 0000 016100 0001 0001 016100 0001 0001 00000000 0000", form_err),
        ("beef 0100 0001 0000 0000 0000 016100 0001 0001 ff", form_err),
        ("beef 0100 0001 0000 0000 0000 c00c 0001 0001", form_err),
        ("beef 0100 0001 0000 0000 0000 c000 0001 0001", form_err),
        ("beef 0100 0001 0000 0000 0000 4161 00 0001 0001", form_err),
        ("beef 0100 0001 0000 0000 0001 016100 0001 0001 00 0001 0001 00000000 0000", form_err),
        ("beef 0100 0001 0000 0000 0001 016100 0001 0001 00 0029 1000 00000000 ffff", form_err),
        ("beef 0100 0001 0000 0000 0000 016100 0001 0003", not_imp),
        ("beef 0100 0001 0000 0000 0000 016100 00fc 0001", not_imp),
        ("beef 0100 0001 0000 0000 0000 016100 0029 0001", not_imp),
    ] {
        assert_eq!(rcode(text), expected, "{text}");
    }
}

#[test]
fn a_name_has_one_text_whatever_its_bytes() {
    let name = |text: &str| {
        let bytes = hex(&format!("beef 0100 0001 0000 0000 0000 {text} 0001 0001"));
        Query::decode(&bytes).unwrap().question().name.clone()
    };
    assert_eq!(name("0344422d 00".trim()), "db-");
    assert_eq!(name("03 612e62 00"), "a\\046b", "a dot inside a label is no dot");
    assert_eq!(name("02 c3bc 00"), "\\195\\188");
    assert_eq!(name("00"), "", "the root");
    assert_eq!(name("01 5c 00"), "\\092");
}

#[test]
fn addresses_are_those_of_the_name_and_of_where_its_aliases_lead() {
    let asked = question("www.a", A);
    let records = [
        ("www.a", CNAME, 300, labels("b.cdn")),
        ("evil.a", A, 300, vec![6, 6, 6, 6]),
        ("b.cdn", CNAME, 300, labels("c.cdn")),
        ("c.cdn", A, 5, vec![10, 0, 0, 1]),
        ("c.cdn", 16, 5, b"\x04text".to_vec()),
        ("c.cdn", A, u32::MAX, vec![10, 0, 0, 2]),
        ("c.cdn", A, 5, vec![10, 0, 0]),
    ];
    let read = Reply::decode(reply(1, &asked, &records), 1, &asked).unwrap();
    assert_eq!(read.aliases, ["b.cdn", "c.cdn"]);
    let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    assert_eq!(read.addresses, [(one, 5), (two, 0)], "a TTL beyond 31 bits is none");
}

#[test]
fn aliases_in_a_circle_and_chains_without_end_are_left() {
    let asked = question("a", A);
    let circle = [("a", CNAME, 1, labels("b")), ("b", CNAME, 1, labels("a")), ("b", A, 1, vec![1, 1, 1, 1])];
    let read = Reply::decode(reply(1, &asked, &circle), 1, &asked).unwrap();
    assert_eq!((read.aliases.len(), read.addresses.len()), (1, 1));
    let names: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
    let chain: Vec<_> = names.windows(2).map(|pair| (pair[0].as_str(), CNAME, 1, labels(&pair[1]))).collect();
    let asked = question("n0", A);
    assert_eq!(Reply::decode(reply(1, &asked, &chain), 1, &asked).unwrap().aliases.len(), 16);
}

#[test]
fn an_answer_to_something_else_is_none() {
    let asked = question("www.a", A);
    let bytes = reply(1, &asked, &[("www.a", A, 60, vec![10, 0, 0, 1])]);
    assert!(Reply::decode(bytes.clone(), 1, &asked).is_some());
    assert!(Reply::decode(bytes.clone(), 2, &asked).is_none(), "another id");
    assert!(Reply::decode(bytes.clone(), 1, &question("www.b", A)).is_none(), "another name");
    assert!(Reply::decode(bytes.clone(), 1, &question("www.a", AAAA)).is_none(), "another type");
    assert!(Reply::decode(ask(1, &asked).unwrap(), 1, &asked).is_none(), "a query");
    let cut = Reply::decode(bytes[..bytes.len() - 1].to_vec(), 1, &asked).unwrap();
    assert!(cut.addresses.is_empty(), "records that cannot be read say nothing");
}

/// A name that points at itself, forwards, or back and forth for ever.
#[test]
fn pointers_only_lead_back() {
    let asked = question("a", A);
    for tail in ["c00f", "c013", "c01d", "c0ff", "ffff", "0161 c013"] {
        let mut bytes = reply(1, &asked, &[]);
        bytes[7] = 1;
        bytes.extend_from_slice(&hex(tail));
        bytes.extend_from_slice(&hex("0001 0001 00000001 0004 01010101"));
        assert!(Reply::decode(bytes, 1, &asked).is_none_or(|read| read.addresses.is_empty()), "{tail}");
    }
    let mut bytes = reply(1, &asked, &[]);
    bytes[7] = 1;
    bytes.extend_from_slice(&hex("c00c 0001 0001 00000001 0004 01010101"));
    assert_eq!(Reply::decode(bytes, 1, &asked).unwrap().addresses.len(), 1);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Query::decode(&bytes);
        let _ = Reply::decode(bytes, 0, &question("a", A));
    }

    #[test]
    fn what_is_asked_is_what_is_read(name in "[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,60}){0,2}", kind in 1_u16..40, id: u16) {
        let query = Query::decode(&ask(id, &question(&name, kind)).unwrap()).unwrap();
        prop_assert_eq!(query.question(), &question(&name, kind));
        prop_assert_eq!(query.forward(id, &name).unwrap(), ask(id, &question(&name, kind)).unwrap());
    }
}

#[test]
fn the_names_of_an_address_are_answered_as_far_as_they_are_names() {
    let query = Query::decode(&ask(7, &question("9.0.50.10.in-addr.arpa", PTR)).unwrap()).unwrap();
    let answer = query.answer_names(&["db.lan".to_owned(), "a b".to_owned(), "db".to_owned()], 30);
    let asked = ask(7, query.question()).unwrap();
    let records = hex("c00c 000c 0001 0000001e 0008 026462036c616e00 c00c 000c 0001 0000001e 0004 02646200");
    assert_eq!(answer[..12], hex("0007 8180 0001 0002 0000 0000"));
    assert_eq!(answer[12..], [&asked[12..], &records].concat());
}
