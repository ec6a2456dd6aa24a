use std::time::Duration;

use super::*;
use crate::trust::{
    UnixTime,
    identity::Identity,
    keyfile,
    proof::{JoinKeys, TicketKey},
    ticket::Ticket,
};

mod invitations;
mod tickets;

const NOW: UnixTime = UnixTime(1_700_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const TTL: Duration = Duration::from_secs(15 * 60);
const EXPORTER: [u8; 32] = [9; 32];

struct Temporary {
    store: Store,
    dir: tempfile::TempDir,
}

impl std::ops::Deref for Temporary {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Temporary {
    /// A store with the user ana.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.redb")).unwrap();
        store.add_user(&ana(), NOW).unwrap();
        Self { store, dir }
    }

    fn reopened(self) -> Self {
        drop(self.store);
        Self { store: Store::open(&self.dir.path().join("state.redb")).unwrap(), dir: self.dir }
    }

    /// ana's device, and a login on it.
    fn logged_in(&self) -> (Identity, Login) {
        let identity = device_of("ana", 1);
        self.add_device(&identity, NOW).unwrap();
        (identity, Login { at: NOW, epoch: self.password_of(&ana()).unwrap().epoch, by_certificate: false })
    }

    fn redeem(&self, ticket: &Ticket, identity: &Identity, now: UnixTime) -> Result<Login, StoreError> {
        let proof = TicketKey::derive(ticket).proof(&EXPORTER);
        self.redeem_ticket(ticket.id(), &proof, &EXPORTER, identity, now)
    }
}

fn ana() -> UserName {
    "ana".parse().unwrap()
}

fn bob() -> UserName {
    "bob".parse().unwrap()
}

fn device_of(user: &str, number: u8) -> Identity {
    Identity {
        user: user.parse().unwrap(),
        device: DeviceId::from_bytes([number; 8]),
        serial: format!("{number:032x}"),
        not_after: NOW.plus(90 * 24 * HOUR),
    }
}

fn refusal<T>(result: Result<T, StoreError>) -> TicketRefusal {
    match result.err() {
        Some(StoreError::Ticket(refusal)) => refusal,
        other => panic!("not a refused ticket: {other:?}"),
    }
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let store = Temporary::new();
    assert!(matches!(Store::open(&store.dir.path().join("state.redb")), Err(StoreError::InUse)));
}

#[test]
fn the_store_is_for_its_owner_only() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let store = Temporary::new();
    let path = store.dir.path().join("state.redb");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(store.store);
    assert!(matches!(Store::open(&path), Err(StoreError::File(KeyFileError::Mode { .. }))));
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let store = Temporary::new();
    store.write(|txn| txn.open_table(META).unwrap().insert("schema", SCHEMA + 1).map(drop).map_err(storage)).unwrap();
    let path = store.dir.path().join("state.redb");
    drop(store.store);
    assert!(matches!(Store::open(&path), Err(StoreError::Newer { got: 2 })));
}

#[test]
fn a_file_that_is_no_store_is_an_error_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    for content in [&[7; 100_000][..], &[]] {
        keyfile::write(&path, content, 0o600).unwrap();
        let error = Store::open(&path).err().expect("no store");
        assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    }
}

