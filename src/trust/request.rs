//! A device's key, and its request for a certificate.
//!
//! The key is made on the device and never leaves it. Of a request the lender takes one thing, the public key: names,
//! purposes and CA flags that a request asks for are not even read, because whatever library signs "what the request
//! asks" also signs CA:true and another user's name.

use aws_lc_rs::signature;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::{
    certification_request::X509CertificationRequest,
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ED25519},
    parse_x509_certificate,
    prelude::FromDer,
    x509::AlgorithmIdentifier,
};
use zeroize::{Zeroize, Zeroizing};

use super::pem;
use crate::proto::DeviceId;

/// Largest request, in bytes; ours have about 130.
pub const REQUEST_MAX: usize = 4 * 1024;

/// A public key that may stand in a certificate: Ed25519 or ECDSA P-256, and its owner has shown to hold the other half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectKey(pub(super) SubjectPublicKeyInfo);

/// Why a request, or a key of our own, is not used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// More than the bound.
    #[error("the certificate request has {got} bytes, the limit is {REQUEST_MAX}")]
    TooLarge {
        /// Its size, in bytes.
        got: usize,
    },
    /// Not a request.
    #[error("the certificate request is malformed")]
    Malformed,
    /// Another kind of key.
    #[error("the certificate request is for a key that is neither Ed25519 nor ECDSA P-256")]
    Algorithm,
    /// Whoever made it does not hold the key.
    #[error("the certificate request is not signed by its own key")]
    Signature,
    /// The key file holds none, or one of a kind we do not use.
    #[error("the key file holds no Ed25519 or ECDSA P-256 key (PKCS #8, PEM)")]
    Key,
}

impl SubjectKey {
    /// The public half of a key of our own.
    ///
    /// # Errors
    /// If `key_pem` holds no usable key.
    pub fn of_key(key_pem: &[u8]) -> Result<Self, RequestError> {
        let key = Wiped(load_key(key_pem)?);
        SubjectPublicKeyInfo::from_der(&key.0.subject_public_key_info()).map(Self).map_err(|_| RequestError::Key)
    }

    /// The key of a certificate, which whoever shows it in a handshake has proven to hold.
    ///
    /// # Errors
    /// If it cannot be read, or its key is of a kind that we do not certify.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, RequestError> {
        let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| RequestError::Malformed)?;
        SubjectPublicKeyInfo::from_der(parsed.public_key().raw).map(Self).map_err(|_| RequestError::Algorithm)
    }

    /// The device that holds this key.
    pub fn device(&self) -> DeviceId {
        DeviceId::from_digest(&super::proof::sha256(&self.0.subject_public_key_info()))
    }
}

/// Makes a key (Ed25519), as PEM.
///
/// # Errors
/// If the cryptographic library fails; it has no reason to.
pub fn new_key() -> Result<Zeroizing<String>, RequestError> {
    let key = Wiped(KeyPair::generate_for(&PKCS_ED25519).map_err(|_| RequestError::Key)?);
    Ok(pem::private_key_pem(key.0.serialized_der()))
}

/// Makes a device's key and its request for a certificate: the key as PEM, the request as DER.
///
/// # Errors
/// As [`new_key`].
pub fn new_device_key() -> Result<(Zeroizing<String>, Vec<u8>), RequestError> {
    let key_pem = new_key()?;
    let request = request_for(key_pem.as_bytes())?;
    Ok((key_pem, request))
}

/// A request for a certificate, or for the next one of the same device. It names nobody: the invitation or the session
/// it is sent on says who asks.
///
/// # Errors
/// If `key_pem` holds no usable key.
pub fn request_for(key_pem: &[u8]) -> Result<Vec<u8>, RequestError> {
    let key = Wiped(load_key(key_pem)?);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(&key.0).map_err(|_| RequestError::Key)?.der().to_vec())
}

/// Checks a request and takes the public key out of it, and nothing else.
///
/// # Errors
/// If it is too large, malformed, for another kind of key, or not signed by the key it is for.
pub fn parse_request(request: &[u8]) -> Result<SubjectKey, RequestError> {
    if request.len() > REQUEST_MAX {
        return Err(RequestError::TooLarge { got: request.len() });
    }
    let (rest, parsed) = X509CertificationRequest::from_der(request).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    let info = &parsed.certification_request_info;
    let key = &info.subject_pki;
    let key_bytes: &[u8] = &key.subject_public_key.data;
    // The kind of key decides how its signature is checked, never the request's own word.
    let (signed_with, algorithm): (_, &dyn signature::VerificationAlgorithm) = match key_bytes.len() {
        32 if is_ed25519(&key.algorithm) => (&OID_SIG_ED25519, &signature::ED25519),
        65 if is_p256(&key.algorithm) => (&OID_SIG_ECDSA_WITH_SHA256, &signature::ECDSA_P256_SHA256_ASN1),
        _ => return Err(RequestError::Algorithm),
    };
    if parsed.signature_algorithm.algorithm != *signed_with {
        return Err(RequestError::Signature);
    }
    signature::UnparsedPublicKey::new(algorithm, key_bytes)
        .verify(info.raw, &parsed.signature_value.data)
        .map_err(|_| RequestError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map(SubjectKey).map_err(|_| RequestError::Algorithm)
}

/// The key of a PEM file.
pub(super) fn load_key(key_pem: &[u8]) -> Result<KeyPair, RequestError> {
    let mut der = pem::private_key(key_pem).map_err(|_| RequestError::Key)?;
    let key = match &der {
        PrivateKeyDer::Pkcs8(pkcs8) => KeyPair::try_from(pkcs8).map_err(|_| RequestError::Key),
        _ => Err(RequestError::Key),
    };
    der.zeroize();
    key
}

/// A key pair whose bytes are wiped when it goes; rcgen leaves that to us.
pub(super) struct Wiped(pub(super) KeyPair);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn is_ed25519(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    algorithm.algorithm == OID_SIG_ED25519 && algorithm.parameters.is_none()
}

fn is_p256(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256)
}

#[cfg(test)]
mod tests;
