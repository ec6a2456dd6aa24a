//! The bytes of netlink(7): messages out of attributes that nest, and the acknowledgements of the kernel.
//!
//! As much of it as a network of one's own needs, so that no `ip` and no `nft` has to be installed.

use std::io;

/// `nlmsghdr`: length, kind, flags, sequence, port.
const HEADER_BYTES: usize = 16;
/// Everything begins at a multiple of four.
const ALIGNMENT: usize = 4;
/// An attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// The kernel's answer to a message: an error number, which is 0 when it went well.
const ERROR: u16 = 2;
/// The end of a dump.
pub const DONE: u16 = 3;

/// `NLM_F_REQUEST`, which every request has.
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`: the kernel answers, even if all went well.
pub const ACK: u16 = 4;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;

/// Messages that are sent together.
#[derive(Default)]
pub struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Messages {
    /// None yet; the first will have the number behind `sequence`.
    pub fn after(sequence: u32) -> Self {
        Self { sequence, ..Self::default() }
    }

    /// Adds a message, whose body `fill` writes, and gives its number.
    pub fn push(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Body<'_>)) -> u32 {
        let start = self.bytes.len();
        self.sequence = self.sequence.wrapping_add(1);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        fill(&mut Body(&mut self.bytes));
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.ends.push(self.bytes.len());
        self.sequence
    }

    /// All of them in pieces of so many at the most, each with the number of its last one.
    pub fn pieces(&self, count: usize) -> impl Iterator<Item = (&[u8], u32)> {
        let (mut start, before) = (0, self.sequence.wrapping_sub(self.ends.len() as u32));
        self.ends.chunks(count).scan(before, move |number, ends| {
            let piece = self.bytes.get(start..*ends.last()?)?;
            start += piece.len();
            *number = number.wrapping_add(ends.len() as u32);
            Some((piece, *number))
        })
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The inside of a message or of an attribute.
pub struct Body<'a>(&'a mut Vec<u8>);

impl Body<'_> {
    /// A structure of the kernel's, of a multiple of four bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// One attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.enclose(kind, |body| {
            body.raw(value);
        })
    }

    /// A text, with the zero at its end.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.enclose(kind, |body| {
            body.raw(value.as_bytes()).raw(&[0]);
        })
    }

    /// A number in the order of the network, as nf_tables has them.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Body<'_>)) -> &mut Self {
        self.enclose(kind | NESTED, fill)
    }

    fn enclose(&mut self, kind: u16, fill: impl FnOnce(&mut Body<'_>)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(&mut Body(self.0));
        // Without what fills it up.
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self
    }
}

/// One message of an answer.
pub struct Heard<'a> {
    /// What it is.
    pub kind: u16,
    /// Which request it answers.
    pub sequence: u32,
    /// What follows its header.
    pub body: &'a [u8],
}

/// The messages in a datagram; it ends where the bytes make no sense any more.
pub fn heard(mut datagram: &[u8]) -> impl Iterator<Item = Heard<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = datagram.get(HEADER_BYTES..length)?;
        datagram = datagram.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Heard { kind: u16::from_ne_bytes([k0, k1]), sequence: u32::from_ne_bytes([s0, s1, s2, s3]), body })
    })
}

/// Whether `datagram` has the kernel's word that everything up to message `last` went well.
///
/// # Errors
/// What went wrong first.
pub fn acknowledged(datagram: &[u8], last: u32) -> io::Result<bool> {
    let mut is_last = false;
    for Heard { kind, sequence, body } in heard(datagram) {
        if kind == ERROR {
            let number = body.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number));
            if number != 0 {
                return Err(io::Error::from_raw_os_error(number.saturating_neg()));
            }
            is_last |= sequence == last;
        }
    }
    Ok(is_last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_count_everything_but_what_fills_up() {
        let mut messages = Messages::default();
        let last = messages.push(16, REQUEST | ACK, |body| {
            body.raw(&[7; 4]).text(1, "b").nested(2, |inside| {
                inside.number(3, 9);
            });
        });
        let bytes = messages.bytes();
        let native = |text: &str| data_encoding::HEXLOWER.decode(text.replace(' ', "").as_bytes()).unwrap();
        #[cfg(target_endian = "little")]
        assert_eq!(
            bytes,
            native("28000000 1000 0500 01000000 00000000 07070707 0600 0100 62000000 0c00 0280 0800 0300 00000009")
        );
        assert_eq!((last, heard(bytes).count()), (1, 1));
    }

    #[test]
    fn pieces_are_whole_messages_and_all_of_them() {
        let mut messages = Messages::after(6);
        for length in 1..=7 {
            messages.push(16, REQUEST, |body| {
                body.raw(&vec![length; usize::from(length) * 4]);
            });
        }
        let pieces: Vec<_> = messages.pieces(3).collect();
        assert_eq!(
            pieces.iter().map(|(piece, last)| (heard(piece).count(), *last)).collect::<Vec<_>>(),
            [(3, 9), (3, 12), (1, 13)]
        );
        assert!(pieces.iter().all(|(piece, last)| heard(piece).last().unwrap().sequence == *last));
        assert_eq!(pieces.iter().flat_map(|(piece, _)| *piece).copied().collect::<Vec<_>>(), messages.bytes());
        assert_eq!(Messages::default().pieces(3).count(), 0);
    }

    #[test]
    fn an_answer_is_an_error_a_yes_or_not_the_last() {
        let answer = |sequence: u32, number: i32| {
            let mut messages = Messages { sequence: sequence - 1, ..Messages::default() };
            messages.push(ERROR, 0, |body| {
                body.raw(&number.to_ne_bytes());
            });
            messages.bytes().to_vec()
        };
        assert!(acknowledged(&answer(3, 0), 3).unwrap());
        assert!(!acknowledged(&answer(2, 0), 3).unwrap());
        assert_eq!(acknowledged(&answer(2, -95), 3).unwrap_err().raw_os_error(), Some(95));
        assert!(acknowledged(&answer(2, i32::MIN), 3).is_err());
    }

    #[test]
    fn an_answer_that_lies_about_its_length_ends_there() {
        for lie in [0_u32, 15, 17, 4096] {
            let mut bytes = vec![0; HEADER_BYTES];
            bytes[..4].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(heard(&bytes).count(), 0, "{lie}");
        }
    }

    /// Messages as they were put in.
    fn sent() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
        let body = proptest::collection::vec(any::<u32>(), 0..40);
        let body = body.prop_map(|words| words.iter().flat_map(|word| word.to_ne_bytes()).collect());
        proptest::collection::vec((any::<u16>(), body), 0..20)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(sent in sent(), after: u32, cut in 0..2000_usize) {
            let mut messages = Messages::after(after);
            for (kind, body) in &sent {
                messages.push(*kind, REQUEST, |inside| {
                    inside.raw(body);
                });
            }
            let read = |bytes| heard(bytes).map(|Heard { kind, body, .. }| (kind, body.to_vec())).collect::<Vec<_>>();
            prop_assert_eq!(read(messages.bytes()), sent.clone());
            let sequences: Vec<_> = heard(messages.bytes()).map(|heard| heard.sequence).collect();
            prop_assert!(sequences.iter().zip(1..).all(|(sequence, number)| *sequence == after.wrapping_add(number)));
            // Cut off somewhere, it is as many as are whole.
            let whole = read(messages.bytes().get(..cut).unwrap_or(messages.bytes()));
            prop_assert_eq!(&whole[..], &sent[..whole.len()]);
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200), length in prop_oneof![0..220_u32, any::<u32>()], last: u32,
        ) {
            // Random lengths fail at once: a small one goes further.
            if let Some(place) = bytes.first_chunk_mut() {
                *place = length.to_ne_bytes();
            }
            let read: usize = heard(&bytes).map(|heard| HEADER_BYTES + heard.body.len()).sum();
            prop_assert!(read <= bytes.len());
            let _ = acknowledged(&bytes, last);
        }
    }
}
