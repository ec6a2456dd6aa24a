use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::{
    borrow::draft::Lender,
    proto::ErrorKind,
    trust::{
        authority::Authority,
        request::{SubjectKey, new_key},
        ticket::Ticket,
    },
};

/// A lender, and a machine that may join it.
struct Machine {
    dir: tempfile::TempDir,
    profiles: Profiles,
}

struct Lab {
    authority: Authority,
    name: LenderName,
    addresses: Vec<String>,
}

impl Lab {
    fn new() -> Self {
        let authority = Authority::create(UnixTime::now()).unwrap();
        Self { authority, name: "lab".parse().unwrap(), addresses: vec!["lab.example:2278".to_owned()] }
    }
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let profiles = Profiles::at(&dir.path().join("config"), &dir.path().join("state"));
        Self { dir, profiles }
    }

    fn join(&self, lab: &Lab, alias: &str, user: &str) -> Result<(), BorrowError> {
        let key_pem = new_key().unwrap();
        let key = SubjectKey::of_key(key_pem.as_bytes()).unwrap();
        let (alias, user) = (alias.parse().unwrap(), user.parse().unwrap());
        let ca_key = lab.authority.public_key();
        let lender = Lender { name: &lab.name, addresses: &lab.addresses, ca_key: &ca_key };
        let draft = self.profiles.draft(&alias, &lender, &user, key.device(), key_pem.as_bytes())?;
        let certificate = lab.authority.issue_client(&user, &key, UnixTime::now()).unwrap();
        draft.finish(&certificate, lab.authority.cert_der())
    }

    fn hosts(&self) -> PathBuf {
        self.dir.path().join("config/capuchin/hosts")
    }

    fn credentials(&self) -> Result<Credentials, BorrowError> {
        self.profiles.credentials(&"lab".parse().unwrap(), &"ana".parse().unwrap())
    }
}

fn host(text: &str) -> Host {
    text.parse().unwrap()
}

#[test]
fn a_host_that_was_joined_is_found_with_its_key() {
    let (machine, lab) = (Machine::new(), Lab::new());
    machine.join(&lab, "lab", "ana").unwrap();
    let (profile, user) = machine.profiles.find(&host("lab")).unwrap();
    assert_eq!((profile.lender, profile.addresses, user.as_str()), (lab.name, lab.addresses, "ana"));
    assert_eq!(&machine.credentials().unwrap().ca, lab.authority.cert_der());
    let mode = |path: &str| machine.hosts().join(path).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("lab"), mode("lab/ana"), mode("lab/ana/client.key")), (0o700, 0o700, 0o600));
}

#[test]
fn another_user_of_the_same_lender_gets_a_folder_of_his_own() {
    let (machine, lab) = (Machine::new(), Lab::new());
    machine.join(&lab, "lab", "ana").unwrap();
    machine.join(&lab, "lab", "bob").unwrap();
    let profile = machine.profiles.profile(&"lab".parse().unwrap()).unwrap();
    assert_eq!(profile.users.iter().map(UserName::as_str).collect::<Vec<_>>(), ["ana", "bob"]);
    assert_eq!(machine.profiles.find(&host("bob@lab")).unwrap().1.as_str(), "bob");
    assert_eq!(machine.profiles.find(&host("lab")).unwrap().1.as_str(), "ana");
}

#[test]
fn joining_again_replaces_the_key_and_leaves_nothing_behind() {
    let (machine, lab) = (Machine::new(), Lab::new());
    machine.join(&lab, "lab", "ana").unwrap();
    let first = machine.credentials().unwrap();
    machine.join(&lab, "lab", "ana").unwrap();
    let second = machine.credentials().unwrap();
    assert_ne!(*first.key_pem, *second.key_pem);
    assert_ne!(first.chain, second.chain);
    let mut left: Vec<_> =
        std::fs::read_dir(machine.hosts().join("lab")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["ana", "ca.crt", "lender.toml"]);
}

#[test]
fn the_alias_of_another_lender_is_refused_with_a_way_out() {
    let (machine, lab, other) = (Machine::new(), Lab::new(), Lab::new());
    machine.join(&lab, "lab", "ana").unwrap();
    let error = machine.join(&other, "lab", "ana").unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Usage, "lab is the name of another lender here")
    );
    assert!(error.notes()[0].contains("--as"));
    assert_eq!(&machine.credentials().unwrap().ca, lab.authority.cert_der());
    machine.join(&other, "lab2", "ana").unwrap();
}

