//! DNS messages (RFC 1035 §4), as far as a lender must understand those that it passes on: one question, and the
//! addresses of its answer.
//!
//! A query is not passed on as it came but written anew from what was judged, so that nothing travels beside the
//! question; an answer goes back as it came, but for its id and the spelling of the question.
//!
//! # Security
//! Any bytes may come, from borrowers and from resolvers: reading is bounded by the message, and a name in it is never
//! followed forwards, nor through more than 16 pointers.

mod name;
mod reply;
mod reverse;

pub use reply::Reply;
pub use reverse::reversed;

use bytes::BufMut;
use name::Cursor;

/// Shortest message, in bytes: its header.
pub const HEADER_BYTES: usize = 12;
/// Longest query that is read, in bytes: what every resolver takes (RFC 1035 §4.2.1), and twice what one question needs.
pub const QUERY_BYTES_MAX: usize = 512;
/// Longest answer, in bytes: what the length before it can say.
pub const ANSWER_BYTES_MAX: usize = u16::MAX as usize;
/// Longest answer over UDP that is asked for, in bytes: what is never split on its way (DNS flag day 2020).
pub const UDP_BYTES: u16 = 1232;
/// Longest datagram that every asker takes, in bytes (RFC 1035 §4.2.1).
const PLAIN_DATAGRAM_BYTES: u16 = 512;
/// Longest datagram that is sent, whatever its asker takes, in bytes (RFC 6891 §6.2.5).
const DATAGRAM_BYTES_MAX: u16 = 4096;
/// The record of an IPv4 address.
pub const A: u16 = 1;
/// The record of an IPv6 address.
pub const AAAA: u16 = 28;
/// The record of a name of an address.
pub const PTR: u16 = 12;

const CNAME: u16 = 5;
const OPT: u16 = 41;
/// From here to ANY: transfers of zones and keys, which are no questions.
const META_TYPES: std::ops::RangeInclusive<u16> = 128..=254;
const INTERNET: u16 = 1;

const IS_ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
/// What a resolver is told about checking signatures: AD and CD (RFC 4035).
const CHECKING: u16 = 0x0030;
const RCODE: u16 = 0x000f;
const DNSSEC_OK: u16 = 0x8000;

/// How an answer ends that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// The query cannot be read.
    FormErr = 1,
    /// No resolver gave an answer.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Such queries are not served.
    NotImp = 4,
    /// The policy says no.
    Refused = 5,
}

/// What is asked: a name and a type of record, in the class of the Internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name in lower case without the trailing dot; a byte that no host name has stands as `\ddd`.
    pub name: String,
    /// The type of record.
    pub kind: u16,
}

/// A query with one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    question: Question,
    id: u16,
    flags: u16,
    /// Whether it speaks EDNS (RFC 6891), and then whether it wants signatures.
    edns: Option<bool>,
    /// The longest datagram that its asker takes, in bytes.
    datagram_bytes: u16,
    /// The question as it was spelled: name, type and class.
    spelled: Vec<u8>,
}

/// A message that is no query which is served; and what to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unserved(Vec<u8>);

