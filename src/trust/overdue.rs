//! A borrower's certificate that has ended, for the one exchange that renews it: nobody is locked out by a holiday.
//!
//! ```text
//!   valid ──── its end ──── renewable, by password and with the same key, for 180 days ──── join again
//! ```
//!
//! # Security
//! Everything but the time is judged by the stock verifier, which is only told another time: the last moment at which the
//! certificate was valid. So a certificate that is not valid yet, or of another CA, or for something else, stays refused,
//! and so does one that ended too long ago. What passes here has no session: the protocol that this verifier serves knows
//! one message.

use std::{sync::Arc, time::Duration};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{self, CertificateDer},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::identity::not_after;

/// How long after its end a certificate can be renewed: two of its lifetimes, as long as anybody stays away.
pub const RENEWABLE: Duration = Duration::from_secs(180 * 24 * 3600);

/// The stock verifier, asked about the end of a certificate that ended at most [`RENEWABLE`] ago.
pub(super) fn verifier(stock: Arc<dyn ClientCertVerifier>) -> Arc<dyn ClientCertVerifier> {
    Arc::new(Overdue(stock))
}

#[derive(Debug)]
struct Overdue(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Overdue {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: pki_types::UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, judged_at(end_entity, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The time to judge a certificate by. One that cannot be read is judged by `now`, and refused.
fn judged_at(certificate: &CertificateDer<'_>, now: pki_types::UnixTime) -> pki_types::UnixTime {
    match not_after(certificate) {
        Ok(end) if end.0 < now.as_secs() && now.as_secs() - end.0 <= RENEWABLE.as_secs() => {
            pki_types::UnixTime::since_unix_epoch(Duration::from_secs(end.0))
        }
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{
        UnixTime,
        authority::{Authority, LEAF_LIFETIME},
        request::{SubjectKey, new_key},
        tls,
    };

    const MADE: UnixTime = UnixTime(1_700_000_000);

    #[test]
    fn a_certificate_is_good_for_a_renewal_until_180_days_after_its_end_and_no_other_is() {
        let (ours, other) = (Authority::create(MADE).unwrap(), Authority::create(MADE).unwrap());
        let key = SubjectKey::of_key(new_key().unwrap().as_bytes()).unwrap();
        let stock = tls::client_verifier(ours.cert_der()).unwrap();
        let overdue = verifier(stock.clone());
        let judge = |verifier: &Arc<dyn ClientCertVerifier>, certificate: &CertificateDer<'_>, at: UnixTime| {
            let at = pki_types::UnixTime::since_unix_epoch(Duration::from_secs(at.0));
            verifier.verify_client_cert(certificate, &[], at).map(drop)
        };
        let client = ours.issue_client(&"ana".parse().unwrap(), &key, MADE).unwrap();
        let end = MADE.plus(LEAF_LIFETIME);
        let second = Duration::from_secs(1);
        for at in [MADE, end, end.plus(second), end.plus(RENEWABLE)] {
            assert_eq!(judge(&overdue, &client, at), Ok(()), "{at:?}");
            assert_eq!(judge(&stock, &client, at).is_ok(), at <= end, "the stock verifier at {at:?}");
        }
        for at in [MADE.minus(LEAF_LIFETIME), end.plus(RENEWABLE).plus(second)] {
            assert!(judge(&overdue, &client, at).is_err(), "{at:?}");
        }
        let foreign = other.issue_client(&"ana".parse().unwrap(), &key, MADE).unwrap();
        let server = ours.issue_server(&"lab".parse().unwrap(), &key, MADE).unwrap();
        for bad in [foreign, server, CertificateDer::from(vec![0x30, 0x03, 1, 2])] {
            assert!(judge(&overdue, &bad, end.plus(second)).is_err());
        }
    }
}
