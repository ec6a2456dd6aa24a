//! One UDP socket of the lender on one stream: what is asked for, and the datagrams that follow the answer.
//!
//! ```text
//!   length u16 · kind u8 · port u16 · address 4 or 16 · body           length: of all behind itself
//!   kind 0x04, 0x06  a datagram to or from the address; body: its bytes
//!        0x14, 0x16  a datagram to the address failed at the lender; body: errno u16
//!        0x24, 0x26  the policy refuses the address; body: a Refusal. Told once, then as 0x14, 0x16 with EACCES
//! ```
//! The low four bits are the family, 4 or 6. Only a datagram goes both ways; other kinds are skipped, so that a newer peer
//! may send them.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use super::{Errno, ProtocolError, REFUSAL_NOTES_MAX, REFUSAL_TEXT_MAX, Refusal, message};

/// Longest payload of a datagram, in bytes: what an IPv4 packet holds behind its header and that of UDP.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Kind and port, before the address.
const FIXED_BYTES: usize = 3;
const LENGTH_BYTES: usize = 2;
/// What a refusal has at most, in bytes: its texts, each with its length, and its numbers.
const REFUSED_BYTES_MAX: usize = (1 + REFUSAL_NOTES_MAX) * (REFUSAL_TEXT_MAX + 3) + 16;
// Even the longest has its length in 16 bits, and fits into the first credit of a stream.
const _: () = assert!(FIXED_BYTES + 16 + DATAGRAM_BYTES_MAX <= u16::MAX as usize);

const DATAGRAM: u8 = 0x00;
const FAILED: u8 = 0x10;
const REFUSED: u8 = 0x20;
const IPV4: u8 = 4;
const IPV6: u8 = 6;

/// A UDP socket to open at the lender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpBind {
    /// Where; its family is that of the socket.
    pub address: SocketAddr,
    /// Whether strangers may reach it, and be answered: judged as listening. Otherwise the port is the kernel's choice, and
    /// nothing comes but from where something was sent to.
    pub listen: bool,
    /// IPV6_V6ONLY: the wildcard of IPv6 leaves IPv4 alone.
    pub v6_only: bool,
}

/// One message on the stream of a UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpMessage<'a> {
    /// The far end: where a datagram goes to or came from.
    pub peer: SocketAddr,
    /// What of it.
    pub body: UdpBody<'a>,
}

/// What a message on the stream of a UDP socket says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UdpBody<'a> {
    /// A datagram.
    Datagram(&'a [u8]),
    /// A datagram was not delivered: by an ICMP error, or by the lender's own kernel.
    Failed(Errno),
    /// The policy says no to this address.
    Refused(Refusal),
    /// A kind that this build does not know.
    Unknown,
}

impl<'a> UdpMessage<'a> {
    /// A datagram to or from `peer`.
    pub fn datagram(peer: SocketAddr, payload: &'a [u8]) -> Self {
        Self { peer, body: UdpBody::Datagram(payload) }
    }

    /// How long it is on the wire at most, in bytes; of a datagram exactly.
    pub fn wire_bytes(&self) -> usize {
        let address = if self.peer.is_ipv4() { 4 } else { 16 };
        let body = match &self.body {
            UdpBody::Datagram(payload) => payload.len(),
            UdpBody::Failed(_) => 2,
            UdpBody::Refused(_) => REFUSED_BYTES_MAX,
            UdpBody::Unknown => 0,
        };
        LENGTH_BYTES + FIXED_BYTES + address + body
    }

    /// Whether it is a datagram of more than [`DATAGRAM_BYTES_MAX`]: IPv6 has 20 bytes more than IPv4, and no link carries them.
    pub fn is_too_long(&self) -> bool {
        matches!(self.body, UdpBody::Datagram(payload) if payload.len() > DATAGRAM_BYTES_MAX)
    }

    /// Writes it behind `out`; a body that is too long for a message is cut, and what is unknown is not written.
    pub fn encode(&self, out: &mut BytesMut) {
        let refusal;
        let failed;
        let (kind, body): (u8, &[u8]) = match &self.body {
            UdpBody::Datagram(payload) => (DATAGRAM, payload.get(..DATAGRAM_BYTES_MAX).unwrap_or(payload)),
            UdpBody::Failed(errno) => {
                failed = errno.0.to_be_bytes();
                (FAILED, &failed)
            }
            UdpBody::Refused(no) => {
                refusal = message::encode(no);
                (REFUSED, &refusal)
            }
            UdpBody::Unknown => return,
        };
        let address_bytes = if self.peer.is_ipv4() { 4 } else { 16 };
        out.reserve(LENGTH_BYTES + FIXED_BYTES + address_bytes + body.len());
        // Each kind of body is bounded below 64 KiB.
        out.put_u16(u16::try_from(FIXED_BYTES + address_bytes + body.len()).unwrap_or(u16::MAX));
        out.put_u8(kind | if self.peer.is_ipv4() { IPV4 } else { IPV6 });
        out.put_u16(self.peer.port());
        match self.peer.ip() {
            IpAddr::V4(ip) => out.put_slice(&ip.octets()),
            IpAddr::V6(ip) => out.put_slice(&ip.octets()),
        }
        out.put_slice(body);
    }

