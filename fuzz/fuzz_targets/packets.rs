//! Whatever a program under `run` sends: never a panic; what is sent again, answered or written anew has the sum that its
//! receiver checks, and the connections of a TUN device lead back where they came from.

#![no_main]

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use capuchin::fuzzing::{
    Length, Outbound, Segment, Syn, Translations, Unreachable, acknowledged, checksum, cookie, heard, packet, read,
    undelivered,
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

const LISTENER: u16 = 40_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Packet {
        bytes: &'a [u8],
        ports: (u16, u16),
    },
    /// A header that tells the truth about its length, and nothing of pieces, so that what follows is reached.
    Whole {
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        options: u8,
        flags: Option<u8>,
        body: &'a [u8],
        ports: (u16, u16),
    },
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        content: &'a [u8],
    },
    Connections(Vec<Step>),
    Netlink(&'a [u8], u32),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Begin(Ends),
    FromProgram(Ends, u8),
    FromTarget(Ends, u8),
    Accept(Ends),
    Release(u8),
    Forget(Ends),
    Wait(u8),
}

/// A few ports of a few addresses, so that they meet.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Ends(u8);

impl Ends {
    fn both(self) -> (SocketAddr, SocketAddr) {
        let bit = |at: u8| u16::from(self.0 >> at & 1);
        let is_ipv4 = bit(7) == 0;
        let address = |network: u16, host: u16| match is_ipv4 {
            true => IpAddr::from([10, network as u8, 0, host as u8]),
            false => IpAddr::from([0xfd00, network, 0, 0, 0, 0, 0, host]),
        };
        let port = |at: u8| 1 + bit(at) + 2 * bit(at + 1);
        (SocketAddr::new(address(0, bit(0)), port(1)), SocketAddr::new(address(9, bit(3)), port(4)))
    }
}

/// Protocols that are told apart come up often.
fn protocol(chosen: u8) -> u8 {
    [TCP, TCP, UDP, ICMP, ICMPV6, 44].get(usize::from(chosen)).copied().unwrap_or(chosen)
}

fn whole(from: IpAddr, to: IpAddr, protocol: u8, options: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let words = 5 + options % 11;
            let [high, low] = (u16::from(words) * 4 + body.len() as u16).to_be_bytes();
            let fixed = [0x40 | words, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            [&fixed[..], &from.octets(), &to.octets(), &vec![1; usize::from(words - 5) * 4]].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = (body.len() as u16).to_be_bytes();
            [&[0x60, options, 0, 0, high, low, protocol, 64][..], &from.octets(), &to.octets()].concat()
        }
        _ => return None,
    };
    bytes.extend_from_slice(body);
    Some(bytes)
}

