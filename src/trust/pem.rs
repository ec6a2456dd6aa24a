//! Certificates and keys as text files, so that `openssl x509 -text` and an editor can show them.

use data_encoding::BASE64;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

/// Why a file does not hold what it should.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// No certificate in it, or a broken one.
    #[error("there is no readable certificate (PEM)")]
    Certificate,
    /// No private key in it, or a broken one.
    #[error("there is no readable private key (PEM)")]
    Key,
}

/// A certificate as PEM.
pub fn certificate_pem(der: &CertificateDer<'_>) -> String {
    armour("CERTIFICATE", der).to_string()
}

/// The certificates of a PEM file, first the one of the owner.
///
/// # Errors
/// If there is none, or one cannot be read.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| PemError::Certificate)?;
    if chain.is_empty() { Err(PemError::Certificate) } else { Ok(chain) }
}

/// The private key of a PEM file.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| PemError::Key)
}

/// A private key (PKCS #8) as PEM.
pub(super) fn private_key_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    armour("PRIVATE KEY", pkcs8)
}

/// RFC 7468. The text is given its room at once, so that no copy of a key stays behind in memory.
fn armour(label: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(base64.len() + base64.len() / LINE + 2 * label.len() + 40));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// Characters of base64 in a line (RFC 7468 §2).
const LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for length in [1, 47, 48, 49, 300] {
            let der = CertificateDer::from(vec![0x30; length]);
            assert_eq!(certificates(certificate_pem(&der).as_bytes()), Ok(vec![der]));
        }
    }

    #[test]
    fn a_file_without_a_certificate_or_a_key_is_an_error() {
        assert_eq!(certificates(b"hello"), Err(PemError::Certificate));
        assert_eq!(
            certificates(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"),
            Err(PemError::Certificate)
        );
        assert!(private_key(certificate_pem(&CertificateDer::from(vec![0x30])).as_bytes()).is_err());
    }
}
