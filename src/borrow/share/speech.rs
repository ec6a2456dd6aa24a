//! What a command says behind its request, as far as a lender ends the whole session over what it cannot read.
//!
//! The session is not the command's alone: what would break the protocol ends here, and with it that command's connection.

use bytes::{Buf, BytesMut};

use crate::proto::{ProtocolError, Request, StartListening, UdpMessage, message};

/// What may be said on a stream.
pub(super) enum Speech {
    /// Bytes, or messages that end nothing but their stream.
    Any,
    /// [`StartListening`], each in a message; what has come of one that is not whole.
    ToListener(BytesMut),
    /// [`UdpMessage`]s; what has come of one that is not whole.
    Datagrams(BytesMut),
    /// The words of a program, and then anything.
    Words(Words),
}

/// Words that are still to come, each with a NUL behind it.
pub(super) struct Words {
    left_bytes: usize,
    left_words: usize,
    /// Whether the last byte was a NUL, or there was none.
    is_whole: bool,
}

impl Speech {
    pub(super) fn behind(request: &Request) -> Self {
        match request {
            Request::TcpListen(_) | Request::UnixListen(_) | Request::ServiceListen(_) => {
                Self::ToListener(BytesMut::new())
            }
            Request::UdpBind(_) => Self::Datagrams(BytesMut::new()),
            Request::Spawn(spawn) => Self::Words(Words {
                left_bytes: spawn.words_bytes as usize,
                left_words: spawn.arguments as usize + spawn.variables as usize,
                is_whole: true,
            }),
            _ => Self::Any,
        }
    }

    /// Reads what is about to be passed on; nothing at first.
    ///
    /// # Errors
    /// The lender could not read it.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        match self {
            Self::Any => {}
            Self::ToListener(unread) => {
                unread.extend_from_slice(bytes);
                while let Some(prefix) = unread.first_chunk() {
                    let length = message::decode_length("word to a listener", *prefix)?;
                    if unread.len() < message::LENGTH_BYTES + length {
                        break;
                    }
                    unread.advance(message::LENGTH_BYTES);
                    message::decode::<StartListening>("word to a listener", &unread.split_to(length))?;
                }
            }
            Self::Datagrams(unread) => {
                unread.extend_from_slice(bytes);
                while let Some(length) = UdpMessage::whole(unread) {
                    UdpMessage::decode(&unread.split_to(length))?;
                }
            }
            Self::Words(words) => {
                words.hear(bytes)?;
                if words.left_bytes == 0 {
                    *self = Self::Any;
                }
            }
        }
        Ok(())
    }
}

impl Words {
    fn hear(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        let wrong =
            || ProtocolError::Malformed { what: "request", why: "the words are not what the request says".to_owned() };
        let bytes = bytes.get(..self.left_bytes).unwrap_or(bytes);
        let ends = bytes.iter().filter(|byte| **byte == 0).count();
        self.left_bytes -= bytes.len();
        self.left_words = self.left_words.checked_sub(ends).ok_or_else(wrong)?;
        self.is_whole = bytes.last().map_or(self.is_whole, |byte| *byte == 0);
        let is_over = self.left_bytes == 0;
        if is_over && !(self.is_whole && self.left_words == 0) { Err(wrong()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Program, ServiceListen, Spawn, UdpBind};

    fn to_listener() -> Speech {
        Speech::behind(&Request::ServiceListen(ServiceListen { name: "calc".to_owned(), at_once: None }))
    }

    fn datagrams() -> Speech {
        let address = "0.0.0.0:0".parse().unwrap();
        Speech::behind(&Request::UdpBind(UdpBind { address, listen: false, v6_only: false }))
    }

    fn words(arguments: u32, words: &[u8]) -> (Spawn, Speech) {
        let spawn = Spawn {
            what: Program::Exec,
            arguments,
            variables: 1,
            words_bytes: words.len() as u32,
            folder: None,
            terminal: None,
            piped: [true; 3],
            detach: false,
            offered: Vec::new(),
        };
        (spawn.clone(), Speech::behind(&Request::Spawn(spawn)))
    }

    #[test]
    fn whole_messages_pass_however_they_are_cut() {
        let starts = [7, 8].map(|backlog| message::encode_prefixed(&StartListening { backlog })).concat();
        let mut sent = BytesMut::new();
        UdpMessage::datagram("10.0.0.1:53".parse().unwrap(), b"who?").encode(&mut sent);
        UdpMessage::datagram("[fd00::1]:53".parse().unwrap(), b"").encode(&mut sent);
        for (mut speech, bytes) in [(to_listener(), &starts[..]), (datagrams(), &sent[..])] {
            for byte in bytes {
                speech.hear(&[*byte]).unwrap();
            }
            speech.hear(bytes).unwrap();
        }
    }

    #[test]
    fn what_the_lender_could_not_read_is_not_passed_on() {
        let wrong = message::encode_prefixed(&"listen!");
        for bytes in [&wrong[..], &[0xff; 4], &[0, 0, 0, 1, 0xff]] {
            assert!(to_listener().hear(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [&[0, 3, 0x07, 0, 53][..], &[0, 1, 4], &[0, 0]] {
            assert!(datagrams().hear(bytes).is_err(), "{bytes:?}");
        }
        Speech::behind(&Request::Resolve).hear(&[0xff; 9]).unwrap();
    }

    #[test]
    fn the_words_of_a_program_are_judged_as_the_lender_judges_them() {
        for (arguments, bytes) in [
            (1, &b"ls\0A=b\0"[..]),
            (2, b"ls\0A=b\0"),
            (0, b"ls\0A=b\0"),
            (1, b"ls\0A=b"),
            (1, b"ls\0A=bc"),
            (2, b"\0\0\0"),
            (1, b""),
            (0, b"\0"),
        ] {
            let (spawn, mut whole) = words(arguments, bytes);
            let allowed = spawn.split_words(bytes).is_ok();
            let at_once = whole.hear(&[]).and_then(|()| whole.hear(bytes));
            assert_eq!(at_once.is_ok(), allowed, "{arguments} {bytes:?}");
            let (_, mut cut) = words(arguments, bytes);
            let bytewise = cut.hear(&[]).and_then(|()| bytes.iter().try_for_each(|byte| cut.hear(&[*byte])));
            assert_eq!(bytewise.is_ok(), allowed, "{arguments} {bytes:?}");
            if allowed {
                cut.hear(b"\0what its stdin gets\0").unwrap();
            }
        }
    }
}
