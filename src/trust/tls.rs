//! The TLS configurations: lender and borrower of a session, of a join, and of the renewal of a certificate that has ended.
//!
//! TLS 1.3 only, rustls's stock verifiers pinned to one CA, no resumption and no early data: a session that was revoked
//! must not come back through a ticket of TLS, and nothing must be replayed.
//!
//! A TLS 1.3 client has "finished" before the server has judged its certificate. Accepted is who got the lender's
//! first frame.
//!
//! # Security
//! rustls accepts a client that offers no ALPN at all, so both ends call [`check_alpn`] after the handshake. It reads
//! handshake messages of at most 64 KiB and has no setting for less: whoever accepts connections bounds the chain, by
//! adding up `peer_certificates()` (ours have one certificate of about 400 bytes).

use std::sync::Arc;

use rustls::{
    ClientConfig, ConnectionCommon, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, TrustAnchor, alg_id},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};

use super::{
    authority::CA_SUBJECT,
    overdue,
    pem::{self, PemError},
};
use crate::proto::LenderName;

/// The protocol of a session.
pub const ALPN: &[u8] = b"capuchin/1";
/// The protocol of a join.
pub const JOIN_ALPN: &[u8] = b"capuchin-join/1";
/// The protocol of renewing a certificate that has ended.
pub const RENEWAL_ALPN: &[u8] = b"capuchin-renewal/1";

/// Why there is no configuration, or no session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// rustls would not take a certificate or a key, or was asked too early.
    #[error("rustls refused")]
    Tls(#[from] rustls::Error),
    /// rustls would not take the CA.
    #[error("rustls refused the CA")]
    Verifier(#[from] VerifierBuilderError),
    /// The key is not readable.
    #[error("the key for TLS is not readable")]
    Key(#[from] PemError),
    /// The other end speaks another protocol.
    #[error("the other end speaks {got} and not {expected}")]
    Alpn {
        /// What it agreed to.
        got: String,
        /// What it had to.
        expected: String,
    },
}

/// What a proof is for; part of the exporter value, so that a proof for one purpose is nothing for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Login by ticket, and resuming a session.
    Login,
    /// Both proofs of a join.
    Join,
}

/// The lender's side of a session: every client must have a certificate of this CA.
///
/// # Errors
/// If rustls takes the CA, the chain or the key for unusable.
pub fn lender_config(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key_pem: &[u8],
) -> Result<ServerConfig, TlsError> {
    verifying(client_verifier(ca)?, ALPN, chain, key_pem)
}

/// The lender's side of a renewal: every client must have a certificate of this CA that ended not long ago; the rest of
/// what is asked of one in a session is asked of it, too.
///
/// # Errors
/// As [`lender_config`].
pub fn renewal_config(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key_pem: &[u8],
) -> Result<ServerConfig, TlsError> {
    verifying(overdue::verifier(client_verifier(ca)?), RENEWAL_ALPN, chain, key_pem)
}

fn verifying(
    verifier: Arc<dyn ClientCertVerifier>,
    protocol: &[u8],
    chain: Vec<CertificateDer<'static>>,
    key_pem: &[u8],
) -> Result<ServerConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, pem::private_key(key_pem)?)?;
    Ok(without_memory(config, protocol))
}

/// The lender's side of a join: clients have no certificate yet. To be used only while an invitation is open.
///
/// # Errors
/// As [`lender_config`].
pub fn join_config(chain: Vec<CertificateDer<'static>>, key_pem: &[u8]) -> Result<ServerConfig, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, pem::private_key(key_pem)?)?;
    Ok(without_memory(config, JOIN_ALPN))
}

/// The borrower's side of a session: the lender must have a certificate of this CA, and we show ours.
///
/// # Errors
/// As [`lender_config`].
pub fn borrower_config(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key_pem: &[u8],
) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(ca)?)
        .with_client_auth_cert(chain, pem::private_key(key_pem)?)?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The borrower's side of a renewal: as of a session, by the other protocol.
