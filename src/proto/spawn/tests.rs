use super::*;
use crate::proto::Request;

fn spawn() -> Spawn {
    Spawn {
        what: Program::Exec,
        arguments: 2,
        variables: 1,
        words_bytes: 14,
        folder: None,
        terminal: None,
        piped: [true, true, false],
        detach: false,
        offered: Vec::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[test]
fn golden_bytes() {
    let encoded = message::encode(&Request::Spawn(spawn()));
    assert_eq!(hex(&encoded), "a70065737061776e0164657865630202030104 0e070308f4".replace(' ', ""));
    let offered = message::encode(&Request::Spawn(Spawn { offered: vec![b"LANG=C".to_vec()], ..spawn() }));
    assert_eq!(hex(&offered), "a80065737061776e0164657865630202030104 0e070308f40981464c414e473d43".replace(' ', ""));
    let stdio = message::encode(&Request::SpawnStdio(SpawnStdio { spawn: 1, which: Stdio::Err }));
    assert_eq!(hex(&stdio), "a3006b737061776e2d737464696f01010202");
    for (message, golden) in [
        (ToProgram::Signal(15), "a1000f"),
        (ToProgram::Resize(TerminalSize::default()), "a101a400185001181802000300"),
        (ToProgram::Detach, "a102f5"),
    ] {
        let encoded = message::encode(&message);
        assert_eq!(hex(&encoded), golden);
        assert_eq!(message::decode::<ToProgram>("message", &encoded), Ok(message));
    }
    for (message, golden) in [(FromProgram::Exited(255), "a10018ff"), (FromProgram::Signalled(9), "a10109")] {
        let encoded = message::encode(&message);
        assert_eq!(hex(&encoded), golden);
        assert_eq!(message::decode::<FromProgram>("message", &encoded), Ok(message));
    }
}

#[test]
fn a_request_reads_as_it_was_written() {
    let terminal = Terminal {
        term: "xterm-256color".to_owned(),
        size: TerminalSize::default(),
        modes: vec![Mode { opcode: 1, value: 3 }],
    };
    let shell = Spawn { what: Program::Shell, arguments: 0, ..spawn() };
    let whole = Spawn { folder: Some(b"/srv/\xff".to_vec()), terminal: Some(terminal), detach: true, ..spawn() };
    let offering = Spawn { offered: vec![b"A=\xff=".to_vec(), b"B=".to_vec()], ..whole.clone() };
    for request in [spawn(), shell, whole, offering] {
        let encoded = message::encode(&Request::Spawn(request.clone()));
        assert_eq!(Request::decode(&encoded), Ok(Ok(Request::Spawn(request))));
    }
}

#[test]
fn what_no_program_has_breaks_the_protocol() {
    let terminal = |term: &str| {
        let terminal = Terminal { term: term.to_owned(), size: TerminalSize::default(), modes: Vec::new() };
        Spawn { terminal: Some(terminal), ..spawn() }
    };
    let offering = |variables: &[&[u8]]| Spawn { offered: variables.iter().map(|it| it.to_vec()).collect(), ..spawn() };
    for request in [
        Spawn { words_bytes: WORDS_BYTES_MAX + 1, ..spawn() },
        Spawn { arguments: WORDS_MAX, ..spawn() },
        Spawn { arguments: 0, ..spawn() },
        Spawn { what: Program::Shell, ..spawn() },
        Spawn { folder: Some(vec![b'x'; FOLDER_BYTES_MAX + 1]), ..spawn() },
        offering(&[b"LANG"]),
        offering(&[b"LANG=C\0x"]),
        offering(&[&b"A="[..]; OFFERED_MAX + 1]),
        offering(&[&[b'='; OFFERED_BYTES_MAX][..], b"="]),
        terminal("x\x1b[2J"),
        terminal(&"x".repeat(TERM_BYTES_MAX + 1)),
    ] {
        let encoded = message::encode(&Request::Spawn(request.clone()));
        assert!(Request::decode(&encoded).is_err(), "{request:?}");
    }
}

#[test]
fn words_are_as_many_as_the_request_says() {
    let request = spawn();
    let (arguments, variables) = request.split_words(b"echo\0\xff b\0A=1\0").unwrap();
    assert_eq!((arguments, variables), (vec![b"echo".to_vec(), b"\xff b".to_vec()], vec![b"A=1".to_vec()]));
    for wrong in [&b"echo\0b\0A=1"[..], b"echo\0b\0", b"", b"\0", b"a\0b\0c\0d\0"] {
        assert!(request.split_words(wrong).is_err(), "{wrong:?}");
    }
}
