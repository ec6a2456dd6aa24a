use std::sync::{Arc, Barrier};

use rustls::pki_types::CertificateDer;

use super::*;
use crate::trust::{join_line::InvitationId, store::invitations::ANSWER_AGAIN};

fn certificate(content: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from(content.to_vec())
}

/// Signs `content` for ana's device of this number.
fn signer(
    content: &[u8],
    number: u8,
) -> impl FnOnce(&UserName) -> Result<(CertificateDer<'static>, Identity), StoreError> {
    move |user| {
        assert_eq!(*user, ana());
        Ok((certificate(content), device_of("ana", number)))
    }
}

fn never(_: &UserName) -> Result<(CertificateDer<'static>, Identity), StoreError> {
    panic!("nothing may be signed");
}

#[test]
fn of_two_first_devices_one_sets_the_password_and_the_other_keeps_its_invitation() {
    let store = Temporary::new();
    let (first, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    let (second, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    assert!(store.redeem_invitation(first, &[1; 32], Some("first"), NOW, signer(b"one", 1)).unwrap().issued);
    let late = store.redeem_invitation(second, &[2; 32], Some("second"), NOW, signer(b"two", 2));
    assert!(matches!(late, Err(StoreError::HasPassword(_))));
    assert_eq!(store.password_of(&ana()).unwrap().phc.as_deref(), Some("first"));
    assert!(store.device(device_of("ana", 2).device).unwrap().is_none());
    // It comes again, now with the password that there is.
    assert!(store.redeem_invitation(second, &[2; 32], None, NOW, signer(b"two", 2)).unwrap().issued);
}

#[test]
fn a_certificate_that_cannot_be_signed_costs_neither_invitation_nor_password() {
    let store = Temporary::new();
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    let failed = store.redeem_invitation(id, &[1; 32], Some("phc"), NOW, |_| Err(StoreError::Stopping));
    assert!(matches!(failed, Err(StoreError::Stopping)));
    let store = store.reopened();
    assert_eq!(store.password_of(&ana()).unwrap().phc, None);
    assert!(store.redeem_invitation(id, &[1; 32], Some("phc"), NOW, signer(b"x", 1)).unwrap().issued);
}

#[test]
fn after_a_crash_the_same_request_gets_what_was_on_the_disk() {
    let store = Temporary::new();
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    store.redeem_invitation(id, &[1; 32], Some("phc"), NOW, signer(b"signed", 1)).unwrap();
    let store = store.reopened();
    assert_eq!(store.password_of(&ana()).unwrap().phc.as_deref(), Some("phc"));
    store.admit(&device_of("ana", 1)).unwrap();
    let again = store.redeem_invitation(id, &[1; 32], None, NOW, never).unwrap();
    assert_eq!(again, Redeemed { certificate: certificate(b"signed"), issued: false });
}

#[test]
fn an_invitation_gives_one_certificate_and_gives_it_again_to_the_same_request_for_ten_minutes() {
    let store = Temporary::new();
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    assert!(store.redeem_invitation(id, &[1; 32], None, NOW, signer(b"signed", 1)).unwrap().issued);
    store.admit(&device_of("ana", 1)).unwrap();

    assert!(matches!(store.redeem_invitation(id, &[2; 32], None, NOW, never), Err(StoreError::InvitationUsed)));
    // Nor is anything else of another request judged.
    assert_eq!(store.invitation(id, NOW).unwrap().used_by, Some([1; 32]));
    let late = NOW.plus(Duration::from_secs(599));
    let again = store.redeem_invitation(id, &[1; 32], None, late, never).unwrap();
    assert_eq!(again, Redeemed { certificate: certificate(b"signed"), issued: false });
    let too_late = NOW.plus(Duration::from_secs(600));
    assert!(matches!(store.redeem_invitation(id, &[1; 32], None, too_late, never), Err(StoreError::InvitationUsed)));
}

#[test]
fn a_certificate_for_a_revoked_device_or_an_unknown_user_is_not_noted() {
    let store = Temporary::new();
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    let for_bob = |_: &UserName| Ok((certificate(b"x"), device_of("bob", 1)));
    assert!(matches!(store.redeem_invitation(id, &[1; 32], None, NOW, for_bob), Err(StoreError::NoUser(_))));
    store.add_device(&device_of("ana", 1), NOW).unwrap();
    store.revoke_device(device_of("ana", 1).device, NOW).unwrap();
    let revoked = store.redeem_invitation(id, &[1; 32], None, NOW, signer(b"x", 1));
    assert!(matches!(revoked, Err(StoreError::Revoked(_))));
    let other = store.redeem_invitation(id, &[2; 32], None, NOW, signer(b"y", 2)).unwrap();
    assert!(other.issued, "nobody has used it yet");
}

#[test]
fn of_racing_joins_one_is_signed() {
    let store = Arc::new(Temporary::new());
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    let start = Arc::new(Barrier::new(8));
    let racers: Vec<_> = (0..8)
        .map(|number| {
            let (store, start) = (store.clone(), start.clone());
            std::thread::spawn(move || {
                start.wait();
                store.redeem_invitation(id, &[number; 32], None, NOW, signer(b"x", number))
            })
        })
        .collect();
    let results: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(results.iter().filter(|result| matches!(result, Err(StoreError::InvitationUsed))).count(), 7);
    assert_eq!(store.list_devices().unwrap().len(), 1);
}

#[test]
fn an_invitation_ends_with_its_time() {
    let store = Temporary::new();
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    assert!(store.invitation(id, NOW.plus(TTL - Duration::from_secs(1))).is_ok());
    assert!(matches!(store.invitation(id, NOW.plus(TTL)), Err(StoreError::InvitationExpired)));
    let late = store.redeem_invitation(id, &[1; 32], None, NOW.plus(TTL), never);
    assert!(matches!(late, Err(StoreError::InvitationExpired)));
    // The next one sweeps it away.
    store.create_invitation(&ana(), TTL, NOW.plus(TTL)).unwrap();
    assert!(matches!(store.invitation(id, NOW), Err(StoreError::NoInvitation)));
}

#[test]
fn five_guesses_use_an_invitation_up_and_a_right_one_is_taken_back() {
    let store = Temporary::new();
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    store.count_guess(id).unwrap();
    store.forgive_guess(id).unwrap();
    for left in [4, 3, 2, 1, 0] {
        assert!(store.invitation(id, NOW).is_ok());
        assert_eq!(store.count_guess(id).unwrap(), left);
    }
    assert!(matches!(store.invitation(id, NOW), Err(StoreError::NoInvitation)));
    assert!(matches!(store.count_guess(id), Err(StoreError::NoInvitation)));
    assert!(matches!(store.count_guess(InvitationId([0; 8])), Err(StoreError::NoInvitation)));
    assert_eq!(store.joins_until(NOW).unwrap(), None);
}

#[test]
fn joins_are_answered_while_one_is_pending_or_may_ask_again() {
    let store = Temporary::new();
    assert_eq!(store.joins_until(NOW).unwrap(), None);
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    assert_eq!(store.joins_until(NOW).unwrap(), Some(NOW.plus(TTL)));
    let used = NOW.plus(TTL - Duration::from_secs(1));
    store.redeem_invitation(id, &[1; 32], None, used, signer(b"x", 1)).unwrap();
    assert_eq!(store.joins_until(used).unwrap(), Some(used.plus(ANSWER_AGAIN)));
    assert_eq!(store.joins_until(used.plus(ANSWER_AGAIN)).unwrap(), None);
}
