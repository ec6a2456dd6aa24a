//! Mutual TLS 1.3 between two ends that know each other.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Mutual TLS 1.3 between two ends that know each other.
pub struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

impl Tls {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["lab".into()]).expect("a certificate");
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let roots = Arc::new(roots);
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // What the commands use.
        provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let provider = Arc::new(provider);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let verifier = verifier.build().expect("a verifier");
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], key())
            .expect("a server");
        server.send_tls13_tickets = 0;
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key())
            .expect("a client");
        client.resumption = rustls::client::Resumption::disabled();
        Self { server: Arc::new(server), client: Arc::new(client) }
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        self.server.clone().into()
    }

    pub fn connector(&self) -> TlsConnector {
        self.client.clone().into()
    }

    pub fn name() -> ServerName<'static> {
        "lab".try_into().expect("a name")
    }
}
