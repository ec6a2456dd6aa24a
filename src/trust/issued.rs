//! What a borrower checks of the certificates that answer its join, before it keeps them.
//!
//! The join line is the only thing it believes: the CA must be the one whose key the line carries, and the certificate
//! must be signed by it, for the user who was announced and for the key that never left this machine.

use rustls::pki_types::{self, CertificateDer};

use super::{
    UnixTime,
    identity::{Identity, IdentityError, identity_of},
    tls::{self, TlsError},
};
use crate::proto::{DeviceId, UserName};

/// Why the certificates are not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuedError {
    /// The CA's certificate is not that of the key in the join line.
    #[error("the CA certificate is not that of the key in the join line")]
    ForeignCa,
    /// The certificate is not one for a borrower, from this CA, valid now.
    #[error("the certificate does not verify under the lender's CA: {0}")]
    Invalid(rustls::Error),
    /// It names nobody.
    #[error(transparent)]
    Nobody(#[from] IdentityError),
    /// It names someone else, or is for another key.
    #[error("the certificate is for {user} on device {device}, which is not what was asked for")]
    Mismatch {
        /// The user in it.
        user: UserName,
        /// The device in it.
        device: DeviceId,
    },
    /// The stock verifier could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Checks a CA and a certificate from a lender whose CA has the public key `ca_key`.
///
/// # Errors
/// If anything is not as it was asked for.
pub fn check_issued(
    ca: &CertificateDer<'_>,
    ca_key: &[u8; 32],
    certificate: &CertificateDer<'_>,
    user: &UserName,
    device: DeviceId,
    now: UnixTime,
) -> Result<Identity, IssuedError> {
    if !is_certificate_of(ca, ca_key) {
        return Err(IssuedError::ForeignCa);
    }
    check_renewed(ca, certificate, user, device, now)
}

/// Checks a certificate from a lender whose CA was pinned before.
///
/// # Errors
/// If it is not as it was asked for.
pub fn check_renewed(
    ca: &CertificateDer<'_>,
    certificate: &CertificateDer<'_>,
    user: &UserName,
    device: DeviceId,
    now: UnixTime,
) -> Result<Identity, IssuedError> {
    let now = pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.0));
    tls::client_verifier(ca)?.verify_client_cert(certificate, &[], now).map_err(IssuedError::Invalid)?;
    let identity = identity_of(certificate)?;
    if identity.user != *user || identity.device != device {
        return Err(IssuedError::Mismatch { user: identity.user, device: identity.device });
    }
    Ok(identity)
}

/// Whether `ca` is the certificate of a lender's CA with this public key, and so stands for the same trust anchor.
pub fn is_certificate_of(ca: &CertificateDer<'_>, ca_key: &[u8; 32]) -> bool {
    tls::roots(ca).is_ok_and(|roots| roots.roots == [tls::anchor(ca_key)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{
        authority::Authority,
        request::{SubjectKey, new_key},
    };

    const NOW: UnixTime = UnixTime(1_700_000_000);

    fn key() -> SubjectKey {
        SubjectKey::of_key(new_key().unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn a_certificate_is_kept_only_if_it_is_what_was_asked_for() {
        let (authority, other, ours) = (Authority::create(NOW).unwrap(), Authority::create(NOW).unwrap(), key());
        let (ana, bob): (UserName, UserName) = ("ana".parse().unwrap(), "bob".parse().unwrap());
        let check = |certificate: &CertificateDer<'_>, ca: &Authority| {
            check_issued(ca.cert_der(), &authority.public_key(), certificate, &ana, ours.device(), NOW)
        };
        let good = authority.issue_client(&ana, &ours, NOW).unwrap();
        assert_eq!(check(&good, &authority).unwrap().user, ana);
        assert!(matches!(check(&good, &other), Err(IssuedError::ForeignCa)));

        let forged = other.issue_client(&ana, &ours, NOW).unwrap();
        let server = authority.issue_server(&"lab".parse().unwrap(), &ours, NOW).unwrap();
        for bad in [&forged, &server] {
            assert!(matches!(check(bad, &authority), Err(IssuedError::Invalid(_))));
        }
        let bobs = authority.issue_client(&bob, &ours, NOW).unwrap();
        let foreign = authority.issue_client(&ana, &key(), NOW).unwrap();
        for bad in [&bobs, &foreign] {
            assert!(matches!(check(bad, &authority), Err(IssuedError::Mismatch { .. })));
        }
    }
}
