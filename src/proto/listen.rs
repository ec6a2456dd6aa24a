//! Listening at the lender: what is asked for, what was bound, and each connection that comes.
//!
//! ```text
//!   borrower                                     lender
//!      ├── tcp-listen or unix-listen ───────────▶ │     a stream of the borrower's: the listener
//!      │ ◀────────────────────────── Listening ───┤
//!      │ ◀──────────────────────────── Accepted ──┤     a stream of the lender's, one for each connection;
//!      │ ◀──────────────────── the peer's bytes ──┤     they do not wait
//!      ├── Ready, then the borrower's bytes ────▶ │     it was accepted: the place among the pending is free
//!      ├── FIN or RST on the first stream ──────▶ │     the port is closed; connections go on
//! ```

use std::net::SocketAddr;

use minicbor::{Decode, Encode};

use super::{ProtocolError, WireAddr, message};

/// Connections of one listener that the lender announces and the borrower has not accepted; the others wait in the
/// lender's kernel, as behind any server that is slow.
pub const PENDING_MAX: usize = 128;
/// What a listener gets that asks for no other length of its kernel's queue: what most servers ask for, and what Linux
/// gives at most by default is not far above.
pub const BACKLOG: u32 = 1024;
/// The name of [`Accepted`] on the wire.
const ACCEPTED: &str = "accepted";

/// A TCP port to bind at the lender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpListen {
    /// Where; its family is that of the socket. Port 0: any of those that the policy allows.
    pub address: SocketAddr,
    /// How many connections may wait in the lender's kernel. `None`: it is bound only, and listens at a [`StartListening`].
    pub backlog: Option<u32>,
    /// IPV6_V6ONLY: the wildcard of IPv6 leaves IPv4 alone.
    pub v6_only: bool,
    /// SO_REUSEADDR: connections of an earlier listener that linger do not keep the port.
    pub reuse_address: bool,
}

/// A Unix socket to create at the lender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixListen {
    /// Where; absolute.
    pub path: Vec<u8>,
    /// As in [`TcpListen`].
    pub backlog: Option<u32>,
}

/// A port is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Listening {
    /// The address, with the port that was picked.
    #[n(0)]
    pub local: WireAddr,
}

/// It stands, and there is nothing to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Ready {}

/// Listen now, or with another backlog: on the stream of what was bound. Answered with [`Ready`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StartListening {
    /// As in [`TcpListen`].
    #[n(0)]
    pub backlog: u32,
}

/// The first message on a stream that the lender opens: a connection has come. The borrower answers with [`Ready`] when
/// its program accepts it; the peer's bytes follow at once.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Accepted {
    #[n(0)]
    name: String,
    /// The number of the listener's stream.
    #[n(1)]
    pub listener: u64,
    /// Who connected; none over a Unix socket.
    #[n(2)]
    pub peer: Option<WireAddr>,
    /// The lender's own address of this connection; none over a Unix socket.
    #[n(3)]
    pub local: Option<WireAddr>,
}

impl Accepted {
    /// A connection of the listener with this stream.
    pub fn new(listener: super::StreamId, ends: Option<(SocketAddr, SocketAddr)>) -> Self {
        let (peer, local) = ends.map(|(peer, local)| (WireAddr(peer), WireAddr(local))).unzip();
        Self { name: ACCEPTED.to_owned(), listener: listener.number(), peer, local }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is something else, or cannot be read.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let accepted: Self = message::decode("accepted", bytes)?;
        match accepted.name.as_str() {
            ACCEPTED => Ok(accepted),
            other => {
                let got = other.chars().take(64).collect();
                Err(ProtocolError::Unexpected { expected: ACCEPTED, got })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Request, StreamId};

    fn hex(bytes: &[u8]) -> String {
        data_encoding::HEXLOWER.encode(bytes)
    }

    #[test]
    fn requests_to_listen_have_their_golden_bytes() {
        let listen = TcpListen {
            address: "0.0.0.0:8080".parse().unwrap(),
            backlog: Some(128),
            v6_only: false,
            reuse_address: true,
        };
        for (request, wire) in [
            (Request::TcpListen(listen), "a5006a7463702d6c697374656e0146000000001f9002188003f404f5"),
            (
                Request::TcpListen(TcpListen {
                    address: "[::1]:0".parse().unwrap(),
                    backlog: None,
                    v6_only: true,
                    reuse_address: false,
                }),
                "a4006a7463702d6c697374656e015200000000000000000000000000000001000003f504f4",
            ),
            (Request::UnixConnect(b"/run/a".to_vec()), "a2006c756e69782d636f6e6e65637401462f72756e2f61"),
            (
                Request::UnixListen(UnixListen { path: b"/run/a".to_vec(), backlog: Some(5) }),
                "a3006b756e69782d6c697374656e01462f72756e2f610205",
            ),
            (
                Request::UnixListen(UnixListen { path: b"/run/a".to_vec(), backlog: None }),
                "a2006b756e69782d6c697374656e01462f72756e2f61",
            ),
        ] {
            assert_eq!(hex(&message::encode(&request)), wire, "{request:?}");
            let bytes = data_encoding::HEXLOWER.decode(wire.as_bytes()).unwrap();
            assert_eq!(Request::decode(&bytes), Ok(Ok(request)));
        }
    }

    #[test]
    fn what_a_newer_peer_leaves_out_is_no_and_what_is_missing_breaks_the_protocol() {
        let bare = data_encoding::HEXLOWER.decode(b"a2006a7463702d6c697374656e0146000000001f90").unwrap();
        let listen =
            TcpListen { address: "0.0.0.0:8080".parse().unwrap(), backlog: None, v6_only: false, reuse_address: false };
        assert_eq!(Request::decode(&bare), Ok(Ok(Request::TcpListen(listen))));
        let without_address = data_encoding::HEXLOWER.decode(b"a1006a7463702d6c697374656e").unwrap();
        assert!(Request::decode(&without_address).is_err());
        for path in [&b""[..], &[b'x'; 5000]] {
            let wire = message::encode(&Request::UnixConnect(path.to_vec()));
            assert!(Request::decode(&wire).is_err(), "{} bytes", path.len());
        }
    }

    #[test]
    fn what_is_said_of_a_listener_has_its_golden_bytes() {
        let ends = Some(("10.0.0.1:80".parse().unwrap(), "10.0.0.2:81".parse().unwrap()));
        let accepted = Accepted::new(StreamId::new(7).unwrap(), ends);
        let wire = message::encode(&accepted);
        assert_eq!(hex(&wire), "a400686163636570746564010702460a000001005003460a0000020051");
        assert_eq!(Accepted::decode(&wire), Ok(accepted));
        let local = Accepted::new(StreamId::new(7).unwrap(), None);
        let wire = message::encode(&local);
        assert_eq!(hex(&wire), "a2006861636365707465640107");
        assert_eq!(Accepted::decode(&wire), Ok(local));
        let other = data_encoding::HEXLOWER.decode(b"a200666163636570740107").unwrap();
        assert!(matches!(Accepted::decode(&other), Err(ProtocolError::Unexpected { .. })));
        assert_eq!(hex(&message::encode(&StartListening { backlog: 5 })), "a10005");
        assert_eq!(hex(&message::encode(&Ready {})), "a0");
        let listening = Listening { local: WireAddr("10.0.0.1:80".parse().unwrap()) };
        assert_eq!(hex(&message::encode(&listening)), "a100460a0000010050");
    }
}
