use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
    RsaKeySize, SanType,
};

use super::*;

fn request_of(kind: &'static rcgen::SignatureAlgorithm) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate_for(kind).unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    (key, request)
}

#[test]
fn a_devices_request_gives_the_devices_key() {
    let (key_pem, request) = new_device_key().unwrap();
    assert_eq!(parse_request(&request).unwrap(), SubjectKey::of_key(key_pem.as_bytes()).unwrap());
    assert!(request.len() < 200, "{}", request.len());
}

#[test]
fn the_next_request_of_a_device_is_for_the_same_key() {
    let (key_pem, request) = new_device_key().unwrap();
    let again = request_for(key_pem.as_bytes()).unwrap();
    assert_eq!(parse_request(&again).unwrap().device(), parse_request(&request).unwrap().device());
}

#[test]
fn keys_of_hardware_are_taken_too() {
    let (key, request) = request_of(&PKCS_ECDSA_P256_SHA256);
    assert_eq!(parse_request(&request).unwrap().0.der_bytes(), key.public_key_raw());
}

#[test]
fn what_a_request_wishes_for_is_not_in_what_is_taken_from_it() {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![
        SanType::URI("capuchin://user/root".try_into().unwrap()),
        SanType::DnsName("lab.capuchin.internal".try_into().unwrap()),
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let taken = parse_request(params.serialize_request(&key).unwrap().der()).unwrap();
    assert_eq!(taken.0, SubjectPublicKeyInfo::from_der(&key.subject_public_key_info()).unwrap());
}

#[test]
fn other_kinds_of_keys_are_refused() {
    for kind in [&PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
        let (_, request) = request_of(kind);
        assert_eq!(parse_request(&request), Err(RequestError::Algorithm));
    }
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
    let request = CertificateParams::default().serialize_request(&rsa).unwrap();
    assert_eq!(parse_request(request.der()), Err(RequestError::Algorithm));
}

#[test]
fn a_giant_rsa_key_costs_nothing_to_refuse() {
    // The shape of an RSA-16384 request: making a real key takes minutes, and refusing must not look at its numbers.
    let modulus = [&[0x02, 0x82, 0x08, 0x01, 0x00], [0xff; 2048].as_slice(), &[0x02, 0x03, 0x01, 0x00, 0x01]].concat();
    let key = wrap(0x03, &[&[0], wrap(0x30, &modulus).as_slice()].concat());
    let rsa = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let spki = wrap(0x30, &[rsa.as_slice(), &key].concat());
    let info = wrap(0x30, &[&[0x02, 0x01, 0x00, 0x30, 0x00], spki.as_slice(), &[0xa0, 0x00]].concat());
    let signature = wrap(0x03, &[0; 1 + 1024]);
    let request = wrap(0x30, &[info.as_slice(), &rsa, &signature].concat());
    assert!(request.len() < REQUEST_MAX);
    // What else this machine does meanwhile is no cost of ours.
    let times = (0..10).map(|_| {
        let started = Instant::now();
        assert_eq!(parse_request(&request), Err(RequestError::Algorithm));
        started.elapsed()
    });
    assert!(times.min() < Some(Duration::from_millis(100)));
}

#[test]
fn a_mebibyte_is_refused_unread() {
    assert_eq!(parse_request(&vec![0x30; 1 << 20]), Err(RequestError::TooLarge { got: 1 << 20 }));
}

#[test]
fn a_request_for_someone_elses_key_is_refused() {
    let (_, theirs) = new_device_key().unwrap();
    let (_, ours) = new_device_key().unwrap();
    // Their request with our signature: the last 64 bytes are the signature.
    let forged = [&theirs[..theirs.len() - 64], &ours[ours.len() - 64..]].concat();
    assert_eq!(parse_request(&forged), Err(RequestError::Signature));
}

#[test]
fn the_signature_is_checked_as_the_key_says_and_not_as_the_request_says() {
    let (_, request) = new_device_key().unwrap();
    let ed25519 = [0x06, 0x03, 0x2b, 0x65, 0x70];
    let ed448 = [0x06, 0x03, 0x2b, 0x65, 0x71];
    let at = request.len() - 64 - 3 - ed25519.len();
    assert_eq!(request[at..][..5], ed25519, "the algorithm of the signature stands before it");
    let mut forged = request.clone();
    forged[at..][..5].copy_from_slice(&ed448);
    assert_eq!(parse_request(&forged), Err(RequestError::Signature));
}

#[test]
fn a_damaged_request_panics_nothing_and_never_gives_another_key() {
    let (_, request) = new_device_key().unwrap();
    let key = parse_request(&request).unwrap();
    for at in 0..request.len() {
        assert!(parse_request(&request[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut damaged = request.clone();
            damaged[at] ^= 1 << bit;
            // A few bits outside what is signed mean nothing to the parser.
            assert!(parse_request(&damaged).map_or(true, |taken| taken == key), "bit {bit} of {at}");
        }
    }
    assert_eq!(parse_request(&[request.as_slice(), b"x"].concat()), Err(RequestError::Malformed));
}

#[test]
fn a_file_without_a_key_is_told_as_such() {
    assert_eq!(SubjectKey::of_key(b"no key"), Err(RequestError::Key));
    assert_eq!(request_for(b""), Err(RequestError::Key));
}

/// One DER value.
fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82, high, low], content].concat()
}
