//! The packet filter of a borrowed network, as one nf_tables batch:
//!
//! ```text
//! table inet capuchin {
//!     chain arriving {
//!         type filter hook prerouting priority mangle;
//!         meta mark OWN accept                                    # to a socket of the program itself, or from us
//!         meta l4proto tcp tcp flags & (syn|ack) == syn meta mark != HELD drop    # the tap has it; it comes again
//!         meta nfproto ipv4 meta mark HELD tproxy ip to :TCP      # the lender is connected: to our listener
//!         meta nfproto ipv4 meta l4proto udp tproxy ip to :UDP    # datagrams, and questions of names
//!         icmp type echo-request drop                             # every address is local: an answer would be a lie
//!         meta nfproto ipv6 meta mark HELD tproxy ip6 to :TCP     # the same three where the kernel has IPv6
//!         meta nfproto ipv6 meta l4proto udp tproxy ip6 to :UDP
//!         icmpv6 type echo-request drop
//!     }
//! }
//! ```
//! A rule that hands a packet over ends there. Marks are out of a program's reach: to set one takes CAP_NET_ADMIN.

use super::{
    netlink::{ACK, APPEND, Body, CREATE, Messages, REQUEST},
    packet::{ECHO_REQUEST, ECHO_REQUEST_V6, ICMP, ICMPV6, TCP, UDP},
};

/// On a packet that goes to the program's own socket, or that is our answer to one.
pub const MARK_OWN: u32 = 0xca9_0001;
/// On a SYN that was held until the lender had connected.
pub const MARK_HELD: u32 = 0xca9_0002;

// linux/netfilter/nfnetlink.h and nf_tables.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const TABLES: u16 = 10;
const NEW_TABLE: u16 = TABLES << 8;
const NEW_CHAIN: u16 = TABLES << 8 | 3;
const NEW_RULE: u16 = TABLES << 8 | 6;
const FAMILY_NONE: u8 = 0;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;
const TABLE: &str = "capuchin";
const CHAIN: &str = "arriving";
const HOOK_PREROUTING: u32 = 0;
const PRIORITY_MANGLE: i32 = -150;
const ACCEPT: u32 = 1;
const DROP: u32 = 0;
/// Of the registers a rule computes with, the first, and the one that holds the verdict.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
const META_MARK: u32 = 3;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SYN: u8 = 0x02;
const SYN_AND_ACK: u8 = 0x12;

/// The batch, and the number of the message whose acknowledgement says that all of it stands.
pub fn batch(tcp_port: u16, udp_port: u16, has_ipv6: bool) -> (Messages, u32) {
    let mut messages = Messages::default();
    let header = |family: u8, resource: u16| {
        let [high, low] = resource.to_be_bytes();
        [family, 0, high, low]
    };
    messages.push(BATCH_BEGIN, REQUEST, |body| {
        body.raw(&header(FAMILY_NONE, TABLES));
    });
    messages.push(NEW_TABLE, REQUEST | CREATE, |body| {
        body.raw(&header(FAMILY_INET, 0)).text(1, TABLE);
    });
    messages.push(NEW_CHAIN, REQUEST | CREATE, |body| {
        body.raw(&header(FAMILY_INET, 0)).text(1, TABLE).text(3, CHAIN);
        body.nested(4, |hook| {
            hook.number(1, HOOK_PREROUTING).attribute(2, &PRIORITY_MANGLE.to_be_bytes());
        });
        body.text(7, "filter").number(5, ACCEPT);
    });
    let rules = rules(tcp_port, udp_port, has_ipv6);
    let mut last = 0;
    for (number, rule) in rules.iter().enumerate() {
        let ack = if number + 1 == rules.len() { ACK } else { 0 };
        last = messages.push(NEW_RULE, REQUEST | CREATE | APPEND | ack, |body| {
            body.raw(&header(FAMILY_INET, 0)).text(1, TABLE).text(2, CHAIN);
            body.nested(4, |expressions| rule.iter().for_each(|step| step.write(expressions)));
        });
    }
    messages.push(BATCH_END, REQUEST, |body| {
        body.raw(&header(FAMILY_NONE, TABLES));
    });
    (messages, last)
}