#[test]
fn a_join_that_ends_half_way_leaves_nothing() {
    let (machine, lab) = (Machine::new(), Lab::new());
    let ca_key = lab.authority.public_key();
    let lender = Lender { name: &lab.name, addresses: &lab.addresses, ca_key: &ca_key };
    let device = "0123456789abcdef".parse().unwrap();
    let draft = machine.profiles.draft(&"lab".parse().unwrap(), &lender, &"ana".parse().unwrap(), device, b"key");
    drop(draft.unwrap());
    assert_eq!(std::fs::read_dir(machine.hosts()).unwrap().count(), 0);
    assert!(machine.profiles.list().unwrap().is_empty());
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_chmod() {
    let (machine, lab) = (Machine::new(), Lab::new());
    machine.join(&lab, "lab", "ana").unwrap();
    let key = machine.hosts().join("lab/ana/client.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = machine.credentials().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains(&format!("chmod 600 {}", key.display())), "{error}");
}

#[test]
fn a_key_that_is_a_link_is_refused() {
    let (machine, lab) = (Machine::new(), Lab::new());
    machine.join(&lab, "lab", "ana").unwrap();
    let key = machine.hosts().join("lab/ana/client.key");
    let elsewhere = machine.dir.path().join("elsewhere");
    std::fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    let error = machine.credentials().err().unwrap();
    assert!(error.to_string().contains("is a symbolic link"), "{error}");
}

#[test]
fn an_unknown_host_says_which_there_are_and_how_to_join() {
    let (machine, lab) = (Machine::new(), Lab::new());
    let error = machine.profiles.find(&host("lab")).unwrap_err();
    assert!(error.notes()[0].contains("joined no host yet") && error.notes()[1].contains("capuchin join"));
    machine.join(&lab, "lab", "ana").unwrap();
    let error = machine.profiles.find(&host("attic")).unwrap_err();
    assert_eq!(error.to_string(), "\"attic\" is not a host that this machine has joined");
    assert_eq!(error.notes()[0], "joined so far: lab");
    let error = machine.profiles.find(&host("bob@lab")).unwrap_err();
    assert_eq!(error.notes()[0], "joined so far: ana@lab");
}

#[test]
fn a_broken_lender_toml_is_named_and_spoils_no_other_host() {
    let (machine, lab) = (Machine::new(), Lab::new());
    machine.join(&lab, "attic", "ana").unwrap();
    machine.join(&lab, "lab", "ana").unwrap();
    keyfile::write(&machine.hosts().join("attic/lender.toml"), b"name = 7", 0o644).unwrap();
    let listed = machine.profiles.list().unwrap();
    assert!(matches!(&listed[0].1, Err(BorrowError::Profile { path, .. }) if path.ends_with("attic/lender.toml")));
    assert!(listed[1].1.is_ok());
}

#[test]
fn a_login_is_remembered_until_it_ends() {
    let machine = Machine::new();
    let (alias, user): (Alias, UserName) = ("lab".parse().unwrap(), "ana".parse().unwrap());
    let saved = SavedTicket {
        ticket: Ticket::random(),
        expires: UnixTime(1000),
        user: user.clone(),
        lender: "lab".parse().unwrap(),
    };
    machine.profiles.save_ticket(&alias, &saved).unwrap();
    let until = |now| machine.profiles.logged_in_until(&alias, &user, UnixTime(now));
    assert_eq!((until(999), until(1000)), (Some(UnixTime(1000)), None));
}

#[test]
fn an_alias_is_a_file_name_and_nothing_else() {
    for good in ["lab", "0", "a.b_c-d", &"a".repeat(63)] {
        assert!(good.parse::<Alias>().is_ok(), "{good}");
    }
    for bad in ["", ".", "..", ".lab", "-x", "a/b", "Lab", "a b", "é", "a\0", &"a".repeat(64)] {
        assert!(bad.parse::<Alias>().is_err(), "{bad}");
    }
    assert_eq!(host("ana@lab").to_string(), "ana@lab");
    assert!("@lab".parse::<Host>().is_err() && "ana@".parse::<Host>().is_err());
}

#[test]
fn of_the_addresses_that_a_lender_tells_those_are_kept_that_a_user_could_have_set() {
    let (machine, lab) = (Machine::new(), Lab::new());
    machine.join(&lab, "lab", "ana").unwrap();
    let alias = "lab".parse().unwrap();
    let known = || machine.profiles.profile(&alias).unwrap();
    let told = ["a\u{1b}c:1", "a\nb:1", "user@a:1", "new.example:1"].map(str::to_owned);
    machine.profiles.learn_addresses(&known(), &told);
    assert_eq!(known().addresses, ["new.example:1", "lab.example:2278"]);
}
