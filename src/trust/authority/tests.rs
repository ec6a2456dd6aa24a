use x509_parser::extensions::GeneralName;

use super::*;
use crate::trust::request::new_key;

const NOW: UnixTime = UnixTime(1_700_000_000);

fn subject_key() -> SubjectKey {
    SubjectKey::of_key(new_key().unwrap().as_bytes()).unwrap()
}

#[test]
fn a_ca_is_the_same_after_a_restart() {
    let made = Authority::create(NOW).unwrap();
    let loaded = Authority::load(made.key_pem().as_bytes(), made.cert_der().clone()).unwrap();
    assert_eq!(loaded.public_key(), made.public_key());
    assert_eq!(loaded.cert_der(), made.cert_der());
}

#[test]
fn files_of_two_cas_are_not_loaded_as_one() {
    let (one, other) = (Authority::create(NOW).unwrap(), Authority::create(NOW).unwrap());
    let load = |key: &[u8], certificate| Authority::load(key, certificate).err().unwrap();
    assert!(matches!(load(one.key_pem().as_bytes(), other.cert_der().clone()), AuthorityError::Mismatch));
    assert!(matches!(load(b"no key", one.cert_der().clone()), AuthorityError::Key));
    let junk = CertificateDer::from(b"junk".to_vec());
    assert!(matches!(load(one.key_pem().as_bytes(), junk), AuthorityError::Mismatch));
    let p256 = pem::private_key_pem(KeyPair::generate().unwrap().serialized_der());
    assert!(matches!(load(p256.as_bytes(), one.cert_der().clone()), AuthorityError::Key));
    let leaf = one.issue_client(&"ana".parse().unwrap(), &SubjectKey::of_key(one.key_pem().as_bytes()).unwrap(), NOW);
    assert!(matches!(load(one.key_pem().as_bytes(), leaf.unwrap()), AuthorityError::Mismatch));
}

#[test]
fn a_ca_certificate_signs_leaves_only_and_lives_ten_years() {
    let authority = Authority::create(NOW).unwrap();
    let (_, ca) = parse_x509_certificate(authority.cert_der()).unwrap();
    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && !usage.digital_signature() && !usage.crl_sign());
    assert_eq!(ca.validity().not_after.timestamp() as u64, NOW.plus(CA_LIFETIME).0);
}

#[test]
fn a_server_certificate_serves_one_lender_name_and_nothing_else() {
    let authority = Authority::create(NOW).unwrap();
    let der = authority.issue_server(&"lab".parse().unwrap(), &subject_key(), NOW).unwrap();
    let (_, leaf) = parse_x509_certificate(&der).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(*names, [GeneralName::DNSName("lab.capuchin.internal")]);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && !purposes.client_auth && !purposes.any);
    assert!(!leaf.is_ca());
}

#[test]
fn a_client_certificate_names_one_user_and_asks_only() {
    let authority = Authority::create(NOW).unwrap();
    let der = authority.issue_client(&"ana".parse().unwrap(), &subject_key(), NOW).unwrap();
    let (_, leaf) = parse_x509_certificate(&der).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(*names, [GeneralName::URI("capuchin://user/ana")]);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.client_auth && !purposes.server_auth && !purposes.any);
    assert!(!leaf.is_ca());
    assert_eq!(leaf.validity().not_before.timestamp() as u64, NOW.minus(CLOCK_SKEW).0);
    assert_eq!(leaf.validity().not_after.timestamp() as u64, NOW.plus(LEAF_LIFETIME).0);
}

#[test]
fn every_serial_has_sixteen_bytes_and_is_new() {
    let serials: std::collections::HashSet<_> = (0..64).map(|_| new_serial().to_bytes()).collect();
    assert_eq!(serials.len(), 64);
    let authority = Authority::create(NOW).unwrap();
    for _ in 0..16 {
        let der = authority.issue_client(&"ana".parse().unwrap(), &subject_key(), NOW).unwrap();
        assert_eq!(parse_x509_certificate(&der).unwrap().1.raw_serial().len(), 16);
    }
}

#[test]
fn a_clock_beyond_all_calendars_is_an_error() {
    assert!(matches!(Authority::create(UnixTime(u64::MAX)), Err(AuthorityError::Clock(_))));
}
