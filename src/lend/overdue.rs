//! Renews a certificate that has ended, by password and for the same key.
//!
//! # Security
//! The handshake of this protocol takes certificates that ended at most 180 days ago, and no others; there is one message
//! to send on it and one answer, and no way from here to a session. Whoever was revoked is refused before the password is
//! hashed; wrong passwords count as those of a login do. The certificate is for the user and the key of the old one,
//! whatever else the borrower may say.

use std::{net::SocketAddr, time::Duration};

use zeroize::Zeroizing;

use super::{
    Lender,
    accept::Connection,
    admission::Place,
    audit::{Event, Source},
    guess,
    login::{LOGIN_MAX, kind_of, shown_by},
    renew,
    stranger::{self, No},
};
use crate::{
    proto::{ErrorKind, FromBorrower, FromLender, RenewedCertificate, UserName},
    session::{Ended, Greeter},
    trust::{UnixTime, identity::identity_of, request::SubjectKey},
};

const NO_LOG: &str = "the lender cannot write its audit log and renews no certificates";

/// From the handshake to the message, which a borrower sends at once.
const MESSAGE_MAX: Duration = Duration::from_secs(5);

/// Answers one renewal.
pub(super) async fn serve(lender: &Lender, connection: Connection, peer: SocketAddr, place: Place) {
    let mut event = Event { event: "certificate-renewed", peer: Some(peer.to_string()), ..Event::default() };
    event.method = Some("password");
    let mut greeter = Greeter::new(connection);
    let mut known = None;
    let outcome = tokio::time::timeout(LOGIN_MAX, renewed(lender, &mut greeter, &mut event, &mut known)).await;
    match outcome.unwrap_or(Err(No::Late)) {
        Ok(certificate) => {
            event.verdict = Some("granted");
            if !lender.shared.audit.log_surely(event).await {
                return No::refused(ErrorKind::Busy, NO_LOG).tell(greeter, "the renewal was refused").await;
            }
            // If the answer is lost, the old one is as good for another.
            let _ = greeter.send(&[FromLender::Renewed(certificate)]).await;
            let text = "the renewal is over".to_owned();
            greeter.farewell(&Ended { kind: ErrorKind::Identity, text, by_peer: false }).await;
        }
        Err(no) => {
            event.verdict = Some("refused");
            event.why = Some(no.to_string());
            tracing::info!(%peer, why = event.why, "renewal refused");
            let from = known.map_or_else(|| peer.ip().into(), Source::User);
            lender.shared.audit.note(from, event);
            stranger::blame(lender, &place, no.offence());
            no.tell(greeter, "the renewal was refused").await;
        }
    }
}

async fn renewed(
    lender: &Lender,
    greeter: &mut Greeter<Connection>,
    event: &mut Event,
    known: &mut Option<UserName>,
) -> Result<RenewedCertificate, No> {
    let refused = |error: &dyn std::error::Error| No::refused(ErrorKind::Identity, error);
    let certificate = shown_by(greeter.connection())?;
    let identity = identity_of(certificate).map_err(|error| refused(&error))?;
    let key = SubjectKey::of_certificate(certificate).map_err(|error| refused(&error))?;
    *known = Some(identity.user.clone());
    event.user = Some(identity.user.to_string());
    event.device = Some(identity.device.to_string());
    event.serial = Some(identity.serial.clone());
    let asked = identity.clone();
    let admitted = lender.look(move |store| store.admit(&asked)).await;
    admitted.map_err(|error| No::not_admitted(&identity.user, &error))?;
    if identity.not_after > UnixTime::now() {
        let text = "the certificate has not ended: it is renewed over a session";
        return Err(No::refused(ErrorKind::Identity, text));
    }
    let user = identity.user.clone();
    let stored = lender.look(move |store| store.password_of(&user)).await;
    let stored = stored.map_err(|error| No::refused(kind_of(&error, ErrorKind::Identity), error))?;
    if stored.phc.is_none() {
        let text = format!("{} has no password that could renew it: join again, by a new line", identity.user);
        return Err(No::refused(ErrorKind::Identity, text));
    }
    if !lender.shared.audit.is_sound().await {
        return Err(No::refused(ErrorKind::Busy, NO_LOG));
    }
    let mut renewal = match greeter.receive("renewal", MESSAGE_MAX).await? {
        FromBorrower::Renewal(renewal) => renewal,
        other => return Err(No::unexpected("renewal", &other)),
    };
    let password = Zeroizing::new(std::mem::take(&mut renewal.password));
    guess::check_password(lender, password, &identity).await?;
    let issued = renew::issue(lender, &identity.user, key, UnixTime::now()).await;
    let (certificate, identity) = issued.map_err(No::Refused)?;
    event.serial = Some(identity.serial);
    Ok(RenewedCertificate { certificate: certificate.to_vec() })
}