fn rules(tcp_port: u16, udp_port: u16, has_ipv6: bool) -> Vec<Vec<Step>> {
    let mark = |operation, mark: u32| [Step::Meta(META_MARK), Step::Compare(operation, mark.to_ne_bytes().to_vec())];
    let meta = |key, value: u8| [Step::Meta(key), Step::Compare(EQUAL, vec![value])];
    let field = |base, offset, value: &[u8]| {
        [Step::Field { base, offset, length: value.len() as u32 }, Step::Compare(EQUAL, value.to_vec())]
    };
    let syn = [
        Step::Field { base: TRANSPORT_HEADER, offset: 13, length: 1 },
        Step::Mask(SYN_AND_ACK),
        Step::Compare(EQUAL, vec![SYN]),
    ];
    let hand_over = |family: u8, port: u16| [Step::Port(port), Step::Tproxy(family.into()), Step::Verdict(ACCEPT)];
    let datagrams = |family: u8| {
        let steps = meta(META_FAMILY, family).into_iter().chain(meta(META_PROTOCOL, UDP));
        steps.chain(hand_over(family, udp_port)).collect()
    };
    let held = |family: u8| {
        let steps = meta(META_FAMILY, family).into_iter().chain(meta(META_PROTOCOL, TCP)).chain(mark(EQUAL, MARK_HELD));
        steps.chain(hand_over(family, tcp_port)).collect()
    };
    let echo = |family, protocol, kind| {
        let steps = meta(META_FAMILY, family).into_iter().chain(meta(META_PROTOCOL, protocol));
        steps.chain(field(TRANSPORT_HEADER, 0, &[kind])).chain([Step::Verdict(DROP)]).collect()
    };
    let mut rules: Vec<Vec<Step>> = vec![
        mark(EQUAL, MARK_OWN).into_iter().chain([Step::Verdict(ACCEPT)]).collect(),
        meta(META_PROTOCOL, TCP)
            .into_iter()
            .chain(syn)
            .chain(mark(NOT_EQUAL, MARK_HELD))
            .chain([Step::Verdict(DROP)])
            .collect(),
        held(FAMILY_IPV4),
        datagrams(FAMILY_IPV4),
        echo(FAMILY_IPV4, ICMP, ECHO_REQUEST),
    ];
    // A kernel without IPv6 may not take them.
    if has_ipv6 {
        rules.extend([held(FAMILY_IPV6), datagrams(FAMILY_IPV6), echo(FAMILY_IPV6, ICMPV6, ECHO_REQUEST_V6)]);
    }
    rules
}

/// What a rule is made of; one that does not hold ends its rule.
enum Step {
    /// Loads something that the kernel knows of the packet.
    Meta(u32),
    /// Loads bytes of the packet.
    Field { base: u32, offset: u32, length: u32 },
    /// Keeps some bits of the one byte that was loaded.
    Mask(u8),
    /// Goes on only if what was loaded is this, or is not.
    Compare(u32, Vec<u8>),
    /// Loads a port.
    Port(u16),
    /// Hands the packet to the socket of this machine at the port that was loaded.
    Tproxy(u32),
    /// Ends it all.
    Verdict(u32),
}

impl Step {
    fn write(&self, expressions: &mut Body<'_>) {
        let name = match self {
            Self::Meta(_) => "meta",
            Self::Field { .. } => "payload",
            Self::Mask(_) => "bitwise",
            Self::Compare(..) => "cmp",
            Self::Port(_) | Self::Verdict(_) => "immediate",
            Self::Tproxy(_) => "tproxy",
        };
        expressions.nested(1, |element| {
            element.text(1, name).nested(2, |body| self.write_body(body));
        });
    }

    fn write_body(&self, body: &mut Body<'_>) {
        let value = |data: &mut Body<'_>, bytes: &[u8]| {
            data.attribute(1, bytes);
        };
        match self {
            Self::Meta(key) => {
                body.number(1, REGISTER).number(2, *key);
            }
            Self::Field { base, offset, length } => {
                body.number(1, REGISTER).number(2, *base).number(3, *offset).number(4, *length);
            }
            Self::Mask(mask) => {
                body.number(1, REGISTER).number(2, REGISTER).number(3, 1);
                body.nested(4, |data| value(data, &[*mask])).nested(5, |data| value(data, &[0]));
            }
            Self::Compare(operation, bytes) => {
                body.number(1, REGISTER).number(2, *operation).nested(3, |data| value(data, bytes));
            }
            Self::Port(port) => {
                body.number(1, REGISTER).nested(2, |data| value(data, &port.to_be_bytes()));
            }
            Self::Tproxy(family) => {
                body.number(1, *family).number(3, REGISTER);
            }
            Self::Verdict(verdict) => {
                body.number(1, VERDICT).nested(2, |data| {
                    data.nested(2, |inside| {
                        inside.number(1, *verdict);
                    });
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::borrow::run::netlink::heard;

    #[test]
    fn the_batch_is_framed_and_its_last_rule_is_acknowledged() {
        for (has_ipv6, rules) in [(true, 8), (false, 5)] {
            let (messages, last) = batch(40_000, 40_001, has_ipv6);
            let kinds: Vec<u16> = heard(messages.bytes()).map(|message| message.kind).collect();
            assert_eq!((kinds.first(), kinds.last()), (Some(&BATCH_BEGIN), Some(&BATCH_END)));
            assert_eq!(kinds.iter().filter(|kind| **kind == NEW_RULE).count(), rules);
            assert_eq!(last as usize, kinds.len() - 1);
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_rule_has_its_golden_bytes() {
        let (messages, _) = batch(40_000, 40_001, true);
        let accept_marked = heard(messages.bytes()).find(|message| message.kind == NEW_RULE).unwrap();
        let golden = concat!(
            "010000000d000100636170756368696e000000000d0002006172726976696e670000000084000480",
            "24000180090001006d6574610000000014000280080001000000000108000200000000032c000180",
            "08000100636d700020000280080001000000000108000200000000000c000380080001000100a90c",
            "300001800e000100696d6d6564696174650000001c0002800800010000000000100002800c000280",
            "0800010000000001",
        );
        assert_eq!(data_encoding::HEXLOWER.encode(accept_marked.body), golden);
    }
}
