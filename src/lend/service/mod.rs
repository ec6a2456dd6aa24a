//! Services: names that borrowers listen as and others connect to, through this lender.
//!
//! Who offers a service has a listener, as of a port ([`listen`](super::listen)), and each connection is a visit that is
//! handed to it; who connects is served here. What the offer leads to, its borrower knows: here all are bytes.

mod registry;
mod visit;

use std::sync::Arc;

use tokio::sync::oneshot;

pub(super) use self::{
    registry::{Offered, Services},
    visit::Visit,
};
use super::{borrower::Borrower, dispatch::refuse, gate};
use crate::{
    policy::{Granted, UseService},
    session::Stream,
};

/// Connects to a service, and waits until the connection is over.
///
/// # Cancellation
/// The stream fails with its session, and the connection with the stream.
pub(super) async fn connect(borrower: &Borrower, grant: Granted<UseService>, stream: Stream) {
    let name = grant.request().name().to_owned();
    let still = move |borrower: &Borrower| gate::still_by_rules(borrower, &grant);
    let held = match borrower.hold(&stream, "service-connect", name.clone(), Box::new(still)) {
        Ok(held) => held,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    let log = async |event: &'static str, why: Option<String>| {
        held.log(event, name.clone(), why).await;
    };
    let stream = Arc::new(stream);
    let (end_tx, end_rx) = oneshot::channel();
    let visit = Visit::new(stream.clone(), held.handle(), (&borrower.principal.user, &name), end_tx);
    if let Err(refusal) = borrower.lender.shared.services.visit(&name, visit) {
        log("service-failed", Some(refusal.text().to_owned())).await;
        return refuse(&stream, refusal).await;
    }
    match held.serve(&stream, end_rx).await {
        Some(Ok(Ok(()))) => log("service-closed", None).await,
        Some(Ok(Err(refusal))) => {
            log("service-failed", Some(refusal.text().to_owned())).await;
            refuse(&stream, refusal).await;
        }
        // It went with its listener, before anybody had accepted it.
        Some(Err(_)) => {
            let refusal = registry::nobody(&name);
            log("service-failed", Some(refusal.text().to_owned())).await;
            refuse(&stream, refusal).await;
        }
        None => log("service-closed", held.why_taken()).await,
    }
}
