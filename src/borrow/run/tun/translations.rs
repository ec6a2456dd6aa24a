//! Which connection of the program is which one of our listener's.
//!
//! ```text
//!   the program:   10.0.0.1:4000 ── 10.9.9.9:80
//!                             │ only the ports are others
//!   our listener:  10.0.0.1:4000 ── 10.9.9.9:LISTENER       the program's is another, too, where that pair is taken
//! ```
//! Pure: times come in.
//!
//! Invariant: the two tables say the same, each in its direction. A connection that has a socket of ours stays; others go once
//! they have ended, or were quiet for long: what a socket that is closed had still to send is sent as long as it is taken.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Connections at once, with those that have just ended: more than descriptors, which each of them has one of.
const CONNECTIONS_MAX: usize = 65_536;
/// With fewer than so many there is nothing to tidy up.
const FEW: usize = 1024;
/// What has ended on both sides may still say a last word again.
const ENDED_FOR: Duration = Duration::from_secs(5);
/// Between two probes of a sender whose receiver takes nothing lie two minutes at the most (`TCP_RTO_MAX`).
const QUIET_MAX: Duration = Duration::from_secs(300);
/// Other ports that are tried.
const TRIES: u16 = 256;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const SYN_AND_ACK: u8 = 0x12;

/// The two ends of a connection: the program's, and where it connects to.
type Ends = (SocketAddr, SocketAddr);
/// The same at our listener: the program's end, perhaps with another port, and the address of the target.
type Inside = (SocketAddr, IpAddr);

/// The connections of one borrowed network.
pub struct Translations {
    listener: u16,
    connections: HashMap<Ends, Connection>,
    by_inside: HashMap<Inside, Ends>,
    /// With so many it is time to tidy up.
    tidy_at: usize,
    next: u64,
}

#[derive(Debug)]
struct Connection {
    /// The program's port, as our listener sees it.
    port: u16,
    /// Tells it from another with the same ends.
    number: u64,
    has_socket: bool,
    program_ended: bool,
    target_ended: bool,
    last: Instant,
}

impl Connection {
    fn has_ended(&self) -> bool {
        self.program_ended && self.target_ended
    }
}

impl Translations {
    /// None yet, of a listener at this port of every address.
    pub fn new(listener: u16) -> Self {
        Self { listener, connections: HashMap::new(), by_inside: HashMap::new(), tidy_at: FEW, next: 0 }
    }

    /// The ports of a connection that is let in, at our listener; `None` where there is no room for it.
    pub fn begin(&mut self, ends: Ends, now: Instant) -> Option<(u16, u16)> {
        let (from, to) = ends;
        let port = match self.connections.get(&ends) {
            // Its first packet has come again, or its socket was closed and the kernel gives its port to another.
            Some(connection) => connection.port,
            None => {
                self.tidy(now);
                let port = self.free_port(from, to.ip()).filter(|_| self.connections.len() < CONNECTIONS_MAX)?;
                self.by_inside.insert((SocketAddr::new(from.ip(), port), to.ip()), ends);
                port
            }
        };
        let (number, last) = (self.next, now);
        self.next += 1;
        let (has_socket, program_ended, target_ended) = (false, false, false);
        let connection = Connection { port, number, has_socket, program_ended, target_ended, last };
        self.connections.insert(ends, connection);
        Some((port, self.listener))
    }

    /// The connection that our listener has accepted, and the number to [`Self::release`] it by.
    pub fn accepted(&mut self, from: SocketAddr, to: SocketAddr) -> Option<(Ends, u64)> {
        let ends = *self.by_inside.get(&(from, to.ip()))?;
        let connection = self.connections.get_mut(&ends)?;
        connection.has_socket = true;
        Some((ends, connection.number))
    }

