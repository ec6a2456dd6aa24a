//! What a command listens on, and the connections that come to it.
//!
//! ```text
//!   command ── tcp-listen, stream 7 ──▶ Share ── tcp-listen, stream 21 ──▶ lender
//!           ◀───────── accepted, of 7 ──────── ◀──────── accepted, of 21 ──
//! ```
//! The lender announces no more connections of a listener than may wait, and counts one as waiting until the command's own
//! answer has come. All of them are passed on at once, so that nothing is held here, and a command that accepts nothing holds
//! back its own listeners and no others.

use tokio::sync::mpsc;

use super::{carry::Near, speech::Speech};
use crate::{
    borrow::{
        arrivals::{Arrival, Opened},
        give_up::GiveUps,
    },
    proto::{Accepted, Reset, message},
    session::{Crew, Session, Stream},
};

/// Serves a listener until it is closed, and the connections that came to it until they are.
///
/// # Cancellation
/// It is closed, and its connections are reset.
pub(super) async fn serve(near: Near, opened: Opened, speech: Speech, give_ups: &GiveUps) {
    let Opened { stream: far, expected, mut arrival_rx } = opened;
    let (session, listener) = (near.session.clone(), near.stream.id());
    let mut connections = Crew::new();
    relay(near.carry(far, speech, Some(give_ups)), &mut arrival_rx, |Arrival { stream, mut accepted }| {
        accepted.listener = listener.number();
        connections.spawn_with(stream, |far| announce(session.clone(), accepted, far));
    })
    .await;
    // What was not announced fails.
    drop((expected, arrival_rx));
    while connections.join_next().await.is_some() {}
}

/// Until `listener` ends.
async fn relay(
    listener: impl Future<Output = ()>,
    arrival_rx: &mut mpsc::Receiver<Arrival>,
    mut announce: impl FnMut(Arrival),
) {
    let mut listener = std::pin::pin!(listener);
    loop {
        tokio::select! {
            biased;
            () = &mut listener => return,
            Some(arrival) = arrival_rx.recv() => announce(arrival),
        }
    }
}

/// Tells the command of a connection, under its own number of the listener, and carries the bytes.
async fn announce(session: Session, accepted: Accepted, far: Stream) {
    match session.open(message::encode_prefixed(&accepted)) {
        Ok(stream) => Near { stream, session }.carry(far, Speech::Any, None).await,
        // It has gone, or has as many streams as it takes.
        Err(_) => far.reset(Reset::Refused),
    }
}
