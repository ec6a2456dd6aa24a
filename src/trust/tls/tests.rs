use std::time::Duration;

use rustls::{CertificateError, ClientConnection, Error, ServerConnection, SupportedCipherSuite};
use zeroize::Zeroizing;

use super::*;
use crate::trust::{
    UnixTime,
    authority::{Authority, LEAF_LIFETIME},
    identity::identity_of,
    request::{SubjectKey, load_key, new_key},
};

/// A lender and its user ana, with keys and certificates.
struct Lab {
    authority: Authority,
    server: Credentials,
    client: Credentials,
}

struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key_pem: Zeroizing<String>,
}

impl Lab {
    fn new() -> Self {
        let authority = Authority::create(UnixTime::now()).unwrap();
        let server = issue(|key| authority.issue_server(&"lab".parse().unwrap(), key, UnixTime::now()).unwrap());
        let client = issue(|key| authority.issue_client(&"ana".parse().unwrap(), key, UnixTime::now()).unwrap());
        Self { authority, server, client }
    }

    fn lender(&self) -> ServerConfig {
        lender_config(self.authority.cert_der(), self.server.chain.clone(), self.server.key_pem.as_bytes()).unwrap()
    }

    fn borrower(&self) -> ClientConfig {
        self.borrower_with(&self.client)
    }

    fn borrower_with(&self, client: &Credentials) -> ClientConfig {
        borrower_config(self.authority.cert_der(), client.chain.clone(), client.key_pem.as_bytes()).unwrap()
    }

    /// ana's certificate, made at another time.
    fn client_made_at(&self, made: UnixTime) -> Credentials {
        issue(|key| self.authority.issue_client(&"ana".parse().unwrap(), key, made).unwrap())
    }
}

fn issue(certificate: impl FnOnce(&SubjectKey) -> CertificateDer<'static>) -> Credentials {
    let key_pem = new_key().unwrap();
    let key = SubjectKey::of_key(key_pem.as_bytes()).unwrap();
    Credentials { chain: vec![certificate(&key)], key_pem }
}

fn offering(protocols: &[&[u8]], mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// Who ended a handshake, and why.
#[derive(Debug, PartialEq)]
enum Failure {
    Lender(Error),
    Borrower(Error),
}

fn handshake(lender: ServerConfig, borrower: ClientConfig) -> Result<(ServerConnection, ClientConnection), Failure> {
    handshake_with("lab", lender, borrower)
}

/// A real handshake, in memory. As in real life the lender's verdict reaches the borrower after it "finished".
fn handshake_with(
    name: &str,
    lender: ServerConfig,
    borrower: ClientConfig,
) -> Result<(ServerConnection, ClientConnection), Failure> {
    let mut server = ServerConnection::new(Arc::new(lender)).unwrap();
    let mut client = ClientConnection::new(Arc::new(borrower), server_name(&name.parse().unwrap())).unwrap();
    loop {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets().map_err(Failure::Lender)?;
        }
        if !server.wants_write() && !server.is_handshaking() && !client.is_handshaking() {
            return Ok((server, client));
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets().map_err(Failure::Borrower)?;
        }
    }
}

fn refused_certificate(
    failure: Result<(ServerConnection, ClientConnection), Failure>,
) -> (&'static str, CertificateError) {
    match failure.map(drop).unwrap_err() {
        Failure::Lender(Error::InvalidCertificate(why)) => ("lender", why),
        Failure::Borrower(Error::InvalidCertificate(why)) => ("borrower", why),
        other => panic!("not a refused certificate: {other:?}"),
    }
}