    /// How many bytes the first message in `bytes` has, once all of them are there.
    pub fn whole(bytes: &[u8]) -> Option<usize> {
        let length = LENGTH_BYTES + usize::from(u16::from_be_bytes(*bytes.first_chunk()?));
        (bytes.len() >= length).then_some(length)
    }

    /// Reads one message, which is all of `bytes`.
    ///
    /// # Errors
    /// What is shorter than its kind breaks the protocol, and so does a datagram that is too long for UDP.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut rest = Rest(bytes);
        let _length: [u8; LENGTH_BYTES] = rest.take()?;
        let [kind, high, low] = rest.take()?;
        let ip = match kind & 0x0f {
            IPV4 => IpAddr::from(rest.take::<4>()?),
            IPV6 => IpAddr::from(rest.take::<16>()?),
            _ => return Err(malformed("an address is of family 4 or 6")),
        };
        let body = match kind & 0xf0 {
            DATAGRAM if rest.0.len() > DATAGRAM_BYTES_MAX => return Err(malformed("it is longer than 65,507 bytes")),
            DATAGRAM => UdpBody::Datagram(rest.0),
            FAILED => UdpBody::Failed(Errno(u16::from_be_bytes(rest.take()?))),
            REFUSED => UdpBody::Refused(message::decode("refusal of a datagram", rest.0)?),
            _ => UdpBody::Unknown,
        };
        Ok(Self { peer: SocketAddr::new(ip, u16::from_be_bytes([high, low])), body })
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| malformed("it is cut off"))?;
        self.0 = rest;
        Ok(*head)
    }
}

fn malformed(why: &str) -> ProtocolError {
    ProtocolError::Malformed { what: "datagram", why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::{ErrorKind, Request};

    fn wire(peer: &str, body: UdpBody<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        UdpMessage { peer: peer.parse().unwrap(), body }.encode(&mut out);
        out
    }

    #[test]
    fn datagrams_and_their_errors_have_their_golden_bytes() {
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        for (peer, body, golden) in [
            ("10.0.0.1:53", UdpBody::Datagram(b"hi"), "00090400350a0000016869"),
            ("[fd00::1]:53", UdpBody::Datagram(b""), "0013060035fd000000000000000000000000000001"),
            ("10.0.0.1:53", UdpBody::Failed(Errno::ECONNREFUSED), "00091400350a000001006f"),
            (
                "10.0.0.1:53",
                UdpBody::Refused(Refusal::new(ErrorKind::Policy, "no").with_errno(Some(Errno::EACCES))),
                "00122400350a000001a40007010d02626e6f0380",
            ),
        ] {
            let bytes = wire(peer, body.clone());
            assert_eq!(hex(&bytes), golden);
            assert_eq!(UdpMessage::whole(&bytes), Some(bytes.len()));
            assert_eq!(UdpMessage::decode(&bytes), Ok(UdpMessage { peer: peer.parse().unwrap(), body }));
        }
    }

    #[test]
    fn the_request_has_its_golden_bytes_and_a_port_of_its_own_only_where_it_listens() {
        let bind = |address: &str, listen| {
            Request::UdpBind(UdpBind { address: address.parse().unwrap(), listen, v6_only: false })
        };
        let wire = message::encode(&bind("10.0.0.2:53", true));
        assert_eq!(data_encoding::HEXLOWER.encode(&wire), "a400687564702d62696e6401460a000002003502f503f4");
        assert_eq!(Request::decode(&wire), Ok(Ok(bind("10.0.0.2:53", true))));
        let any = bind("[::]:0", false);
        assert_eq!(Request::decode(&message::encode(&any)), Ok(Ok(any)));
        assert!(Request::decode(&message::encode(&bind("10.0.0.2:53", false))).is_err());
    }

    #[test]
    fn the_longest_datagram_fits_and_a_longer_one_does_not() {
        let payload = vec![7; DATAGRAM_BYTES_MAX];
        let bytes = wire("[fd00::1]:1", UdpBody::Datagram(&payload));
        assert_eq!(UdpMessage::decode(&bytes).unwrap().body, UdpBody::Datagram(&payload));
        let longer = [7; DATAGRAM_BYTES_MAX + 1];
        let of = |payload| UdpMessage::datagram("[fd00::1]:1".parse().unwrap(), payload).is_too_long();
        assert!(of(&longer) && !of(&longer[1..]));
        let mut longer = bytes.to_vec();
        longer.push(7);
        assert!(UdpMessage::decode(&longer).is_err());
    }

    #[test]
    fn what_is_cut_off_waits_and_what_is_too_short_breaks_the_protocol() {
        let bytes = wire("10.0.0.1:53", UdpBody::Failed(Errno::ECONNREFUSED));
        for length in 0..bytes.len() {
            assert_eq!(UdpMessage::whole(&bytes[..length]), None);
            assert!(UdpMessage::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(
            UdpMessage::decode(b"\x00\x01\x04").is_err() && UdpMessage::decode(b"\x00\x07\x05\0\0\0\0\0\0").is_err()
        );
        let newer = b"\x00\x09\x34\x00\x35\x0a\x00\x00\x01\xff\xff";
        assert_eq!(UdpMessage::decode(newer).unwrap().body, UdpBody::Unknown);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = UdpMessage::decode(&bytes);
            prop_assert!(UdpMessage::whole(&bytes).is_none_or(|length| length <= bytes.len()));
        }
    }
}
