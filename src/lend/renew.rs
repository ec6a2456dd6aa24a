//! Renews a device's certificate and ticket over a live session.
//!
//! No rule of the policy is asked: whoever has a session is already lent what it stands for. What holds instead is that
//! a renewal prolongs and never widens: the same user, the same device's key, the same login.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::{Lender, at_store::STORE_MAX, audit::Event, borrower::Borrower, dispatch::refuse, login};
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

const NO_LOG: &str = "the lender cannot write its audit log and renews nothing";

/// A new certificate for the key of this device.
pub(super) async fn certificate(borrower: &Borrower, csr: &[u8], stream: Stream) {
    let renewed = new_certificate(borrower, csr).await;
    let serial = renewed.as_ref().ok().map(|(_, identity)| identity.serial.clone());
    let event = Event { serial, ..borrower.event("certificate-renewed") };
    match logged(borrower, event, renewed).await {
        // If it cannot be told, the old one still stands and may be renewed again, in this session or another.
        Ok((certificate, identity)) => {
            borrower.lender.shared.live.renewed(&identity);
            let _ = stream.write_message(&Answer::Granted(RenewedCertificate { certificate })).await;
        }
        Err(refusal) => refuse(&stream, refusal).await,
    }
}

/// The certificate, and what it says.
async fn new_certificate(borrower: &Borrower, csr: &[u8]) -> Result<(Vec<u8>, Identity), Refusal> {
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
    Ok((certificate.to_vec(), identity))
}

/// Signs the next certificate of a device and notes it, unless the device was revoked meanwhile.
pub(super) async fn issue(
    lender: &Lender,
    user: &UserName,
    key: SubjectKey,
    now: UnixTime,
) -> Result<(CertificateDer<'static>, Identity), Refusal> {
    let no = |text: String| Refusal::new(ErrorKind::Identity, text);
    let certificate = lender.shared.authority.issue_client(user, &key, now).map_err(|error| no(error.to_string()))?;
    let identity = identity_of(&certificate).map_err(|error| no(error.to_string()))?;
    let device = identity.clone();
    let noted = lender.store_within(STORE_MAX, move |store| store.add_device(&device, now)).await;
    noted.map_err(|error| Refusal::new(login::kind_of(&error, ErrorKind::Revoked), error.to_string()))?;
    Ok((certificate, identity))
}

/// A new ticket that goes back to the login of this session.
pub(super) async fn ticket(borrower: &Borrower, stream: Stream) {
    let issued = if borrower.may_renew_ticket(PAUSE) {
        let lasts = borrower.lender.login_lasts(&borrower.principal.user);
        let issued = login::issue(&borrower.lender, &borrower.identity, borrower.login, lasts).await;
        issued.map_err(|error| Refusal::new(login::kind_of(&error, ErrorKind::Login), error.to_string()))
    } else {
        Err(Refusal::new(ErrorKind::Busy, "a ticket was renewed a moment ago"))
    };
    match logged(borrower, borrower.event("ticket-renewed"), issued).await {
        Ok(ticket) => drop(stream.write_message(&Answer::Granted(ticket)).await),
        Err(refusal) => refuse(&stream, refusal).await,
    }
}

/// What was renewed, once that stands in the log; nobody gets what does not.
async fn logged<T>(borrower: &Borrower, event: Event, renewed: Result<T, Refusal>) -> Result<T, Refusal> {
    let audit = &borrower.lender.shared.audit;
    match renewed {
        Err(refusal) => {
            let event = Event { verdict: Some("refused"), why: Some(refusal.text().to_owned()), ..event };
            audit.bounded(&borrower.principal.user, event).await;
            Err(refusal)
        }
        Ok(renewed) if audit.log_surely(event).await => Ok(renewed),
        Ok(_) => Err(Refusal::new(ErrorKind::Busy, NO_LOG)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lend::test_lender::lender, trust::request::new_device_key};

    #[tokio::test]
    async fn a_renewal_that_the_disk_fails_is_busy_and_revokes_nobody() {
        let (_folder, dir, lender) = lender();
        let (ana, bob): (UserName, UserName) = ("ana".parse().unwrap(), "bob".parse().unwrap());
        lender.shared.store.add_user(&ana, UnixTime::now()).unwrap();
        let csr = new_device_key().unwrap().1;
        let kind = async |user: &UserName| {
            let issued = issue(&lender, user, parse_request(&csr).unwrap(), UnixTime::now()).await;
            issued.map(drop).map_err(|refusal| refusal.kind())
        };
        assert_eq!(kind(&ana).await, Ok(()));
        assert_eq!(kind(&bob).await, Err(ErrorKind::Revoked));
        std::fs::write(dir.store(), "").unwrap();
        lender.shared.store.fail();
        assert_eq!(kind(&ana).await, Err(ErrorKind::Busy));
    }
}
