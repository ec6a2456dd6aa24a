//! A resolver's answer: is it one to what was asked, and which addresses does it give?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{A, AAAA, CNAME, INTERNET, IS_ANSWER, Question, RCODE, Rcode, TRUNCATED, name::Cursor};

/// Most names that one answer leads through: longer chains are mistakes, and resolvers give up on them too.
const ALIASES_MAX: usize = 16;

/// An answer, and what it says about addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    bytes: Vec<u8>,
    /// Its addresses, each with its TTL in seconds: those of the name that was asked for, and of where its aliases lead.
    pub addresses: Vec<(IpAddr, u32)>,
    /// Where its aliases (CNAME) lead, in this order.
    pub aliases: Vec<String>,
    rcode: u16,
    truncated: bool,
}

impl Reply {
    /// Reads an answer; `None` if it is none to `question` with this `id`. One whose records cannot be read has no
    /// addresses.
    pub fn decode(bytes: Vec<u8>, id: u16, question: &Question) -> Option<Self> {
        let mut cursor = Cursor::new(&bytes);
        let (answered, flags) = (cursor.u16()?, cursor.u16()?);
        let (questions, answers) = (cursor.u16()?, cursor.u16()?);
        let (_authorities, _additionals) = (cursor.u16()?, cursor.u16()?);
        let asked = cursor.plain_name()?;
        let (kind, class) = (cursor.u16()?, cursor.u16()?);
        let fits = answered == id && flags & IS_ANSWER != 0 && questions == 1 && class == INTERNET;
        if !fits || asked != question.name || kind != question.kind {
            return None;
        }
        let records = records(&mut cursor, answers);
        let (addresses, aliases) = follow(&asked, &records);
        let (rcode, truncated) = (flags & RCODE, flags & TRUNCATED != 0);
        Some(Self { addresses, aliases, rcode, truncated, bytes })
    }

    /// The message as it came.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Whether it must be asked again over TCP.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether this is the resolver's answer.
    pub fn is(&self, rcode: Rcode) -> bool {
        self.rcode == rcode as u16
    }

    /// Whether another resolver may know more.
    pub fn is_failure(&self) -> bool {
        [Rcode::FormErr, Rcode::ServFail, Rcode::NotImp, Rcode::Refused].into_iter().any(|rcode| self.is(rcode))
    }
}

enum Record {
    Address(IpAddr, u32),
    Alias(String),
}

/// The records of the answer that say something about addresses, each with its owner; what cannot be read ends them.
fn records(cursor: &mut Cursor<'_>, count: u16) -> Vec<(String, Record)> {
    (0..count).map_while(|_| record(cursor)).flatten().collect()
}

/// One record; the outer `None` if it cannot be read, the inner one if it is of no interest.
fn record(cursor: &mut Cursor<'_>) -> Option<Option<(String, Record)>> {
    let owner = cursor.name()?;
    let (kind, class, ttl) = (cursor.u16()?, cursor.u16()?, cursor.u32()?);
    let length = usize::from(cursor.u16()?);
    // RFC 2181 §8: a TTL with the highest bit set is none.
    let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
    let record = match kind {
        CNAME if class == INTERNET => {
            let from = cursor.at();
            let alias = cursor.name()?;
            if cursor.at() - from != length {
                return None;
            }
            return Some(Some((owner, Record::Alias(alias))));
        }
        A => <[u8; 4]>::try_from(cursor.take(length)?).ok().map(|octets| Ipv4Addr::from(octets).into()),
        AAAA => <[u8; 16]>::try_from(cursor.take(length)?).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => {
            cursor.take(length)?;
            None
        }
    };
    let address = record.filter(|_| class == INTERNET);
    Some(address.map(|address| (owner, Record::Address(address, ttl))))
}

/// From the name that was asked for through its aliases to their addresses. Records of other names say nothing: who
/// answers for one name must not vouch for another.
fn follow(asked: &str, records: &[(String, Record)]) -> (Vec<(IpAddr, u32)>, Vec<String>) {
    let mut aliases: Vec<String> = Vec::new();
    let of = |name: &str, aliases: &[String]| name == asked || aliases.iter().any(|alias| alias == name);
    while aliases.len() < ALIASES_MAX {
        let now = aliases.last().map_or(asked, String::as_str);
        let next = records.iter().find_map(|(owner, record)| match record {
            Record::Alias(alias) if owner == now && !of(alias, &aliases) => Some(alias.clone()),
            _ => None,
        });
        match next {
            Some(alias) => aliases.push(alias),
            None => break,
        }
    }
    let addresses = records.iter().filter_map(|(owner, record)| match record {
        Record::Address(address, ttl) if of(owner, &aliases) => Some((*address, *ttl)),
        _ => None,
    });
    (addresses.collect(), aliases)
}