///
/// # Errors
/// As [`lender_config`].
pub fn renewal_client_config(
    ca: &CertificateDer<'_>,
    chain: Vec<CertificateDer<'static>>,
    key_pem: &[u8],
) -> Result<ClientConfig, TlsError> {
    let mut config = borrower_config(ca, chain, key_pem)?;
    config.alpn_protocols = vec![RENEWAL_ALPN.to_vec()];
    Ok(config)
}

/// The borrower's side of a join: the lender must have a certificate of the CA whose key stands in the join line. Another
/// lender is noticed before anything is sent.
///
/// # Errors
/// As [`lender_config`].
pub fn join_client_config(ca_key: &[u8; 32]) -> Result<ClientConfig, TlsError> {
    let roots = RootCertStore { roots: vec![anchor(ca_key)] };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![JOIN_ALPN.to_vec()];
    Ok(config)
}

/// The name that the lender's certificate must carry.
pub fn server_name(lender: &LenderName) -> ServerName<'static> {
    ServerName::try_from(lender.dns_name()).expect("a lender name is a DNS label by its type")
}

/// A value that both ends of this one connection know and nobody else (RFC 8446 §7.5).
///
/// # Errors
/// Before the handshake is complete.
pub fn exporter<Side>(connection: &ConnectionCommon<Side>, purpose: Purpose) -> Result<[u8; 32], TlsError> {
    let label: &[u8] = match purpose {
        Purpose::Login => b"EXPORTER-capuchin-login",
        Purpose::Join => b"EXPORTER-capuchin-join",
    };
    Ok(connection.export_keying_material([0; 32], label, None)?)
}

/// Whether both ends agreed on our protocol.
///
/// # Errors
/// If they agreed on another, or on none.
pub fn check_alpn(negotiated: Option<&[u8]>, expected: &[u8]) -> Result<(), TlsError> {
    if negotiated == Some(expected) {
        return Ok(());
    }
    let text = |protocol: &[u8]| protocol.escape_ascii().to_string();
    Err(TlsError::Alpn { got: negotiated.map_or("no protocol".to_owned(), text), expected: text(expected) })
}

fn without_memory(mut config: ServerConfig, protocol: &[u8]) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// AES-128 first: measured fastest wherever there is AES in hardware. The post-quantum key exchange is preferred.
fn provider() -> Arc<CryptoProvider> {
    // For bulk alone: on processors with VAES but without AVX-512, ring's AES-GCM is twice as fast. Keys, signatures and
    // randomness stay aws-lc's.
    #[cfg(not(feature = "ring-aes"))]
    use aws_lc_rs::cipher_suite as suite;
    use aws_lc_rs::kx_group;
    #[cfg(feature = "ring-aes")]
    use rustls::crypto::ring::cipher_suite as suite;
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// The stock verifier of borrowers' certificates: of this CA, for clients, and valid now.
pub(super) fn client_verifier(ca: &CertificateDer<'_>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider()).build()?)
}

pub(super) fn roots(ca: &CertificateDer<'_>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(roots)
}

/// What `roots` makes of a whole CA certificate, made of its public key alone: the subject is the same for every CA.
pub(super) fn anchor(ca_key: &[u8; 32]) -> TrustAnchor<'static> {
    let common_name = der(UTF8_STRING, CA_SUBJECT.as_bytes());
    let attribute = der(SEQUENCE, &[OID_COMMON_NAME, &common_name].concat());
    let bits = der(BIT_STRING, &[&[0], ca_key.as_slice()].concat());
    // Without the outer SEQUENCE, as webpki keeps both.
    let key = [der(SEQUENCE, alg_id::ED25519.as_ref()), bits].concat();
    TrustAnchor { subject: der(SET, &attribute).into(), subject_public_key_info: key.into(), name_constraints: None }
}

/// One DER value of fewer than 128 bytes, which has its length in one byte.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    debug_assert!(content.len() < 128);
    [&[tag, content.len() as u8], content].concat()
}

const BIT_STRING: u8 = 0x03;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID_COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];

#[cfg(test)]
mod tests;
