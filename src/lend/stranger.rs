//! Strangers who get no further: what they are told, what is logged, and what is held against where they come from.

use std::time::Instant;

use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    task::JoinSet,
};

use super::{
    Lender,
    admission::{Admission, Arrival, Offence, Place},
    audit::{Event, Source},
    login::kind_of,
};
use crate::{
    proto::{ErrorKind, FromBorrower, FromLender, ProtocolError, Refusal, UserName},
    session::{Ended, GreetError, Greeter},
    trust::store::StoreError,
};

/// Why a login or a join failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum No {
    /// Told in the place of the answer.
    #[error("{}", .0.text())]
    Refused(Refusal),
    /// As [`Self::Refused`], for a proof that was wrong.
    #[error("{}", .0.text())]
    Wrong(Refusal),
    /// Told as the connection's end.
    #[error("{0}")]
    Ended(Ended),
    /// Nothing came for too long.
    #[error("the login or join took too long")]
    Late,
    /// There is nobody left to tell.
    #[error("{0}")]
    Gone(std::io::Error),
}

impl No {
    pub(super) fn ended(kind: ErrorKind, error: impl ToString) -> Self {
        Self::Ended(Ended { kind, text: error.to_string(), by_peer: false })
    }

    pub(super) fn refused(kind: ErrorKind, error: impl ToString) -> Self {
        Self::Refused(Refusal::new(kind, error.to_string()))
    }

    pub(super) fn wrong(kind: ErrorKind, error: impl ToString) -> Self {
        Self::Wrong(Refusal::new(kind, error.to_string()))
    }

    /// A certificate that is not good any more: who holds it needs another one, or a lender whose disk answers.
    pub(super) fn not_admitted(user: &UserName, error: &StoreError) -> Self {
        let invite = format!("capuchind invite {user}");
        let (text, line) = match error {
            StoreError::NoUser(_) => (
                format!("{user} is no user of this lender (any more)"),
                format!("capuchind user add {user} && {invite}"),
            ),
            StoreError::NoDevice(device) => (format!("device {device} is not known to this lender"), invite),
            StoreError::Revoked(_) => (error.to_string(), invite),
            _ => return Self::ended(kind_of(error, ErrorKind::Revoked), error),
        };
        let help =
            "  help: join again with a new line: capuchin join; to send to the lender's admin for one:".to_owned();
        Self::Refused(Refusal::new(ErrorKind::Revoked, text).with_notes([help, format!("  {line}")]))
    }

    /// Something else than the message that was due.
    pub(super) fn unexpected(expected: &'static str, got: &FromBorrower) -> Self {
        ProtocolError::Unexpected { expected, got: got.name().to_owned() }.into()
    }

    /// What its source has done. One that hangs up, or has no luck, has done nothing.
    pub(super) fn offence(&self) -> Option<Offence> {
        match self {
            Self::Wrong(_) => Some(Offence::Proof),
            Self::Ended(Ended { kind: ErrorKind::Protocol, .. }) => Some(Offence::Protocol),
            Self::Late => Some(Offence::Deadline),
            Self::Gone(error) => tls_offence(error),
            Self::Refused(_) | Self::Ended(_) => None,
        }
    }

    /// Tells the peer, if it still listens, and closes. `over` stands behind a refusal.
    pub(super) async fn tell<C>(self, mut greeter: Greeter<C>, over: &str)
    where
        C: AsyncBufRead + AsyncWrite + Unpin,
    {
        let text = match &self {
            Self::Refused(_) | Self::Wrong(_) => over.to_owned(),
            other => other.to_string(),
        };
        let last_words = match self {
            Self::Refused(refusal) | Self::Wrong(refusal) => {
                // If it cannot be told, the peer has gone already.
                let _ = greeter.send(&[FromLender::Refusal(refusal)]).await;
                Ended { kind: ErrorKind::Login, text, by_peer: false }
            }
            Self::Ended(ended) => ended,
            Self::Late | Self::Gone(_) => Ended { kind: ErrorKind::Login, text, by_peer: false },
        };
        greeter.farewell(&last_words).await;
    }
}

impl From<ProtocolError> for No {
    fn from(error: ProtocolError) -> Self {
        Self::ended(ErrorKind::Protocol, error)
    }
}