    /// Our socket of it is closed.
    pub fn release(&mut self, ends: Ends, number: u64, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&ends).filter(|connection| connection.number == number) {
            (connection.has_socket, connection.last) = (false, now);
        }
    }

    /// The program itself is met by this connection.
    pub fn forget(&mut self, ends: Ends) {
        if let Some(connection) = self.connections.remove(&ends) {
            self.by_inside.remove(&inside(ends, &connection));
        }
    }

    /// The ports of a packet with these `flags`, if it is of a connection that is known: source and destination.
    pub fn translate(&mut self, from: SocketAddr, to: SocketAddr, flags: u8, now: Instant) -> Option<(u16, u16)> {
        if let Some(connection) = self.connections.get_mut(&(from, to)) {
            if flags & SYN_AND_ACK == SYN_AND_ACK {
                // The program answers a visitor, and never its own target.
                self.forget((from, to));
                return None;
            }
            connection.note(flags, now, |connection| &mut connection.program_ended);
            return Some((connection.port, self.listener));
        }
        if from.port() != self.listener {
            return None;
        }
        let ends = *self.by_inside.get(&(to, from.ip()))?;
        self.connections.get_mut(&ends)?.note(flags, now, |connection| &mut connection.target_ended);
        let (program, target) = ends;
        Some((target.port(), program.port()))
    }

    /// The program's own port where our listener has no connection with it and this target.
    fn free_port(&self, from: SocketAddr, target: IpAddr) -> Option<u16> {
        let is_free = |port: &u16| !self.by_inside.contains_key(&(SocketAddr::new(from.ip(), *port), target));
        (0..TRIES).map(|step| from.port().wrapping_add(step.wrapping_mul(257))).filter(|port| *port > 0).find(is_free)
    }

    fn tidy(&mut self, now: Instant) {
        if self.connections.len() < self.tidy_at {
            return;
        }
        let Self { connections, by_inside, .. } = self;
        connections.retain(|ends, connection| {
            let quiet = now.saturating_duration_since(connection.last);
            let patience = if connection.has_ended() { ENDED_FOR } else { QUIET_MAX };
            let stays = connection.has_socket || quiet < patience;
            if !stays {
                by_inside.remove(&inside(*ends, connection));
            }
            stays
        });
        // Who opens and closes as fast as can be pays for each look with as many connections.
        self.tidy_at = (connections.len() * 2).clamp(FEW, CONNECTIONS_MAX);
    }
}

impl Connection {
    fn note(&mut self, flags: u8, now: Instant, sender: impl FnOnce(&mut Self) -> &mut bool) {
        self.last = now;
        if flags & RST != 0 {
            (self.program_ended, self.target_ended) = (true, true);
        } else if flags & FIN != 0 {
            *sender(self) = true;
        }
    }
}