#[test]
fn everything_survives_a_restart() {
    let store = Temporary::new();
    store.set_password(&ana(), "phc").unwrap();
    let (identity, login) = store.logged_in();
    let (ticket, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    let (id, secret) = store.create_invitation(&ana(), TTL, NOW).unwrap();
    store.revoke_device(device_of("ana", 1).device, NOW).unwrap();

    let store = store.reopened();
    assert_eq!(store.list_users().unwrap(), [User { name: ana(), created: NOW, has_password: true }]);
    assert_eq!(store.password_of(&ana()).unwrap().phc.as_deref(), Some("phc"));
    assert_eq!(store.device(identity.device).unwrap().unwrap().revoked, Some(NOW));
    assert!(matches!(store.redeem(&ticket, &identity, NOW), Err(StoreError::Revoked(_))));
    let proof = JoinKeys::derive(&secret).client_proof(&EXPORTER, b"request");
    assert!(store.invitation(id, NOW).unwrap().keys.verify_client(&EXPORTER, b"request", &proof));
}

#[test]
fn a_user_is_added_once_and_unknown_users_are_told() {
    let store = Temporary::new();
    assert!(matches!(store.add_user(&ana(), NOW), Err(StoreError::UserExists(_))));
    assert!(matches!(store.set_password(&bob(), "phc"), Err(StoreError::NoUser(_))));
    assert!(matches!(store.remove_user(&bob(), NOW), Err(StoreError::NoUser(_))));
    assert!(matches!(store.create_invitation(&bob(), TTL, NOW), Err(StoreError::NoUser(_))));
    assert!(matches!(store.add_device(&device_of("bob", 1), NOW), Err(StoreError::NoUser(_))));
}

#[test]
fn a_removed_user_takes_devices_invitations_and_tickets_along() {
    let store = Temporary::new();
    store.add_user(&bob(), NOW).unwrap();
    store.add_device(&device_of("bob", 2), NOW).unwrap();
    let (identity, login) = store.logged_in();
    let (ticket, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();

    store.remove_user(&ana(), NOW).unwrap();
    assert!(matches!(store.admit(&identity), Err(StoreError::NoUser(_))));
    // Even the next user of the same name inherits nothing.
    store.add_user(&ana(), NOW).unwrap();
    assert!(matches!(store.admit(&identity), Err(StoreError::NoDevice(_))));
    assert!(matches!(store.invitation(id, NOW), Err(StoreError::NoInvitation)));
    assert_eq!(refusal(store.redeem(&ticket, &identity, NOW)), TicketRefusal::Unknown);
    assert!(matches!(store.issue_ticket(&identity, login, 8 * HOUR, NOW), Err(StoreError::NoDevice(_))));
    store.admit(&device_of("bob", 2)).unwrap();
}

#[test]
fn a_device_is_admitted_until_it_is_revoked_and_a_renewal_does_not_undo_that() {
    let store = Temporary::new();
    let identity = device_of("ana", 1);
    assert!(matches!(store.admit(&identity), Err(StoreError::NoDevice(_))));
    store.add_device(&identity, NOW).unwrap();
    store.admit(&identity).unwrap();
    store.revoke_device(identity.device, NOW.plus(HOUR)).unwrap();
    store.revoke_device(identity.device, NOW.plus(2 * HOUR)).unwrap();
    assert!(matches!(store.admit(&identity), Err(StoreError::Revoked(_))));
    assert!(matches!(store.add_device(&identity, NOW), Err(StoreError::Revoked(_))));
    assert_eq!(store.device(identity.device).unwrap().unwrap().revoked, Some(NOW.plus(HOUR)));
}

#[test]
fn a_device_of_ana_is_never_one_of_bob() {
    let store = Temporary::new();
    store.add_user(&bob(), NOW).unwrap();
    store.add_device(&device_of("ana", 1), NOW).unwrap();
    assert!(matches!(store.admit(&device_of("bob", 1)), Err(StoreError::NoDevice(_))));
    assert!(matches!(store.add_device(&device_of("bob", 1), NOW), Err(StoreError::NoDevice(_))));
    store.admit(&device_of("ana", 1)).unwrap();
}

#[test]
fn a_renewed_device_keeps_the_day_it_joined() {
    let store = Temporary::new();
    store.add_device(&device_of("ana", 1), NOW).unwrap();
    store.touch(device_of("ana", 1).device, NOW.plus(HOUR)).unwrap();
    let renewed = Identity { serial: "f".repeat(32), ..device_of("ana", 1) };
    store.add_device(&renewed, NOW.plus(2 * HOUR)).unwrap();
    let device = store.list_devices().unwrap().remove(0);
    assert_eq!((device.added, device.last_seen, device.serial), (NOW, NOW.plus(2 * HOUR), "f".repeat(32)));
    assert!(matches!(store.touch(DeviceId::from_bytes([7; 8]), NOW), Err(StoreError::NoDevice(_))));
}

#[test]
fn a_revoked_user_loses_devices_tickets_and_invitations_at_once() {
    let store = Temporary::new();
    store.add_user(&bob(), NOW).unwrap();
    store.add_device(&device_of("bob", 3), NOW).unwrap();
    let (identity, login) = store.logged_in();
    store.add_device(&device_of("ana", 2), NOW).unwrap();
    store.revoke_device(device_of("ana", 2).device, NOW).unwrap();
    let (ticket, _) = store.issue_ticket(&identity, login, 8 * HOUR, NOW).unwrap();
    let (id, _) = store.create_invitation(&ana(), TTL, NOW).unwrap();

    assert_eq!(store.revoke_user(&ana(), NOW).unwrap(), [identity.device]);
    assert!(matches!(store.admit(&identity), Err(StoreError::Revoked(_))));
    assert_eq!(refusal(store.redeem(&ticket, &identity, NOW)), TicketRefusal::Withdrawn);
    assert!(matches!(store.invitation(id, NOW), Err(StoreError::NoInvitation)));
    store.admit(&device_of("bob", 3)).unwrap();
}

#[test]
fn a_local_user_needs_no_entry_and_is_out_from_a_revocation_to_an_invitation() {
    let mut store = Temporary::new();
    let local = |name: &str| Identity { device: DeviceId::of_local_user(1000), ..device_of(name, 1) };
    let out = |store: &Temporary, name: &str| matches!(store.admit(&local(name)), Err(StoreError::Barred(_)));
    assert!(!out(&store, "ana") && !out(&store, "bob"));
    store.revoke_user(&ana(), NOW).unwrap();
    assert!(out(&store, "ana") && !out(&store, "bob"));
    store.create_invitation(&ana(), TTL, NOW).unwrap();
    assert!(!out(&store, "ana"));
    store.remove_user(&ana(), NOW).unwrap();
    store.bar(&bob(), NOW).unwrap();
    store = store.reopened();
    assert!(out(&store, "ana") && out(&store, "bob"));
    for user in [ana(), bob()] {
        store.add_user(&user, NOW).unwrap();
    }
    assert!(!out(&store, "ana") && !out(&store, "bob"));
}

#[test]
fn a_store_whose_disk_fails_is_no_use_until_the_file_is_there_again_and_needs_no_restart() {
    let store = Temporary::new();
    let path = store.dir.path().join("state.redb");
    store.fail();
    assert_eq!(store.list_users().unwrap().len(), 1, "it is opened again");

    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    store.fail();
    for _ in 0..3 {
        let error = store.list_users().unwrap_err();
        assert!(error.is_of_disk(), "{error:?}");
    }
    std::fs::write(&path, whole).unwrap();
    // Who writes need not wait for the pause after a failure.
    store.add_user(&bob(), NOW).unwrap();
    assert_eq!(store.list_users().unwrap().len(), 2);
}