/// Where the header behind that of IP begins.
fn start(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What every receiver checks: with its sum in it, a packet sums to nothing.
fn is_right(packet: &[u8], protocol: u8, from: IpAddr, to: IpAddr) -> bool {
    let body = &packet[start(packet)..];
    let before = match protocol {
        ICMP => Vec::new(),
        _ => [octets(from), octets(to), vec![0, protocol], (body.len() as u16).to_be_bytes().to_vec()].concat(),
    };
    checksum(before, body) == [0, 0]
}

/// The sum of a packet as it is, of whose two zeros there is one.
fn sum(packet: &[u8]) -> u16 {
    match u16::from_be_bytes(checksum(Vec::new(), packet)) {
        u16::MAX => 0,
        sum => sum,
    }
}

fn answered(syn: &Syn, ports: (u16, u16)) {
    let (program, target) = (syn.from.ip(), syn.to.ip());
    let again = syn.again_between(ports.0, ports.1);
    assert!(is_right(&again, TCP, program, target));
    let read_again = Syn::parse(&again).expect("what is sent again is a SYN");
    assert_eq!(read_again.from, SocketAddr::new(program, ports.0));
    assert_eq!(read_again.to, SocketAddr::new(target, ports.1));
    assert_eq!(Syn::parse(&syn.again()).map(|syn| (syn.from, syn.to)), Some((syn.from, syn.to)));
    assert!(is_right(&syn.refused(), TCP, target, program));
    for why in [Unreachable::Network, Unreachable::Host, Unreachable::Prohibited] {
        let protocol = if target.is_ipv4() { ICMP } else { ICMPV6 };
        for length in [Length::Short, Length::Long] {
            assert!(is_right(&syn.unreachable(why, length), protocol, target, program));
        }
    }
}

fn translated(bytes: &[u8], segment: &Segment, ports: (u16, u16)) {
    let mut other = bytes.to_vec();
    segment.set_ports(&mut other, ports.0, ports.1);
    assert_eq!(other.len(), bytes.len());
    assert_eq!(sum(&other[start(bytes)..]), sum(&bytes[start(bytes)..]), "its sum says as much as before");
    let Outbound::Segment(again) = read(&other) else { panic!("it is a segment still") };
    assert_eq!(again.from, SocketAddr::new(segment.from.ip(), ports.0));
    assert_eq!((again.to.port(), again.flags), (ports.1, segment.flags));
}

fn taken(bytes: &[u8], ports: (u16, u16)) {
    if let Some(syn) = Syn::parse(bytes) {
        answered(&syn, ports);
    }
    match read(bytes) {
        Outbound::Syn(syn) => answered(&syn, ports),
        Outbound::Segment(segment) => translated(bytes, &segment, ports),
        Outbound::Datagram { from, to, content, .. } => sent(from, to, content),
        Outbound::Other(_) | Outbound::Lost => {}
    }
}

fn sent(from: SocketAddr, to: SocketAddr, content: &[u8]) {
    let Some(mut whole) = packet(from, to, content) else { return };
    assert!(is_right(&whole, UDP, from.ip(), to.ip()));
    if to.is_ipv4() {
        // Which a raw socket's kernel writes.
        let length = whole.len() as u16;
        whole[2..4].copy_from_slice(&length.to_be_bytes());
    }
    match read(&whole) {
        Outbound::Datagram { from: source, to: target, content: held, .. } => {
            assert_eq!((source.ip(), source.port()), (from.ip(), from.port()));
            assert_eq!((target.ip(), target.port(), held), (to.ip(), to.port(), content));
        }
        Outbound::Lost => assert!(to.ip().is_multicast() || to.ip() == IpAddr::from([255; 4])),
        other => panic!("{other:?}"),
    }
    for why in [None, Some(Unreachable::Network), Some(Unreachable::Prohibited)] {
        let answer = undelivered(from, to, why).expect("both are of one family");
        let protocol = if to.is_ipv4() { ICMP } else { ICMPV6 };
        assert!(is_right(&answer, protocol, to.ip(), from.ip()));
    }
}

fn connections(steps: &[Step]) {
    let (mut translations, mut now) = (Translations::new(LISTENER), Instant::now());
    let mut held = Vec::new();
    let inside = |program: SocketAddr, target: SocketAddr| (SocketAddr::new(target.ip(), LISTENER), program);
    for step in steps {
        match step {
            Step::Begin(ends) => {
                let (program, target) = ends.both();
                let (port, listener) = translations.begin((program, target), now).expect("there is room");
                assert_eq!(listener, LISTENER);
                let seen = SocketAddr::new(program.ip(), port);
                assert_eq!(translations.translate(program, target, 0x10, now), Some((port, LISTENER)));
                let (ours, _) = inside(program, target);
                assert_eq!(translations.translate(ours, seen, 0x10, now), Some((target.port(), program.port())));
                let (found, number) = translations.accepted(seen, ours).expect("it was let in");
                assert_eq!(found, (program, target));
                translations.release(found, number, now);
            }
            Step::FromProgram(ends, flags) => {
                let (program, target) = ends.both();
                translations.translate(program, target, *flags, now);
            }
            Step::FromTarget(ends, flags) => {
                let (program, target) = ends.both();
                let (ours, program) = inside(program, target);
                translations.translate(ours, program, *flags, now);
            }
            Step::Accept(ends) => {
                let (program, target) = ends.both();
                let (ours, program) = inside(program, target);
                held.extend(translations.accepted(program, ours));
            }
            Step::Release(which) if !held.is_empty() => {
                let (ends, number) = held.swap_remove(usize::from(*which) % held.len());
                translations.release(ends, number, now);
            }
            Step::Release(_) => {}
            Step::Forget(ends) => translations.forget(ends.both()),
            Step::Wait(seconds) => now += Duration::from_secs(u64::from(*seconds) * 4),
        }
    }
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Packet { bytes, ports } => taken(bytes, ports),
    Input::Whole { from, to, protocol: chosen, options, flags, body, ports } => {
        let (protocol, mut body) = (protocol(chosen), body.to_vec());
        if let (Some(flags), TCP, true) = (flags, protocol, body.len() >= 20) {
            (body[12], body[13]) = (0x50, flags);
        }
        if protocol == UDP && body.len() >= 8 {
            let length = body.len() as u16;
            body[4..6].copy_from_slice(&length.to_be_bytes());
        }
        if let Some(bytes) = whole(from, to, protocol, options, &body) {
            taken(&bytes, ports);
        }
    }
    Input::Datagram { from, to, content } => sent(from, to, content),
    Input::Connections(steps) => connections(&steps),
    Input::Netlink(bytes, last) => {
        let _ = acknowledged(bytes, last);
        let bodies: usize = heard(bytes).map(|message| message.body.len()).sum();
        assert!(bodies <= bytes.len());
        for message in heard(bytes) {
            let _ = cookie(message.body);
        }
    }
});
