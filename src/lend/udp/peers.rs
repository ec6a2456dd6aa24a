//! The far ends of one UDP socket: what was decided about each, and until when that holds.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use tokio::time::{Duration, Instant};

use crate::policy::{Datagram, Granted};

/// Far ends that are known at once: more than a resolver or a peer-to-peer program talks to. The one that was quiet for
/// longest goes first, and is judged again when it is sent to.
const PEERS_MAX: usize = 1024;
/// How long a far end may be quiet and still be answered from: what RFC 4787 §4.3 recommends for translators of addresses.
const QUIET_MAX: Duration = Duration::from_secs(300);
/// How long a refusal holds: the program may look up a name meanwhile by which the address is allowed.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// What stands about a far end.
pub(super) enum Standing {
    /// It may be sent to, and answer.
    Granted(Granted<Datagram>),
    /// It may not be sent to.
    Refused,
    /// It came to a port that strangers may reach, and may be answered unless a deny covers it: whether that was `asked`.
    Came { asked: bool },
}

/// Whether a far end may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// From this address of the machine, if it came to one.
    BeSentTo {
        met_at: Option<IpAddr>,
    },
    /// As an answer, which no deny must cover. It is asked of once.
    BeAnswered,
    NotBeSentTo,
}

/// The far ends of one socket.
#[derive(Default)]
pub(super) struct Peers {
    table: HashMap<SocketAddr, Peer>,
}

struct Peer {
    standing: Standing,
    until: Instant,
    /// The address of this machine at which it was heard last.
    met_at: Option<IpAddr>,
}

impl Peers {
    /// Whether `peer` may be sent to; `None` where that is still to be judged. One that may is known for longer by it.
    pub(super) fn may(&mut self, peer: SocketAddr, now: Instant) -> Option<May> {
        let known = self.table.get_mut(&peer).filter(|known| now < known.until)?;
        match &mut known.standing {
            Standing::Refused => return Some(May::NotBeSentTo),
            Standing::Came { asked: asked @ false } => {
                // Before the answer: a policy that comes meanwhile has it asked again.
                *asked = true;
                return Some(May::BeAnswered);
            }
            Standing::Came { asked: true } | Standing::Granted(_) => {}
        }
        known.until = now + QUIET_MAX;
        Some(May::BeSentTo { met_at: known.met_at })
    }

    /// Whether something was sent to `peer` not too long ago, or it came by itself where it may.
    pub(super) fn was_sent_to(&self, peer: SocketAddr, now: Instant) -> bool {
        let known = self.table.get(&peer).filter(|known| now < known.until);
        known.is_some_and(|known| !matches!(known.standing, Standing::Refused))
    }

    /// From which address of this machine `peer` takes answers, if it came to one.
    pub(super) fn met_at(&self, peer: SocketAddr) -> Option<IpAddr> {
        self.table.get(&peer)?.met_at
    }

    /// Notes at which address of this machine `peer` was heard.
    pub(super) fn met(&mut self, peer: SocketAddr, at: IpAddr) {
        if let Some(known) = self.table.get_mut(&peer) {
            known.met_at = Some(at);
        }
    }

    /// Notes what was decided about `peer`, or that it came. Who came keeps a grant that stands, and what no deny was found for.
    pub(super) fn note(&mut self, peer: SocketAddr, standing: Standing, now: Instant) {
        let until = now + if matches!(standing, Standing::Refused) { REFUSED_FOR } else { QUIET_MAX };
        if let Some(known) = self.table.get_mut(&peer) {
            known.until = until;
            let stands = matches!(&known.standing, Standing::Granted(_) | Standing::Came { asked: true });
            if !(stands && matches!(&standing, Standing::Came { .. })) {
                known.standing = standing;
            }
            return;
        }
        if self.table.len() >= PEERS_MAX {
            self.table.retain(|_, known| now < known.until);
        }
        if self.table.len() >= PEERS_MAX
            && let Some(quietest) = self.table.iter().min_by_key(|(_, known)| known.until).map(|(peer, _)| *peer)
        {
            self.table.remove(&quietest);
        }
        self.table.insert(peer, Peer { standing, until, met_at: None });
    }

