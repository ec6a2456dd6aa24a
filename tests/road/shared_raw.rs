//! Commands that speak raw frames to the one that shares its session.

use std::net::TcpStream;

use capuchin::proto::{
    Accepted, Answer, ErrorKind, Frame, FromLender, Kind, Listening, Ready, Request, ServiceListen, StartListening,
    StreamId, TcpListen, UdpBind, message,
};

use crate::{
    dial, echo, origin,
    remote::forward,
    round_trip,
    shared::{address, is_open, keep, policy, session_of},
    support::{
        Home, Lab,
        peer::{Peer, frame, peer_login},
    },
};

fn share_socket(home: &Home) -> std::path::PathBuf {
    std::fs::read_dir(home.runtime().join("capuchin/share")).unwrap().next().unwrap().unwrap().path()
}

/// A command that speaks raw frames.
async fn raw(home: &Home) -> Peer<tokio::net::UnixStream> {
    let mut peer = Peer::knock(&share_socket(home)).await;
    assert!(matches!(peer.log_in_with(peer_login(None)).await, FromLender::Welcome(_)));
    peer
}

/// The next message, and the number of its stream.
async fn hear_message<M: for<'b> minicbor::Decode<'b, ()>>(peer: &mut Peer<tokio::net::UnixStream>) -> (u64, M) {
    loop {
        match peer.hear().await.expect("a message") {
            Frame::Data { stream, payload, .. } => {
                return (stream.number(), message::decode("message", &payload[message::LENGTH_BYTES..]).unwrap());
            }
            Frame::Goaway(goaway) => panic!("{goaway:?}"),
            _ => {}
        }
    }
}

fn listen() -> Request {
    let address = "127.0.0.1:0".parse().unwrap();
    Request::TcpListen(TcpListen { address, backlog: Some(8), v6_only: false, reuse_address: true })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_command_harms_itself_alone() {
    let lab = Lab::start(&policy());
    let home = lab.join("alice");
    let _shared = keep(&home);
    let server = origin(echo);
    let spec = format!("0:{server}");
    let (_honest, open) = forward(&home, &["-L", &spec, "-R", &spec], 2);
    let stays = dial(address(&open[0]));
    round_trip(&stays, b"before").unwrap();
    let request = |request: &Request| message::encode_prefixed(request).to_vec();
    let syn = |stream, bytes: &[u8]| frame(stream, Kind::Data, true, false, bytes);
    let data = |stream, bytes: &[u8]| frame(stream, Kind::Data, false, false, bytes);
    let accepted = Accepted::new(StreamId::new(1).unwrap(), None);
    let bind = Request::UdpBind(UdpBind { address: "127.0.0.1:0".parse().unwrap(), listen: false, v6_only: false });
    let service = Request::ServiceListen(ServiceListen { name: "x".to_owned(), at_once: None });
    let answer = message::encode_prefixed(&Answer::Granted(Ready {}));
    for (what, bytes) in [
        ("two listeners with one number", [syn(1, &request(&listen())), syn(1, &request(&listen()))].concat()),
        ("no request at all", syn(1, &[0xff; 64])),
        ("a word to a listener that is none", [syn(1, &request(&listen())), data(1, &[0xff; 32])].concat()),
        ("the same of a service", [syn(1, &request(&service)), data(1, &answer)].concat()),
        ("datagrams that are none", [syn(1, &request(&bind)), data(1, &[0, 3, 7, 0, 53])].concat()),
        ("no frames at all", vec![0xff; 4096]),
        ("resets without end", {
            let connect = Request::TcpConnect("127.0.0.1:1".parse().unwrap());
            let one = |number: u64| {
                let stream = 2 * number + 1;
                [syn(stream, &request(&connect)), frame(stream, Kind::Rst, false, false, &[0; 4])].concat()
            };
            (0..3000).flat_map(one).collect()
        }),
    ] {
        let mut peer = raw(&home).await;
        peer.send(&bytes).await;
        eprintln!("after {what}");
        let goaway = peer.hear_goaway().await;
        assert_eq!(goaway.kind, ErrorKind::Protocol, "{goaway:?}");
        round_trip(&stays, b"after").unwrap();
        round_trip(&dial(address(&open[0])), b"new").unwrap();
        round_trip(&dial(address(&open[1])), b"new").unwrap();
    }
    // Only a lender may say that somebody has come.
    let mut peer = raw(&home).await;
    peer.send(&syn(1, &message::encode_prefixed(&accepted))).await;
    let refused = hear_message::<Answer<Ready>>(&mut peer).await.1;
    assert!(matches!(refused, Answer::Refused(refusal) if refusal.kind() == ErrorKind::Version));
    let shared = session_of(&home, "connect");
    assert!(shared.is_string(), "it is up");
    assert!(lab.audit().iter().all(|line| line["event"] != "session-ended" || line["session"] != shared));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_only_bound_listens_when_it_is_told_to() {
    let lab = Lab::start(&policy());
    let home = lab.join("alice");
    let _shared = keep(&home);
    let mut peer = raw(&home).await;
    let Request::TcpListen(wanted) = listen() else { unreachable!() };
    let bound = Request::TcpListen(TcpListen { backlog: None, ..wanted });
    peer.send(&frame(1, Kind::Data, true, false, &message::encode_prefixed(&bound))).await;
    let (_, Answer::Granted(listening)) = hear_message::<Answer<Listening>>(&mut peer).await else { panic!("refused") };
    assert!(!is_open(listening.local.0));
    let word = message::encode_prefixed(&StartListening { backlog: 8 });
    // In two pieces, as it may come.
    peer.send(&frame(1, Kind::Data, false, false, &word[..5])).await;
    peer.send(&frame(1, Kind::Data, false, false, &word[5..])).await;
    assert!(matches!(hear_message::<Answer<Ready>>(&mut peer).await, (1, Answer::Granted(_))));
    let visitor = TcpStream::connect(listening.local.0).unwrap();
    let (stream, accepted) = hear_message::<Accepted>(&mut peer).await;
    assert_eq!((accepted.listener, stream % 2), (1, 0), "by our number of it");
    assert_eq!(accepted.peer.unwrap().0, visitor.local_addr().unwrap());
}
