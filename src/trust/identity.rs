//! Who a verified client certificate is: its one user, its device, its serial.

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{UnixTime, authority::USER_URI, proof::sha256};
use crate::proto::{DeviceId, UserName};

/// The principal behind a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose device it is.
    pub user: UserName,
    /// Which device: by its public key, so that it stays the same when the certificate is renewed.
    pub device: DeviceId,
    /// The certificate's serial number in hexadecimal, for logs.
    pub serial: String,
    /// When the certificate ends.
    pub not_after: UnixTime,
}

/// Why a certificate is nobody's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not a certificate.
    #[error("the client certificate cannot be read")]
    Malformed,
    /// It must carry one name, of the form `capuchin://user/NAME`.
    #[error("the client certificate does not name exactly one user")]
    NotOneUser,
    /// Its key has a number that stands for a user of the lender's own machine; one in four billion has.
    #[error("the key of the client certificate has a reserved number ({0}): join again, which makes another key")]
    Reserved(DeviceId),
}

/// Reads the identity out of a certificate.
///
/// # Errors
/// If it cannot be read, or names anything but exactly one user.
///
/// # Security
/// It does not verify the certificate: give it only the end-entity certificate of a TLS session that was accepted
/// under [`lender_config`](super::tls::lender_config), or one fresh from our own CA.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Result<Identity, IdentityError> {
    let (rest, parsed) = parse_x509_certificate(certificate).map_err(|_| IdentityError::Malformed)?;
    if !rest.is_empty() {
        return Err(IdentityError::Malformed);
    }
    let names = parsed.subject_alternative_name().ok().flatten().ok_or(IdentityError::NotOneUser)?;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return Err(IdentityError::NotOneUser);
    };
    let user = uri.strip_prefix(USER_URI).and_then(|name| name.parse().ok()).ok_or(IdentityError::NotOneUser)?;
    let device = device_of(&sha256(parsed.public_key().raw))?;
    Ok(Identity { user, device, serial: HEXLOWER.encode(parsed.raw_serial()), not_after: not_after(certificate)? })
}

/// The device of a public key. A key whose number means a local user is nobody's: who made one by trying must not be taken
/// for that user.
fn device_of(sha256: &[u8; 32]) -> Result<DeviceId, IdentityError> {
    let device = DeviceId::from_digest(sha256);
    if device.local_uid().is_some() { Err(IdentityError::Reserved(device)) } else { Ok(device) }
}

/// When a certificate ends.
///
/// # Errors
/// If it cannot be read.
pub fn not_after(certificate: &CertificateDer<'_>) -> Result<UnixTime, IdentityError> {
    lasts(certificate).map(|(_, ends)| ends)
}

/// From when to when a certificate is good.
///
/// # Errors
/// If it cannot be read.
pub fn lasts(certificate: &CertificateDer<'_>) -> Result<(UnixTime, UnixTime), IdentityError> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| IdentityError::Malformed)?;
    let validity = parsed.validity();
    let time = |seconds: i64| u64::try_from(seconds).map(UnixTime).map_err(|_| IdentityError::Malformed);
    Ok((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{
        authority::Authority,
        request::{SubjectKey, new_key},
    };

    #[test]
    fn a_client_certificate_tells_its_user_and_its_device() {
        let now = UnixTime(1_700_000_000);
        let key = SubjectKey::of_key(new_key().unwrap().as_bytes()).unwrap();
        let authority = Authority::create(now).unwrap();
        let first = identity_of(&authority.issue_client(&"ana".parse().unwrap(), &key, now).unwrap()).unwrap();
        assert_eq!(first.user.as_str(), "ana");
        assert_eq!(first.device, key.device());
        assert_eq!(first.serial.len(), 32);
        assert_eq!(first.not_after, now.plus(crate::trust::authority::LEAF_LIFETIME));

        let renewed = identity_of(&authority.issue_client(&"ana".parse().unwrap(), &key, now).unwrap()).unwrap();
        assert_eq!(renewed.device, first.device, "a renewed certificate is the same device");
        assert_ne!(renewed.serial, first.serial);
    }

    #[test]
    fn a_certificate_without_exactly_one_user_is_nobodys() {
        let uri = |text: &str| rcgen::SanType::URI(text.try_into().unwrap());
        let (ana, bob) = (uri("capuchin://user/ana"), uri("capuchin://user/bob"));
        let dns = rcgen::SanType::DnsName("lab.capuchin.internal".try_into().unwrap());
        for names in [
            vec![],
            vec![dns.clone()],
            vec![ana.clone(), bob],
            vec![ana, dns],
            vec![uri("capuchin://user/")],
            vec![uri("capuchin://user/Ana")],
            vec![uri("capuchin://user/ana/bob")],
            vec![uri("capuchin://device/ana")],
            vec![uri("https://user/ana")],
        ] {
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names = names.clone();
            let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(identity_of(certificate.der()), Err(IdentityError::NotOneUser), "{names:?}");
        }
    }

    #[test]
    fn a_key_with_the_number_of_a_local_user_is_nobodys() {
        let mut sha256 = [0xab; 32];
        sha256[..4].fill(0);
        assert_eq!(device_of(&sha256), Err(IdentityError::Reserved(DeviceId::of_local_user(0xabab_abab))));
        sha256[3] = 1;
        assert_eq!(device_of(&sha256), Ok(DeviceId::from_digest(&sha256)));
    }

    #[test]
    fn what_is_no_certificate_is_malformed() {
        assert_eq!(identity_of(&CertificateDer::from(vec![0x30, 0x03, 1, 2])), Err(IdentityError::Malformed));
    }
}