    /// Forgets what a new policy may see otherwise. That somebody came rests on the port, which is judged by itself.
    pub(super) fn judge_again(&mut self, still: impl Fn(&Granted<Datagram>) -> bool) {
        self.table.retain(|_, known| match &mut known.standing {
            Standing::Granted(grant) => still(grant),
            Standing::Refused => false,
            Standing::Came { asked } => {
                *asked = false;
                true
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Facts, Host, Policy, Principal, decide},
        proto::DeviceId,
    };

    const YES: Option<May> = Some(May::BeSentTo { met_at: None });
    const NO: Option<May> = Some(May::NotBeSentTo);

    fn granted(peer: SocketAddr) -> Standing {
        let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nudp = \"*:*\"", "policy.toml").unwrap();
        let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_bytes([0; 8]) };
        let request = Datagram::new(Host::Address(peer.ip()), peer.port(), vec![peer.ip()]);
        Standing::Granted(decide(&policy, &ana, request, &Facts::default()).unwrap())
    }

    fn peer(number: usize) -> SocketAddr {
        format!("10.1.{}.{}:53", number / 256, number % 256).parse().unwrap()
    }

    #[test]
    fn a_far_end_answers_until_it_was_quiet_for_too_long() {
        let (mut peers, t0) = (Peers::default(), Instant::now());
        assert_eq!(peers.may(peer(1), t0), None);
        peers.note(peer(1), granted(peer(1)), t0);
        peers.note(peer(2), Standing::Refused, t0);
        assert_eq!((peers.may(peer(1), t0), peers.may(peer(2), t0)), (YES, NO));
        assert!(peers.was_sent_to(peer(1), t0) && !peers.was_sent_to(peer(2), t0) && !peers.was_sent_to(peer(3), t0));
        assert_eq!(peers.may(peer(2), t0 + REFUSED_FOR), None, "a refusal is judged again soon");
        assert_eq!(peers.may(peer(1), t0 + QUIET_MAX / 2), YES);
        assert!(peers.was_sent_to(peer(1), t0 + QUIET_MAX), "sending keeps it known");
        assert!(!peers.was_sent_to(peer(1), t0 + QUIET_MAX * 2));
    }

    #[test]
    fn their_number_is_bounded_and_the_quietest_goes_first() {
        let (mut peers, t0) = (Peers::default(), Instant::now());
        for number in 0..=PEERS_MAX {
            peers.note(peer(number), Standing::Came { asked: false }, t0 + Duration::from_millis(number as u64));
        }
        assert_eq!(peers.table.len(), PEERS_MAX);
        let now = t0 + Duration::from_secs(2);
        assert!(!peers.was_sent_to(peer(0), now) && peers.was_sent_to(peer(1), now));
    }

    #[test]
    fn a_new_policy_takes_back_grants_and_refusals_and_leaves_who_came() {
        let (mut peers, t0) = (Peers::default(), Instant::now());
        peers.note(peer(1), granted(peer(1)), t0);
        peers.note(peer(1), Standing::Came { asked: false }, t0);
        peers.note(peer(2), Standing::Refused, t0);
        peers.note(peer(3), Standing::Came { asked: false }, t0);
        peers.judge_again(|_| false);
        let known = [1, 2, 3].map(|number| peers.may(peer(number), t0));
        assert_eq!(known, [None, None, Some(May::BeAnswered)]);
    }

    #[test]
    fn who_came_is_asked_about_once_and_by_a_new_policy_again() {
        let (mut peers, t0) = (Peers::default(), Instant::now());
        let came = |peers: &mut Peers| peers.note(peer(1), Standing::Came { asked: false }, t0);
        came(&mut peers);
        assert_eq!((peers.may(peer(1), t0), peers.may(peer(1), t0)), (Some(May::BeAnswered), YES));
        came(&mut peers);
        assert_eq!(peers.may(peer(1), t0), YES);
        peers.judge_again(|_| true);
        assert_eq!(peers.may(peer(1), t0), Some(May::BeAnswered));
        // A deny covers it, and it comes again.
        peers.note(peer(1), Standing::Refused, t0);
        came(&mut peers);
        assert_eq!(peers.may(peer(1), t0), Some(May::BeAnswered));
    }
}
