//! Messages: CBOR maps with integer keys (RFC 8949), so that a newer peer may add a key and an older one skips it.
//!
//! On a stream a message is preceded by its length in bytes, a big-endian u32; on the session, before login, one DATA
//! frame holds one message.

use bytes::{BufMut, Bytes, BytesMut};
use minicbor::{Decode, Encode};

use super::ProtocolError;

/// Size of the length before a message on a stream, in bytes.
pub const LENGTH_BYTES: usize = 4;
/// Longest message on a stream, in bytes: it must fit into the first credit of a new stream.
pub const MESSAGE_BYTES_MAX: usize = 60 * 1024;

/// A message as it stands in a DATA frame of the session.
pub fn encode<M: Encode<()>>(message: &M) -> Bytes {
    let mut out = Vec::new();
    // Encoding into memory cannot fail: the error type of a `Vec` is `Infallible`.
    let _ = minicbor::encode(message, &mut out);
    out.into()
}

/// Reads a message that is all of `bytes`; `what` names it in the error.
pub fn decode<'b, M: Decode<'b, ()>>(what: &'static str, bytes: &'b [u8]) -> Result<M, ProtocolError> {
    let malformed = |why: String| ProtocolError::Malformed { what, why };
    let mut decoder = minicbor::Decoder::new(bytes);
    let message = decoder.decode().map_err(|error| malformed(error.to_string()))?;
    match bytes.len() - decoder.position() {
        0 => Ok(message),
        rest => Err(malformed(format!("{rest} bytes behind its end"))),
    }
}

/// A message as it stands on a stream: its length, then itself.
pub fn encode_prefixed<M: Encode<()>>(message: &M) -> Bytes {
    prefixed(&encode(message))
}

/// As [`encode_prefixed`], of a message that is encoded already.
pub fn prefixed(body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(LENGTH_BYTES + body.len());
    out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(body);
    out.freeze()
}

/// The length that precedes a message, checked before anything is allocated for it.
pub fn decode_length(what: &'static str, prefix: [u8; LENGTH_BYTES]) -> Result<usize, ProtocolError> {
    match usize::try_from(u32::from_be_bytes(prefix)) {
        Ok(length) if length <= MESSAGE_BYTES_MAX => Ok(length),
        _ => {
            let why = format!("{} bytes, the limit is {MESSAGE_BYTES_MAX}", u32::from_be_bytes(prefix));
            Err(ProtocolError::Malformed { what, why })
        }
    }
}

/// Reads an enum of messages: a map with one entry, the variant's number and its message. Keys that `read` does not
/// know are skipped.
pub(super) fn decode_one_of<'b, M>(
    d: &mut minicbor::Decoder<'b>,
    mut read: impl FnMut(&mut minicbor::Decoder<'b>, u32) -> Result<Option<M>, minicbor::decode::Error>,
) -> Result<M, minicbor::decode::Error> {
    let mut message = None;
    let entries = d.map()?.ok_or_else(|| minicbor::decode::Error::message("a map of unknown length"))?;
    for _ in 0..entries {
        let key = d.u32()?;
        match read(d, key)? {
            Some(found) => message = Some(found),
            None => d.skip()?,
        }
    }
    message.ok_or_else(|| minicbor::decode::Error::message("no message that is known here"))
}
