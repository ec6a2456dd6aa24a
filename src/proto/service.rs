//! Services: names at the lender that one borrower listens as and others connect to.
//!
//! ```text
//!   who offers it                      lender                      who uses it
//!      ├── service-listen ────────────▶ │                            │
//!      │ ◀─────────────────── Ready ────┤                            │
//!      │                                │ ◀────── service-connect ───┤
//!      │ ◀──────────────── Accepted ────┤                            │
//!      ├── Ready ─────────────────────▶ ├── Ready ─────────────────▶ │     then bytes, both ways
//!      ├── FIN or RST of the first ───▶ │     the name is free; connections go on
//! ```
//! Towards who offers it a service is a listener like any other: see [`Accepted`](super::Accepted).

use minicbor::{Decode, Encoder, encode};

use super::{ProtocolError, message};

/// Longest name of a service, in bytes: that of the policy.
pub const SERVICE_NAME_MAX: usize = 255;

/// A name to listen as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceListen {
    /// The name, which is the lender's to judge.
    pub name: String,
    /// How many may be connected at a time, at least one; one more is refused as busy. `None`: as many as like.
    pub at_once: Option<u32>,
}

impl ServiceListen {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let ListenBody { name, at_once } = message::decode("request", bytes)?;
        Ok(Self { name, at_once })
    }

    pub(super) fn encode_body<W: encode::Write>(&self, e: &mut Encoder<W>) -> Result<(), encode::Error<W::Error>> {
        e.u8(1)?.str(&self.name)?;
        match self.at_once {
            Some(at_once) => e.u8(2)?.u32(at_once)?.ok(),
            None => Ok(()),
        }
    }

    /// Entries of its map, without the name of the request.
    pub(super) fn entries(&self) -> u64 {
        1 + u64::from(self.at_once.is_some())
    }
}

/// Reads the name that a `service-connect` is for.
pub(super) fn decode_connect(bytes: &[u8]) -> Result<String, ProtocolError> {
    let ConnectBody { name } = message::decode("request", bytes)?;
    Ok(name)
}

/// What else the policy asks of a name, the lender says.
pub(super) fn is_name(name: &str) -> bool {
    (1..=SERVICE_NAME_MAX).contains(&name.len())
}

/// What [`is_name`] asks for.
pub(super) const NAME_NEEDED: &str = "a service's name of 1 to 255 bytes is needed";

#[derive(Decode)]
#[cbor(map)]
struct ListenBody {
    #[n(1)]
    name: String,
    #[n(2)]
    at_once: Option<u32>,
}

#[derive(Decode)]
#[cbor(map)]
struct ConnectBody {
    #[n(1)]
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Request;

    #[test]
    fn requests_have_their_golden_bytes() {
        let listen = |at_once| Request::ServiceListen(ServiceListen { name: "pay".into(), at_once });
        for (request, wire) in [
            (listen(None), "a2006e736572766963652d6c697374656e0163706179"),
            (listen(Some(1)), "a3006e736572766963652d6c697374656e01637061790201"),
            (Request::ServiceConnect("pay".into()), "a2006f736572766963652d636f6e6e6563740163706179"),
        ] {
            assert_eq!(data_encoding::HEXLOWER.encode(&message::encode(&request)), wire, "{request:?}");
            let bytes = data_encoding::HEXLOWER.decode(wire.as_bytes()).unwrap();
            assert_eq!(Request::decode(&bytes), Ok(Ok(request)));
        }
    }

    #[test]
    fn names_have_a_length_and_a_service_takes_somebody() {
        for bytes in [0, SERVICE_NAME_MAX + 1] {
            let name = "x".repeat(bytes);
            for request in [
                Request::ServiceConnect(name.clone()),
                Request::ServiceListen(ServiceListen { name: name.clone(), at_once: None }),
            ] {
                assert!(Request::decode(&message::encode(&request)).is_err(), "{bytes} bytes");
            }
        }
        let nobody = ServiceListen { name: "x".repeat(SERVICE_NAME_MAX), at_once: Some(0) };
        assert!(Request::decode(&message::encode(&Request::ServiceListen(nobody))).is_err());
    }
}
