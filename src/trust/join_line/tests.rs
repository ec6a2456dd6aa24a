use proptest::prelude::*;

use super::*;

fn line() -> JoinLine {
    JoinLine {
        expires: UnixTime(1_700_000_000),
        lender: "lab".parse().unwrap(),
        addresses: vec!["lab.example:7443".to_owned(), "[fd00::1]:7443".to_owned()],
        id: InvitationId([1; 8]),
        secret: JoinSecret(Zeroizing::new([2; 16])),
        ca_key: [3; 32],
    }
}

/// A line of this content, with a right CRC.
fn sealed(content: &[u8]) -> String {
    let bytes = [content, &crc32fast::hash(content).to_be_bytes()].concat();
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
}

fn error_of(text: &str) -> JoinLineError {
    text.parse::<JoinLine>().err().unwrap_or_else(|| panic!("{text:?} was taken for a line"))
}

#[test]
fn a_line_says_the_same_to_the_one_who_pastes_it() {
    let text = line().encode().unwrap();
    let read: JoinLine = format!("  {}\n", *text).parse().unwrap();
    assert_eq!((read.expires, read.lender.as_str(), read.id), (UnixTime(1_700_000_000), "lab", InvitationId([1; 8])));
    assert_eq!(read.addresses, line().addresses);
    assert_eq!((read.secret.as_bytes(), read.ca_key), ([2; 16].as_slice(), [3; 32]));
}

#[test]
fn lines_look_the_same_in_every_version() {
    let golden = "cap1_AAAAAGVT8QABAQEBAQEBAQICAgICAgICAgICAgICAgIDAwMDAwMDAwMDAwMDAwMDAwMDAwMD\
                  AwMDAwMDAwMDAwNsYWICEGxhYi5leGFtcGxlOjc0NDMOW2ZkMDA6OjFdOjc0NDPVXyq9";
    assert_eq!(line().encode().unwrap().as_str(), golden);
}

#[test]
fn the_longest_line_fits_the_bound() {
    let longest = JoinLine {
        lender: "a".repeat(63).parse().unwrap(),
        addresses: vec![format!("{}:7443", "a".repeat(250)); 4],
        ..line()
    };
    let text = longest.encode().unwrap();
    assert!(text.len() <= JOIN_LINE_MAX);
    assert!(text.parse::<JoinLine>().is_ok());
}

#[test]
fn an_expired_line_is_told_by_the_clock_alone() {
    assert!(!line().is_expired(UnixTime(1_699_999_999)));
    assert!(line().is_expired(UnixTime(1_700_000_000)));
}

#[test]
fn what_is_not_a_line_is_told_from_a_damaged_and_a_newer_one() {
    let text = line().encode().unwrap();
    for other in
        ["", "cap", "cap_", "hello", "cap0_AAAA", "cap01_AAAA", "cap-1_AAAA", "Cap1_AAAA", "https://x/cap1_AAAA"]
    {
        assert_eq!(error_of(other), JoinLineError::NotALine, "{other:?}");
    }
    assert_eq!(error_of(&"cap1_".repeat(10_000)), JoinLineError::NotALine);
    assert_eq!(error_of(&text.replacen("cap1_", "cap2_", 1)), JoinLineError::Newer(2));
    assert_eq!(error_of(&text.replacen("cap1_", "cap4294967295_", 1)), JoinLineError::Newer(u32::MAX));
    assert_eq!(error_of("cap1_"), JoinLineError::Damaged);
    assert_eq!(error_of(&text.replacen("cap1_", "cap1_ ", 1)), JoinLineError::Damaged);
}

#[test]
fn a_line_cut_off_anywhere_is_refused() {
    let text = line().encode().unwrap();
    for end in 0..text.len() {
        assert!(text[..end].parse::<JoinLine>().is_err(), "cut at {end}");
    }
}

#[test]
fn a_line_with_any_one_character_changed_is_refused() {
    let text = line().encode().unwrap();
    for at in 0..text.len() {
        for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=!".chars() {
            if !text[at..].starts_with(other) {
                let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(changed.parse::<JoinLine>().is_err(), "{changed}");
            }
        }
    }
}

#[test]
fn a_whole_line_that_no_lender_makes_is_refused() {
    let head = [7; 8 + 8 + 16 + 32];
    let with = |tail: &[u8]| error_of(&sealed(&[&head, tail].concat()));
    assert_eq!(error_of(&sealed(&head[..63])), JoinLineError::Invalid("CA key"));
    assert_eq!(with(b""), JoinLineError::Invalid("lender name"));
    assert_eq!(with(b"\xff"), JoinLineError::Invalid("lender name"));
    assert_eq!(with(b"\x03LAB\x01\x03a:1"), JoinLineError::Invalid("lender name"));
    assert_eq!(with(b"\x03lab\x00"), JoinLineError::Invalid("address count"));
    assert_eq!(with(b"\x03lab\x05"), JoinLineError::Invalid("address count"));
    assert_eq!(with(b"\x03lab\x01\x00"), JoinLineError::Invalid("address"));
    assert_eq!(with(b"\x03lab\x01\x03a\x1b:"), JoinLineError::Invalid("address"));
    assert_eq!(with(b"\x03lab\x01\x03abc"), JoinLineError::Invalid("address"));
    assert_eq!(with(b"\x03lab\x01\x03a:1more"), JoinLineError::Invalid("length"));
    assert!(sealed(&[&head, b"\x03lab\x01\x03a:1".as_slice()].concat()).parse::<JoinLine>().is_ok());
}

#[test]
fn a_line_without_a_usable_address_is_not_made() {
    let bad = [vec![], vec!["a:1".to_owned(); 5], vec!["a b:1".to_owned()], vec![format!("{}:1", "a".repeat(255))]];
    for addresses in bad {
        let line = JoinLine { addresses, ..line() };
        assert!(matches!(line.encode(), Err(JoinLineError::Invalid("address"))), "{:?}", line.addresses);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,400}", body in "[A-Za-z0-9_-]{0,400}") {
        let _ = text.parse::<JoinLine>();
        let _ = format!("cap1_{body}").parse::<JoinLine>();
    }

    #[test]
    fn no_content_under_a_right_crc_panics(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = sealed(&content).parse::<JoinLine>();
    }

    #[test]
    fn every_line_is_read_as_it_was_written(
        expires: u64,
        lender in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        addresses in proptest::collection::vec("[!-~]{0,120}[:@][!-~]{0,120}", 1..=4),
        secret: [u8; 16],
    ) {
        let line = JoinLine {
            expires: UnixTime(expires),
            lender: lender.parse().unwrap(),
            addresses,
            secret: JoinSecret(Zeroizing::new(secret)),
            ..line()
        };
        let read: JoinLine = line.encode().unwrap().parse().unwrap();
        prop_assert_eq!((read.expires, read.lender, read.addresses), (line.expires, line.lender, line.addresses));
        prop_assert_eq!(read.secret.as_bytes(), secret.as_slice());
    }
}