impl From<GreetError> for No {
    fn from(error: GreetError) -> Self {
        match error {
            GreetError::Io(error) => Self::Gone(error),
            GreetError::Ended(ended) => Self::Gone(std::io::Error::other(ended)),
            GreetError::Protocol(error) => error.into(),
            GreetError::Late(_) => Self::Late,
        }
    }
}

/// What the store says to a join.
impl From<StoreError> for No {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            // The other device was first: with its password this one may come again.
            StoreError::HasPassword(_) => ErrorKind::Login,
            _ => ErrorKind::Identity,
        };
        Self::refused(kind_of(&error, kind), error)
    }
}

/// What a connection's source has done if it failed with this error. Versions that do not meet are nobody's fault, and a
/// peer that hangs up has done nothing.
pub(super) fn tls_offence(error: &std::io::Error) -> Option<Offence> {
    use rustls::Error as Tls;
    match error.get_ref()?.downcast_ref()? {
        Tls::InvalidCertificate(_) => Some(Offence::Proof),
        Tls::InvalidMessage(_)
        | Tls::PeerMisbehaved(_)
        | Tls::InappropriateMessage { .. }
        | Tls::InappropriateHandshakeMessage { .. }
        | Tls::DecryptError
        | Tls::PeerSentOversizedRecord => Some(Offence::Protocol),
        _ => None,
    }
}

/// Serves a connection that has just arrived once it has a place, and tells of those that get none.
pub(super) fn let_in<F>(
    lender: &Lender,
    admission: &Admission,
    arrival: Arrival,
    connections: &mut JoinSet<()>,
    serve: impl FnOnce(Place) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    match arrival {
        Arrival::Admitted(place) => drop(connections.spawn(serve(place))),
        Arrival::Waits(waiting) => {
            let (lender, admission) = (lender.clone(), admission.clone());
            connections.spawn(async move {
                match waiting.place().await {
                    Some(place) => serve(place).await,
                    None => tell_closed(&lender, admission.gave_up(Instant::now())),
                }
            });
        }
        Arrival::Closed(count) => {
            // The connection goes with it.
            drop(serve);
            tell_closed(lender, count);
        }
    }
}

/// Logs that so many connections were closed without a word, if it is time to say so. The loops that accept do not wait for it.
fn tell_closed(lender: &Lender, count: Option<u64>) {
    let Some(count) = count else { return };
    let why = "closed unheard: their source is penalised, or too many wait";
    tracing::info!(count, why, "connections closed");
    let event =
        Event { event: "connections-closed", count: Some(count), why: Some(why.to_owned()), ..Event::default() };
    lender.shared.audit.note(Source::Unheard, event);
}

/// Holds an offence against the source of a connection, and logs it when its connections are closed from now on. Nobody
/// waits for that: whoever is blamed has a place, which others want.
pub(super) fn blame(lender: &Lender, place: &Place, offence: Option<Offence>) {
    let Some(offence) = offence else { return };
    let Some(bites_for) = place.blame(offence, Instant::now()) else { return };
    let source = place.source().to_string();
    let why = format!("no connection of it is heard for {} s; what it did last: {offence}", bites_for.as_secs());
    tracing::warn!(source, why, "source penalised");
    let event = Event { event: "source-penalised", peer: Some(source), why: Some(why), ..Event::default() };
    lender.shared.audit.note(Source::Penalties, event);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_that_the_disk_fails_is_told_to_come_again_and_one_that_is_refused_is_not() {
        let kind = |error: StoreError| match No::from(error) {
            No::Refused(refusal) => refusal.kind(),
            other => panic!("{other}"),
        };
        let ana = || "ana".parse().unwrap();
        assert_eq!(kind(StoreError::Foreign { path: "state.redb".into(), why: "it is empty".into() }), ErrorKind::Busy);
        assert_eq!(kind(StoreError::Broken { table: "devices" }), ErrorKind::Busy);
        assert_eq!(kind(StoreError::NoUser(ana())), ErrorKind::Identity);
        assert_eq!(kind(StoreError::HasPassword(ana())), ErrorKind::Login);
    }
}
