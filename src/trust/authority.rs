//! The lender's certificate authority: one Ed25519 key, which signs this lender's servers and its users' devices.
//!
//! Its subject is the same for every lender. So the 32 bytes of its public key are the whole trust anchor, and a join
//! line can carry them. What it signs is fixed here and never by a request: a server certificate is for one lender name
//! and serves only, a client certificate is for one user and asks only.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

use super::{
    UnixTime, pem,
    random::random,
    request::{SubjectKey, Wiped, load_key},
};
use crate::proto::{LenderName, UserName};

/// The subject of every lender's CA.
pub const CA_SUBJECT: &str = "capuchin CA";
/// How long the CA lives.
pub const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long servers' and devices' certificates live; they are renewed at two thirds.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Certificates begin this much before they are made, for clocks that are behind.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// What a user's URI begins with in a client certificate; the name follows.
pub const USER_URI: &str = "capuchin://user/";

/// The CA of one lender, with its key.
pub struct Authority {
    key: Wiped,
    certificate: CertificateDer<'static>,
}

/// Why there is no CA, or no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The key file is not an Ed25519 key.
    #[error("ca.key holds no Ed25519 key (PKCS #8, PEM)")]
    Key,
    /// The two files do not belong together.
    #[error("ca.crt is not the certificate of ca.key: restore both files from the same backup")]
    Mismatch,
    /// The library would not make it.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// The clock is beyond the year 9999.
    #[error("cannot make a certificate for the time {0:?}: set the clock")]
    Clock(UnixTime),
}

impl Authority {
    /// Makes a new CA.
    ///
    /// # Errors
    /// If the clock is absurd or the cryptographic library fails.
    pub fn create(now: UnixTime) -> Result<Self, AuthorityError> {
        let key = Wiped(KeyPair::generate_for(&PKCS_ED25519)?);
        let mut params = ca_params();
        set_lifetime(&mut params, now, CA_LIFETIME)?;
        params.serial_number = Some(new_serial());
        let certificate = params.self_signed(&key.0)?.into();
        Ok(Self { key, certificate })
    }

    /// Takes a CA back from its two files.
    ///
    /// # Errors
    /// If the key is none, or the certificate is of another key or name.
    pub fn load(key_pem: &[u8], certificate: CertificateDer<'static>) -> Result<Self, AuthorityError> {
        let key = Wiped(load_key(key_pem).map_err(|_| AuthorityError::Key)?);
        if !key.0.is_compatible(&PKCS_ED25519) {
            return Err(AuthorityError::Key);
        }
        let ours = parse_x509_certificate(&certificate).is_ok_and(|(rest, parsed)| {
            rest.is_empty()
                && parsed.is_ca()
                && *parsed.public_key().subject_public_key.data == *key.0.public_key_raw()
                && parsed.subject().to_string() == format!("CN={CA_SUBJECT}")
        });
        if ours { Ok(Self { key, certificate }) } else { Err(AuthorityError::Mismatch) }
    }

    /// The CA's key as PEM, to be kept in `ca.key`.
    pub fn key_pem(&self) -> Zeroizing<String> {
        pem::private_key_pem(self.key.0.serialized_der())
    }

    /// The CA's certificate.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA's Ed25519 public key, as a join line carries it.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.0.public_key_raw().try_into().expect("create and load take Ed25519 keys only, which have 32 bytes")
    }

    /// A certificate to serve under the lender's name.
    ///
    /// # Errors
    /// If the clock is absurd or the cryptographic library fails.
    pub fn issue_server(
        &self,
        lender: &LenderName,
        key: &SubjectKey,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let name = SanType::DnsName(Ia5String::try_from(lender.dns_name())?);
        self.issue(lender.as_str(), name, ExtendedKeyUsagePurpose::ServerAuth, key, now)
    }

    /// A certificate for one device of a user.
    ///
    /// # Errors
    /// If the clock is absurd or the cryptographic library fails.
    pub fn issue_client(
        &self,
        user: &UserName,
        key: &SubjectKey,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let name = SanType::URI(Ia5String::try_from(format!("{USER_URI}{user}"))?);
        self.issue(user.as_str(), name, ExtendedKeyUsagePurpose::ClientAuth, key, now)
    }

    fn issue(
        &self,
        label: &str,
        name: SanType,
        purpose: ExtendedKeyUsagePurpose,
        key: &SubjectKey,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let mut params = CertificateParams::default();
        set_lifetime(&mut params, now, LEAF_LIFETIME)?;
        params.serial_number = Some(new_serial());
        // For people who read certificates; programs go by the alternative name.
        params.distinguished_name = subject(label);
        params.subject_alt_names = vec![name];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let ca = ca_params();
        let issued: Certificate = params.signed_by(&key.0, &Issuer::from_params(&ca, &self.key.0))?;
        Ok(issued.into())
    }
}

/// What every CA certificate says, but for its lifetime and serial.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(CA_SUBJECT);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    subject
}

fn set_lifetime(params: &mut CertificateParams, now: UnixTime, lifetime: Duration) -> Result<(), AuthorityError> {
    let date = |time: UnixTime| {
        let seconds = i64::try_from(time.0).map_err(|_| AuthorityError::Clock(now))?;
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Clock(now))
    };
    params.not_before = date(now.minus(CLOCK_SKEW))?;
    params.not_after = date(now.plus(lifetime))?;
    Ok(())
}

/// 16 random bytes; the first is kept between 0x40 and 0x7f, so that DER neither pads nor shortens them.
fn new_serial() -> SerialNumber {
    let mut serial = random::<16>();
    serial[0] = serial[0] & 0x3f | 0x40;
    SerialNumber::from_slice(&serial)
}

#[cfg(test)]
mod tests;