#[test]
fn a_lender_and_its_user_meet_with_the_newest_protocol_the_fastest_cipher_and_a_key_safe_for_the_future() {
    let lab = Lab::new();
    let (server, client) = handshake(lab.lender(), lab.borrower()).unwrap();
    assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(
        server.negotiated_cipher_suite().map(|suite: SupportedCipherSuite| suite.suite()),
        Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256)
    );
    assert_eq!(server.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    check_alpn(server.alpn_protocol(), ALPN).unwrap();
    check_alpn(client.alpn_protocol(), ALPN).unwrap();
    let identity = identity_of(&server.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(identity.user.as_str(), "ana");
}

#[test]
fn both_ends_export_the_same_value_and_another_for_every_purpose_and_connection() {
    let lab = Lab::new();
    let (server, client) = handshake(lab.lender(), lab.borrower()).unwrap();
    let login = exporter(&server, Purpose::Login).unwrap();
    assert_eq!(login, exporter(&client, Purpose::Login).unwrap());
    assert_ne!(login, exporter(&server, Purpose::Join).unwrap());
    let (_, elsewhere) = handshake(lab.lender(), lab.borrower()).unwrap();
    assert_ne!(login, exporter(&elsewhere, Purpose::Login).unwrap());
}

#[test]
fn there_is_no_exporter_value_before_the_handshake() {
    let server = ServerConnection::new(Arc::new(Lab::new().lender())).unwrap();
    assert!(exporter(&server, Purpose::Login).is_err());
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let lab = Lab::new();
    let nobody = join_client_config(&lab.authority.public_key()).unwrap();
    let nobody = offering(&[ALPN], nobody);
    let failure = handshake(lab.lender(), nobody).map(drop).unwrap_err();
    assert_eq!(failure, Failure::Lender(Error::NoCertificatesPresented));
}

#[test]
fn a_certificate_of_another_ca_with_the_same_name_is_refused_by_both_ends() {
    let (lab, evil) = (Lab::new(), Lab::new());
    let (who, why) = refused_certificate(handshake(lab.lender(), lab.borrower_with(&evil.client)));
    assert_eq!((who, why), ("lender", CertificateError::BadSignature));
    let (who, why) = refused_certificate(handshake(evil.lender(), lab.borrower()));
    assert_eq!((who, why), ("borrower", CertificateError::BadSignature));
}

#[test]
fn an_expired_client_certificate_is_refused() {
    let lab = Lab::new();
    let old = lab.client_made_at(UnixTime::now().minus(LEAF_LIFETIME + Duration::from_secs(60)));
    let (who, why) = refused_certificate(handshake(lab.lender(), lab.borrower_with(&old)));
    assert!(who == "lender" && matches!(why, CertificateError::ExpiredContext { .. }), "{who}: {why:?}");
}

#[test]
fn a_client_certificate_of_tomorrow_is_refused() {
    let lab = Lab::new();
    let early = lab.client_made_at(UnixTime::now().plus(Duration::from_secs(24 * 3600)));
    let (who, why) = refused_certificate(handshake(lab.lender(), lab.borrower_with(&early)));
    assert!(who == "lender" && matches!(why, CertificateError::NotValidYetContext { .. }), "{who}: {why:?}");
}

#[test]
fn a_certificate_made_by_a_clock_a_little_ahead_is_taken() {
    let lab = Lab::new();
    let ahead = lab.client_made_at(UnixTime::now().plus(Duration::from_secs(4 * 60)));
    assert!(handshake(lab.lender(), lab.borrower_with(&ahead)).is_ok());
}

#[test]
fn an_expired_server_certificate_is_refused() {
    let mut lab = Lab::new();
    let old = UnixTime::now().minus(LEAF_LIFETIME + Duration::from_secs(60));
    lab.server = issue(|key| lab.authority.issue_server(&"lab".parse().unwrap(), key, old).unwrap());
    let (who, why) = refused_certificate(handshake(lab.lender(), lab.borrower()));
    assert!(who == "borrower" && matches!(why, CertificateError::ExpiredContext { .. }), "{who}: {why:?}");
}

#[test]
fn a_server_certificate_is_no_client_certificate() {
    let lab = Lab::new();
    let (who, why) = refused_certificate(handshake(lab.lender(), lab.borrower_with(&lab.server)));
    assert!(who == "lender" && matches!(why, CertificateError::InvalidPurposeContext { .. }), "{who}: {why:?}");
}

#[test]
fn a_client_certificate_is_no_server_certificate() {
    let mut lab = Lab::new();
    std::mem::swap(&mut lab.server, &mut lab.client);
    let borrower = lab.borrower_with(&lab.server);
    let (who, why) = refused_certificate(handshake(lab.lender(), borrower));
    assert!(who == "borrower" && matches!(why, CertificateError::InvalidPurposeContext { .. }), "{who}: {why:?}");
}

#[test]
fn a_lender_of_another_name_is_refused() {
    let lab = Lab::new();
    let (who, why) = refused_certificate(handshake_with("attic", lab.lender(), lab.borrower()));
    assert!(who == "borrower" && matches!(why, CertificateError::NotValidForNameContext { .. }), "{who}: {why:?}");
}

#[test]
fn the_ca_itself_is_no_client() {
    let lab = Lab::new();
    let ca = Credentials { chain: vec![lab.authority.cert_der().clone()], key_pem: lab.authority.key_pem() };
    assert_eq!(refused_certificate(handshake(lab.lender(), lab.borrower_with(&ca))).0, "lender");
}

#[test]
fn a_device_cannot_issue_certificates() {
    let lab = Lab::new();
    let device = load_key(lab.client.key_pem.as_bytes()).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("capuchin://user/root".try_into().unwrap())];
    let mut issuer = rcgen::CertificateParams::default();
    issuer.distinguished_name = rcgen::DistinguishedName::new();
    issuer.distinguished_name.push(rcgen::DnType::CommonName, "ana");
    let key = rcgen::KeyPair::generate().unwrap();
    let forged = params.signed_by(&key, &rcgen::Issuer::new(issuer, device)).unwrap();
    let root = Credentials {
        chain: vec![forged.into(), lab.client.chain[0].clone()],
        key_pem: pem::private_key_pem(key.serialized_der()),
    };
    assert_eq!(refused_certificate(handshake(lab.lender(), lab.borrower_with(&root))).0, "lender");
}

