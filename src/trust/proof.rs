//! Proofs that an end knows a secret, bound to the one TLS connection they are sent on.
//!
//! Each is an HMAC over the connection's exporter value, which no one else has: a proof that is replayed on another
//! connection, or relayed through a machine in the middle, is a wrong proof. The secrets never travel, and the lender
//! keeps only keys derived from them. All comparing is in constant time.

use aws_lc_rs::{digest, hkdf, hmac};
use zeroize::Zeroizing;

use super::{join_line::JoinSecret, ticket::Ticket};

/// A proof as it is sent.
pub type Proof = [u8; 32];

/// What the lender keeps of an invitation's secret, and the borrower derives from it.
pub struct JoinKeys {
    pub(super) client: Zeroizing<[u8; 32]>,
    pub(super) server: Zeroizing<[u8; 32]>,
}

/// What the lender keeps of a ticket, and the borrower derives from it.
pub struct TicketKey(pub(super) Zeroizing<[u8; 32]>);

impl JoinKeys {
    /// The keys of an invitation.
    pub fn derive(secret: &JoinSecret) -> Self {
        Self {
            client: derive(b"capuchin-join", secret.as_bytes(), b"client"),
            server: derive(b"capuchin-join", secret.as_bytes(), b"server"),
        }
    }

    /// The borrower's proof, sent with its certificate request.
    pub fn client_proof(&self, exporter: &[u8; 32], request: &[u8]) -> Proof {
        prove(&self.client, &[exporter, &sha256(request)])
    }

    /// Whether the borrower knows the secret and asks for exactly this request on exactly this connection.
    #[must_use]
    pub fn verify_client(&self, exporter: &[u8; 32], request: &[u8], proof: &Proof) -> bool {
        same(&self.client_proof(exporter, request), proof)
    }

    /// The lender's proof, sent with the certificate it issued.
    pub fn server_proof(&self, exporter: &[u8; 32], certificate: &[u8]) -> Proof {
        prove(&self.server, &[exporter, &sha256(certificate)])
    }

    /// Whether the lender knows the secret and issued exactly this certificate.
    #[must_use]
    pub fn verify_server(&self, exporter: &[u8; 32], certificate: &[u8], proof: &Proof) -> bool {
        same(&self.server_proof(exporter, certificate), proof)
    }
}

impl TicketKey {
    /// The key of a ticket.
    pub fn derive(ticket: &Ticket) -> Self {
        Self(derive(b"capuchin-ticket", ticket.as_bytes(), b"key"))
    }

    /// The borrower's proof that it holds the ticket.
    pub fn proof(&self, exporter: &[u8; 32]) -> Proof {
        prove(&self.0, &[exporter])
    }

    /// Whether the other end of this connection holds the ticket.
    #[must_use]
    pub fn verify(&self, exporter: &[u8; 32], proof: &Proof) -> bool {
        same(&self.proof(exporter), proof)
    }
}

/// SHA-256, as the lender remembers a certificate request by.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    fixed(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// HKDF-SHA256: `purpose` keeps secrets of one kind from being taken for another, `label` the keys of one secret apart.
pub(super) fn derive(purpose: &[u8], secret: &[u8], label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, purpose)
        .extract(secret)
        .expand(&[label], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .expect("32 bytes are within what HKDF-SHA256 gives");
    key
}

fn prove(key: &[u8; 32], parts: &[&[u8]]) -> Proof {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    fixed(context.sign().as_ref())
}

fn same(ours: &Proof, theirs: &Proof) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(ours, theirs).is_ok()
}

fn fixed(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: [u8; 32] = [1; 32];
    const ELSEWHERE: [u8; 32] = [2; 32];

    #[test]
    fn both_ends_of_a_join_believe_each_other() {
        let secret = JoinSecret::random();
        let (lender, borrower) = (JoinKeys::derive(&secret), JoinKeys::derive(&secret));
        assert!(lender.verify_client(&HERE, b"request", &borrower.client_proof(&HERE, b"request")));
        assert!(borrower.verify_server(&HERE, b"certificate", &lender.server_proof(&HERE, b"certificate")));
    }

    #[test]
    fn a_proof_is_worth_nothing_on_another_connection_or_for_another_request() {
        let keys = JoinKeys::derive(&JoinSecret::random());
        let proof = keys.client_proof(&HERE, b"request");
        assert!(!keys.verify_client(&ELSEWHERE, b"request", &proof));
        assert!(!keys.verify_client(&HERE, b"another request", &proof));
        assert!(!JoinKeys::derive(&JoinSecret::random()).verify_client(&HERE, b"request", &proof));
    }

    #[test]
    fn a_borrowers_proof_cannot_be_sent_back_as_the_lenders() {
        let keys = JoinKeys::derive(&JoinSecret::random());
        assert!(!keys.verify_server(&HERE, b"same", &keys.client_proof(&HERE, b"same")));
    }

    #[test]
    fn a_ticket_proof_is_bound_to_its_connection() {
        let ticket = Ticket::random();
        let key = TicketKey::derive(&ticket);
        let proof = TicketKey::derive(&ticket).proof(&HERE);
        assert!(key.verify(&HERE, &proof));
        assert!(!key.verify(&ELSEWHERE, &proof));
        assert!(!TicketKey::derive(&Ticket::random()).verify(&HERE, &proof));
    }

    #[test]
    fn derived_keys_never_change_between_versions() {
        assert_eq!(
            data_encoding::HEXLOWER.encode(derive(b"capuchin-join", &[7; 16], b"client").as_slice()),
            "1d9f78f9cfdd2289beee9240d4591bde58b76be6c855c9d1a0c483a20cf88403"
        );
    }
}