fn inside((from, to): Ends, connection: &Connection) -> Inside {
    (SocketAddr::new(from.ip(), connection.port), to.ip())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LISTENER: u16 = 40_000;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_directions_of_a_connection_are_translated_and_no_other_packet() {
        let (mut translations, now) = (Translations::new(LISTENER), Instant::now());
        let (program, target) = (at("10.0.0.1:4000"), at("10.9.9.9:80"));
        assert_eq!(translations.translate(program, target, 0x10, now), None);
        assert_eq!(translations.begin((program, target), now), Some((4000, LISTENER)));
        assert_eq!(translations.begin((program, target), now), Some((4000, LISTENER)), "it was sent again");
        assert_eq!(translations.translate(program, target, 0x10, now), Some((4000, LISTENER)));
        let ours = at("10.9.9.9:40000");
        assert_eq!(translations.translate(ours, program, 0x12, now), Some((80, 4000)));
        for (from, to) in
            [(target, program), (program, ours), (ours, at("10.0.0.1:4001")), (at("10.9.9.8:40000"), program)]
        {
            assert_eq!(translations.translate(from, to, 0x10, now), None, "{from} {to}");
        }
        assert_eq!(translations.accepted(program, ours).unwrap().0, (program, target));
        assert_eq!(translations.accepted(program, at("10.9.9.8:40000")), None);
    }

    #[test]
    fn two_ports_of_one_target_are_told_apart_where_the_program_uses_one_port() {
        let (mut translations, now) = (Translations::new(LISTENER), Instant::now());
        let program = at("10.0.0.1:4000");
        translations.begin((program, at("10.9.9.9:80")), now).unwrap();
        let (port, _) = translations.begin((program, at("10.9.9.9:443")), now).unwrap();
        assert_ne!(port, 4000);
        assert_eq!(translations.begin((program, at("10.9.9.8:443")), now), Some((4000, LISTENER)), "another address");
        let inside = SocketAddr::new(program.ip(), port);
        assert_eq!(translations.translate(at("10.9.9.9:40000"), inside, 0x10, now), Some((443, 4000)));
        assert_eq!(translations.translate(at("10.9.9.9:40000"), program, 0x10, now), Some((80, 4000)));
        assert_eq!(translations.accepted(inside, at("10.9.9.9:40000")).unwrap().0, (program, at("10.9.9.9:443")));
    }

    #[test]
    fn what_has_ended_goes_soon_what_is_quiet_late_and_what_has_a_socket_never() {
        let (mut translations, start) = (Translations::new(LISTENER), Instant::now());
        let target = at("10.9.9.9:80");
        let program = |port| SocketAddr::new(at("10.0.0.1:1").ip(), port);
        for port in 1..=4 {
            translations.begin((program(port), target), start).unwrap();
        }
        let ours = at("10.9.9.9:40000");
        translations.translate(program(1), target, FIN, start);
        translations.translate(ours, program(1), FIN | 0x10, start);
        translations.translate(ours, program(2), RST, start);
        translations.translate(program(3), target, FIN, start);
        let (ends, number) = translations.accepted(program(4), ours).unwrap();
        let mut left = |after: Duration| {
            translations.tidy_at = 0;
            translations.tidy(start + after);
            assert_eq!(translations.connections.len(), translations.by_inside.len());
            translations.connections.len()
        };
        assert_eq!([ENDED_FOR / 2, ENDED_FOR, QUIET_MAX, QUIET_MAX * 9].map(&mut left), [4, 2, 1, 1]);
        translations.release(ends, number + 1, start);
        assert!(translations.connections[&ends].has_socket, "that was another one");
        translations.release(ends, number, start);
        translations.tidy_at = 0;
        translations.tidy(start + QUIET_MAX);
        assert!(translations.connections.is_empty());
    }

    #[test]
    fn a_program_that_answers_a_visitor_is_not_taken_for_one_that_connected_there_before() {
        let (mut translations, now) = (Translations::new(LISTENER), Instant::now());
        let ends = (at("10.0.0.1:8000"), at("10.9.9.9:80"));
        translations.begin(ends, now).unwrap();
        assert_eq!(translations.translate(ends.0, ends.1, 0x12, now), None);
        assert_eq!(translations.translate(ends.0, ends.1, 0x10, now), None);
        assert!(translations.by_inside.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut translations, now) = (Translations::new(LISTENER), Instant::now());
        for number in 0..CONNECTIONS_MAX as u32 + 10 {
            let program = SocketAddr::new(IpAddr::from((0x0a00_0000 + number).to_be_bytes()), 4000);
            let begun = translations.begin((program, at("10.9.9.9:80")), now);
            assert_eq!(begun.is_some(), (number as usize) < CONNECTIONS_MAX);
        }
        assert_eq!(translations.by_inside.len(), CONNECTIONS_MAX);
        let program = at("11.0.0.1:1");
        assert!(translations.begin((program, at("10.9.9.9:80")), now + QUIET_MAX).is_some(), "the old ones are gone");
    }

    proptest! {
        #[test]
        fn the_two_tables_say_the_same_whatever_comes(
            steps in proptest::collection::vec((0_u8..6, 1_u16..4, 1_u16..4, any::<u8>(), 0_u64..400), 0..200),
        ) {
            let (mut translations, mut now) = (Translations::new(LISTENER), Instant::now());
            let mut held = Vec::new();
            for (step, source, target, flags, seconds) in steps {
                let ends = (SocketAddr::new(at("10.0.0.1:1").ip(), source), SocketAddr::new(at("10.9.9.9:1").ip(), target));
                let ours = SocketAddr::new(ends.1.ip(), LISTENER);
                now += Duration::from_secs(seconds);
                match step {
                    0 => prop_assert!(translations.begin(ends, now).is_some()),
                    1 => drop(translations.translate(ends.0, ends.1, flags, now)),
                    2 => drop(translations.translate(ours, ends.0, flags, now)),
                    3 => held.extend(translations.accepted(ends.0, ours)),
                    4 => held.pop().into_iter().for_each(|(ends, number)| translations.release(ends, number, now)),
                    _ => {
                        translations.forget(ends);
                        translations.tidy_at = 0;
                        translations.tidy(now);
                    }
                }
                prop_assert_eq!(translations.connections.len(), translations.by_inside.len());
                for (ends, connection) in &translations.connections {
                    prop_assert_eq!(translations.by_inside.get(&inside(*ends, connection)), Some(ends));
                }
            }
        }
    }
}