impl Unserved {
    /// The answer, as a whole message.
    pub fn into_answer(self) -> Vec<u8> {
        self.0
    }
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// What is none, has another number of questions than one, or asks for a transfer or in another class.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unserved> {
        let mut cursor = Cursor::new(bytes);
        let (id, flags) = (cursor.u16().unwrap_or_default(), cursor.u16().unwrap_or_default());
        let no = |rcode: Rcode| {
            let mut out = Vec::with_capacity(HEADER_BYTES);
            put_header(&mut out, id, IS_ANSWER | flags & (OPCODE | RECURSION_DESIRED) | rcode as u16, [0; 4]);
            Unserved(out)
        };
        if flags & IS_ANSWER != 0 {
            return Err(no(Rcode::FormErr));
        }
        if flags & OPCODE != 0 {
            return Err(no(Rcode::NotImp));
        }
        let query = Self::decode_body(&mut cursor, id, flags).ok_or_else(|| no(Rcode::FormErr))?;
        let class = query.spelled.last_chunk().map(|class| u16::from_be_bytes(*class));
        if class != Some(INTERNET) || META_TYPES.contains(&query.question.kind) || query.question.kind == OPT {
            return Err(no(Rcode::NotImp));
        }
        Ok(query)
    }

    fn decode_body(cursor: &mut Cursor<'_>, id: u16, flags: u16) -> Option<Self> {
        let counts = [cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?];
        let from = cursor.at();
        let name = cursor.plain_name()?;
        let (kind, _class) = (cursor.u16()?, cursor.u16()?);
        let spelled = cursor.since(from)?.to_vec();
        let mut datagram_bytes = PLAIN_DATAGRAM_BYTES;
        let edns = match counts {
            [1, 0, 0, 0] => None,
            [1, 0, 0, 1] => {
                // Root, OPT, size, then what else it is about; its options are not passed on.
                let (root, opt, size) = (cursor.u8()?, cursor.u16()?, cursor.u16()?);
                datagram_bytes = size.clamp(PLAIN_DATAGRAM_BYTES, DATAGRAM_BYTES_MAX);
                let (_version, flags) = (cursor.u16()?, cursor.u16()?);
                let options = cursor.u16()?;
                cursor.take(options.into())?;
                if (root, opt) != (0, OPT) {
                    return None;
                }
                Some(flags & DNSSEC_OK != 0)
            }
            _ => return None,
        };
        cursor.is_at_end().then_some(Self {
            question: Question { name, kind },
            id,
            flags,
            edns,
            datagram_bytes,
            spelled,
        })
    }

    /// The borrower's number of it.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// What it asks.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// The query to send to a resolver: the same question about `name`, and nothing else of the borrower's. `None` if
    /// `name` is none.
    pub fn forward(&self, id: u16, name: &str) -> Option<Vec<u8>> {
        let flags = self.flags & (RECURSION_DESIRED | CHECKING);
        encode(id, flags, &Question { name: name.to_owned(), kind: self.question.kind }, self.edns)
    }

    /// The answer to `self` out of a resolver's answer to what [`Self::forward`] gave.
    pub fn pass_on(&self, reply: Reply) -> Vec<u8> {
        let mut bytes = reply.into_bytes();
        if let Some(id) = bytes.first_chunk_mut() {
            *id = self.id.to_be_bytes();
        }
        // The same name and so as long; pointers to it stay true.
        if let Some(spelled) = bytes.get_mut(HEADER_BYTES..HEADER_BYTES + self.spelled.len()) {
            spelled.copy_from_slice(&self.spelled);
        }
        bytes
    }

    /// `answer` as it fits into a datagram of the asker: whole, or as the question alone, marked to be asked over TCP.
    pub fn fit(&self, answer: Vec<u8>) -> Vec<u8> {
        if answer.len() <= usize::from(self.datagram_bytes) {
            return answer;
        }
        let flags = answer.get(2..4).and_then(|flags| flags.try_into().ok()).map_or(0, u16::from_be_bytes);
        let mut out = Vec::with_capacity(HEADER_BYTES + self.spelled.len());
        put_header(&mut out, self.id, flags | IS_ANSWER | TRUNCATED, [1, 0, 0, 0]);
        out.extend_from_slice(&self.spelled);
        out
    }

    /// An answer that is none.
    pub fn fail(&self, rcode: Rcode) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.spelled.len());
        put_header(&mut out, self.id, self.answer_flags() | rcode as u16, [1, 0, 0, 0]);
        out.extend_from_slice(&self.spelled);
        out
    }

    /// An answer of the lender's own: those of `addresses` that are of the type that was asked for, to be kept for
    /// `ttl_seconds`.
    pub fn answer(&self, addresses: &[std::net::IpAddr], ttl_seconds: u32) -> Vec<u8> {
        let octets = addresses.iter().filter_map(|address| match (address, self.question.kind) {
            (std::net::IpAddr::V4(address), A) => Some(address.octets().to_vec()),
            (std::net::IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
            _ => None,
        });
        self.answer_with(octets, ttl_seconds)
    }

    /// An answer of the lender's own to the question for the names of an address: those of `names` that are names of hosts.
    pub fn answer_names(&self, names: &[String], ttl_seconds: u32) -> Vec<u8> {
        let names = names.iter().filter_map(|text| {
            let mut name = Vec::new();
            name::put(&mut name, text).map(|()| name)
        });
        self.answer_with(names, ttl_seconds)
    }

    /// One record of the type that was asked for with each of `contents`.
    fn answer_with(&self, contents: impl Iterator<Item = Vec<u8>>, ttl_seconds: u32) -> Vec<u8> {
        let mut records = Vec::new();
        let mut count = 0;
        for content in contents.take(OWN_RECORDS_MAX) {
            count += 1;
            records.put_u16(POINTER_TO_QUESTION);
            records.put_u16(self.question.kind);
            records.put_u16(INTERNET);
            records.put_u32(ttl_seconds);
            records.put_u16(content.len() as u16);
            records.extend_from_slice(&content);
        }
        let mut out = Vec::new();
        put_header(&mut out, self.id, self.answer_flags(), [1, count, 0, 0]);
        out.extend_from_slice(&self.spelled);
        out.extend_from_slice(&records);
        out
    }

    fn answer_flags(&self) -> u16 {
        IS_ANSWER | RECURSION_AVAILABLE | self.flags & RECURSION_DESIRED
    }
}

/// A query for one question; `None` if its name is none.
pub fn ask(id: u16, question: &Question) -> Option<Vec<u8>> {
    encode(id, RECURSION_DESIRED, question, None)
}

fn encode(id: u16, flags: u16, question: &Question, edns: Option<bool>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    put_header(&mut out, id, flags, [1, 0, 0, u16::from(edns.is_some())]);
    name::put(&mut out, &question.name)?;
    out.put_u16(question.kind);
    out.put_u16(INTERNET);
    if let Some(wants_signatures) = edns {
        out.put_u8(0);
        out.put_u16(OPT);
        out.put_u16(UDP_BYTES);
        out.put_u16(0);
        out.put_u16(if wants_signatures { DNSSEC_OK } else { 0 });
        out.put_u16(0);
    }
    Some(out)
}

fn put_header(out: &mut Vec<u8>, id: u16, flags: u16, counts: [u16; 4]) {
    out.put_u16(id);
    out.put_u16(flags);
    counts.into_iter().for_each(|count| out.put_u16(count));
}

/// A name that is that of the question: a pointer to behind the header.
const POINTER_TO_QUESTION: u16 = 0xc000 | HEADER_BYTES as u16;
/// Most records of an answer of the lender's own: more than any program tries.
const OWN_RECORDS_MAX: usize = 64;

#[cfg(test)]
mod tests;