#[test]
fn a_client_that_offers_another_protocol_is_refused_and_one_that_offers_none_is_found_out() {
    let lab = Lab::new();
    let wrong = offering(&[b"http/1.1"], lab.borrower());
    let failure = handshake(lab.lender(), wrong).map(drop).unwrap_err();
    assert_eq!(failure, Failure::Lender(Error::NoApplicationProtocol));

    let silent = offering(&[], lab.borrower());
    let (server, _) = handshake(lab.lender(), silent).unwrap();
    let error = check_alpn(server.alpn_protocol(), ALPN).unwrap_err().to_string();
    assert_eq!(error, "the other end speaks no protocol and not capuchin/1");
    assert!(check_alpn(Some(JOIN_ALPN), ALPN).is_err());
}

#[test]
fn a_client_of_tls_1_2_is_refused() {
    // The head of a TLS 1.2 client's hello, which has no supported_versions extension.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let mut server = ServerConnection::new(Arc::new(Lab::new().lender())).unwrap();
    server.read_tls(&mut hello.as_slice()).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert!(matches!(error, Error::PeerIncompatible(_)), "{error:?}");
}

#[test]
fn nothing_is_remembered_of_a_session() {
    let lab = Lab::new();
    let (lender, borrower) = (Arc::new(lab.lender()), Arc::new(lab.borrower()));
    assert_eq!((lender.send_tls13_tickets, lender.max_early_data_size), (0, 0));
    assert!(!lender.session_storage.can_cache() && !lender.ticketer.enabled());
    assert!(!borrower.enable_early_data);
    for _ in 0..2 {
        let (server, client) = handshake((*lender).clone(), (*borrower).clone()).unwrap();
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

#[test]
fn the_key_in_a_join_line_is_all_that_is_needed_to_know_the_lender() {
    let lab = Lab::new();
    let lender = join_config(lab.server.chain.clone(), lab.server.key_pem.as_bytes()).unwrap();
    let borrower = join_client_config(&lab.authority.public_key()).unwrap();
    let (server, client) = handshake(lender, borrower).unwrap();
    check_alpn(server.alpn_protocol(), JOIN_ALPN).unwrap();
    assert!(server.peer_certificates().is_none());
    assert_eq!(exporter(&server, Purpose::Join).unwrap(), exporter(&client, Purpose::Join).unwrap());
}

#[test]
fn the_anchor_made_of_a_key_is_the_one_made_of_the_certificate() {
    let authority = Authority::create(UnixTime::now()).unwrap();
    assert_eq!(roots(authority.cert_der()).unwrap().roots, [anchor(&authority.public_key())]);
}

#[test]
fn a_borrower_with_the_line_of_another_lender_stops_before_it_sends_anything() {
    let (lab, other) = (Lab::new(), Lab::new());
    let lender = join_config(lab.server.chain.clone(), lab.server.key_pem.as_bytes()).unwrap();
    let borrower = join_client_config(&other.authority.public_key()).unwrap();
    assert_eq!(refused_certificate(handshake(lender, borrower)).0, "borrower");
}

#[test]
fn a_join_is_no_way_into_a_session_nor_the_other_way_round() {
    let lab = Lab::new();
    let join = || join_config(lab.server.chain.clone(), lab.server.key_pem.as_bytes()).unwrap();
    let joining = || join_client_config(&lab.authority.public_key()).unwrap();
    let refused = Failure::Lender(Error::NoApplicationProtocol);
    assert_eq!(handshake(lab.lender(), joining()).map(drop).unwrap_err(), refused);
    assert_eq!(handshake(join(), lab.borrower()).map(drop).unwrap_err(), refused);
}

#[test]
fn a_key_that_is_not_the_certificates_is_refused_at_once() {
    let lab = Lab::new();
    let other = new_key().unwrap();
    assert!(lender_config(lab.authority.cert_der(), lab.server.chain.clone(), other.as_bytes()).is_err());
    assert!(matches!(join_config(lab.server.chain.clone(), b"no key"), Err(TlsError::Key(PemError::Key))));
}
