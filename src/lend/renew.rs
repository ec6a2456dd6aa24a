//! Renews a device's certificate and ticket over a live session.
//!
//! No rule of the policy is asked: whoever has a session is already lent what it stands for. What holds instead is that
//! a renewal prolongs and never widens: the same user, the same device's key, the same login.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::{Lender, audit::Event, blocking::blocking, borrower::Borrower, dispatch::refuse, login};
use crate::{
    proto::{Answer, ErrorKind, Refusal, RenewedCertificate, UserName},
    session::Stream,
    trust::{
        UnixTime,
        authority::LEAF_LIFETIME,
        identity::{Identity, identity_of},
        request::{SubjectKey, parse_request},
    },
};

/// Least time between two tickets of a session, and between two certificates: each is a write to the disk.
const PAUSE: Duration = Duration::from_secs(60);

/// A new certificate for the key of this device.
pub(super) async fn certificate(borrower: &Borrower, csr: &[u8], stream: Stream) {
    let renewed = new_certificate(borrower, csr).await;
    let event = borrower.event("certificate-renewed");
    match &renewed {
        Ok((_, serial)) => {
            borrower.lender.shared.audit.log(Event { serial: Some(serial.clone()), ..event }).await;
        }
        Err(refusal) => log_refused(borrower, event, refusal).await,
    }
    match renewed {
        // If it cannot be told, the old one still stands and may be renewed again, in this session or another.
        Ok((certificate, _)) => drop(stream.write_message(&Answer::Granted(RenewedCertificate { certificate })).await),
        Err(refusal) => refuse(&stream, refusal).await,
    }
}

/// The certificate and its serial.
async fn new_certificate(borrower: &Borrower, csr: &[u8]) -> Result<(Vec<u8>, String), Refusal> {
    let no = |text: String| Refusal::new(ErrorKind::Identity, text);
    let key = parse_request(csr).map_err(|error| no(error.to_string()))?;
    if key.device() != borrower.principal.device {
        return Err(no("a certificate is renewed for the key of its own device only".to_owned()));
    }
    let now = UnixTime::now();
    // The one that this session has shown, and not the newest: that one may never have arrived.
    if borrower.identity.not_after > now.plus(LEAF_LIFETIME / 2) {
        return Err(no("the certificate has more than half of its time left".to_owned()));
    }
    if !borrower.may_renew_certificate(PAUSE) {
        return Err(Refusal::new(ErrorKind::Busy, "a certificate was renewed a moment ago"));
    }
    let (certificate, identity) = issue(&borrower.lender, &borrower.principal.user, key, now).await?;
    borrower.lender.shared.live.renewed(&identity);
    Ok((certificate.to_vec(), identity.serial))
}

/// Signs the next certificate of a device and notes it, unless the device was revoked meanwhile.
pub(super) async fn issue(
    lender: &Lender,
    user: &UserName,
    key: SubjectKey,
    now: UnixTime,
) -> Result<(CertificateDer<'static>, Identity), Refusal> {
    let no = |text: String| Refusal::new(ErrorKind::Identity, text);
    let (lender, user) = (lender.clone(), user.clone());
    blocking(move || {
        let certificate =
            lender.shared.authority.issue_client(&user, &key, now).map_err(|error| no(error.to_string()))?;
        let identity = identity_of(&certificate).map_err(|error| no(error.to_string()))?;
        let noted = lender.shared.store.add_device(&identity, now);
        noted.map_err(|error| Refusal::new(ErrorKind::Revoked, error.to_string()))?;
        Ok((certificate, identity))
    })
    .await
}

/// A new ticket that goes back to the login of this session.
pub(super) async fn ticket(borrower: &Borrower, stream: Stream) {
    let issued = if borrower.may_renew_ticket(PAUSE) {
        let lasts = borrower.lender.login_lasts(&borrower.principal.user);
        let issued = login::issue(&borrower.lender, &borrower.identity, borrower.login, lasts).await;
        issued.map_err(|error| Refusal::new(ErrorKind::Login, error.to_string()))
    } else {
        Err(Refusal::new(ErrorKind::Busy, "a ticket was renewed a moment ago"))
    };
    let event = borrower.event("ticket-renewed");
    match &issued {
        Ok(_) => borrower.lender.shared.audit.log(event).await,
        Err(refusal) => log_refused(borrower, event, refusal).await,
    }
    match issued {
        Ok(ticket) => drop(stream.write_message(&Answer::Granted(ticket)).await),
        Err(refusal) => refuse(&stream, refusal).await,
    }
}

async fn log_refused(borrower: &Borrower, event: Event, refusal: &Refusal) {
    let event = Event { verdict: Some("refused"), why: Some(refusal.text().to_owned()), ..event };
    borrower.lender.shared.audit.bounded(&borrower.principal.user, event).await;
}
