//! Users of the operating system, and what each is called here.
//!
//! Invariant: no two users of /etc/passwd are given one name. A name that is ours as it stands belongs to its user; one that
//! had to be mapped, and then is somebody else's too, is given to nobody.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

use crate::{
    proto::{DeviceId, OS_USER_MAX, UserName},
    session,
    trust::{UnixTime, identity::Identity},
};

/// What the kernel says of a user whom this user namespace does not know (user_namespaces(7)): not one user, but any.
const OVERFLOW_UID: u32 = 65534;

/// A user of this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OsUser {
    pub(super) uid: u32,
    /// What he is called here.
    pub(super) name: UserName,
    /// What the system calls him, where that is not a name of ours.
    pub(super) mapped_from: Option<String>,
}

/// A user of this machine as programs that run as him need it, by /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
}

/// Why somebody is nobody here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OsUserError {
    #[error(
        "uid {OVERFLOW_UID} may be anybody: it stands for every user whom the lender's user namespace does not know"
    )]
    Overflow,
    #[error("the OS user {from:?} would be {name} here, which is another one's name too: join instead")]
    Ambiguous { from: String, name: UserName },
}

impl OsUser {
    /// The user of a uid.
    pub(super) fn find(uid: u32) -> Result<Self, OsUserError> {
        if uid == OVERFLOW_UID {
            return Err(OsUserError::Overflow);
        }
        if uid == rustix::process::geteuid().as_raw() {
            // The lender's own user is called as his policy calls him.
            let (name, mapped_from) = owner_name();
            return Ok(Self { uid, name, mapped_from });
        }
        Self::in_passwd(&passwd(), uid)
    }

    fn in_passwd(passwd: &str, uid: u32) -> Result<Self, OsUserError> {
        let from = os_name(passwd, uid).map_or_else(|| unnamed(uid), str::to_owned);
        let (name, mapped_from) = mapped_user(&from);
        let unlisted = os_name(passwd, uid).is_none();
        let taken = |(other, other_uid): (&str, u32)| {
            // A name of ours as it stands is nobody else's, whatever maps to it.
            let theirs = if mapped_from.is_some() || unlisted { mapped_user(other).0 == name } else { other == from };
            theirs && other_uid != uid
        };
        if entries(passwd).any(taken) {
            return Err(OsUserError::Ambiguous { from, name });
        }
        Ok(Self { uid, name, mapped_from })
    }

    /// Whether a user of this machine is called so.
    pub(super) fn is_called(name: &UserName) -> bool {
        let unnamed = |name: &str| name.strip_prefix("uid").is_some_and(|uid| uid.parse::<u32>().is_ok());
        owner_name().0 == *name
            || unnamed(name.as_str())
            || entries(&passwd()).any(|(other, _)| mapped_user(other).0 == *name)
    }

    /// Who he is to the policy: no certificate says it, so none ends.
    pub(super) fn identity(&self) -> Identity {
        Identity {
            user: self.name.clone(),
            device: DeviceId::of_local_user(self.uid),
            serial: String::new(),
            not_after: UnixTime(u64::MAX),
        }
    }
}

impl Account {
    /// The user who is called so.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::find(&session::passwd(), |account| account.name == name)
    }

    /// The user of a uid: of several names the first.
    pub(super) fn of(uid: u32) -> Option<Self> {
        Self::find(&session::passwd(), |account| account.uid == uid)
    }

    /// A user whom /etc/passwd does not have, as containers make them: this process's own group and home.
    pub(super) fn unnamed(uid: u32) -> Self {
        let home = session::home_folder().unwrap_or_else(|| PathBuf::from("/"));
        let gid = rustix::process::getegid().as_raw();
        Self { name: unnamed(uid), uid, gid, home, shell: PathBuf::from(DEFAULT_SHELL) }
    }

    fn find(passwd: &[u8], fits: impl Fn(&Self) -> bool) -> Option<Self> {
        session::passwd_lines(passwd).filter_map(Self::read).find(|account| fits(account))
    }

    /// One line of it, unless it has no numbers.
    fn read([name, _, uid, gid, _, home, shell]: [&[u8]; 7]) -> Option<Self> {
        let number = |field: &[u8]| str::from_utf8(field).ok()?.parse().ok();
        let path = |field: &[u8]| PathBuf::from(OsStr::from_bytes(field));
        let or = |field: &[u8], other: &str| path(if field.is_empty() { other.as_bytes() } else { field });
        let (name, uid, gid) = (String::from_utf8_lossy(name).into_owned(), number(uid)?, number(gid)?);
        Some(Self { name, uid, gid, home: or(home, "/"), shell: or(shell, DEFAULT_SHELL) })
    }
}

/// Who has no shell in /etc/passwd has this one (passwd(5)).
const DEFAULT_SHELL: &str = "/bin/sh";

/// The user name for the OS user who runs this, and what it was mapped from if it had to be.
pub fn owner_name() -> (UserName, Option<String>) {
    let uid = rustix::process::geteuid().as_raw();
    let named = os_name(&passwd(), uid).map(str::to_owned);
    let name = named.or_else(|| std::env::var("USER").ok()).unwrap_or_else(|| unnamed(uid));
    mapped_user(&name)
}

fn passwd() -> String {
    String::from_utf8_lossy(&session::passwd()).into_owned()
}

/// Names and uids, in the order of the file: of several names the first counts (getpwuid(3)).
fn entries(passwd: &str) -> impl Iterator<Item = (&str, u32)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

fn os_name(passwd: &str, uid: u32) -> Option<&str> {
    entries(passwd).find(|(_, other)| *other == uid).map(|(name, _)| name)
}

fn unnamed(uid: u32) -> String {
    format!("uid{uid}")
}

fn mapped_user(name: &str) -> (UserName, Option<String>) {
    if let Ok(user) = name.parse() {
        return (user, None);
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
    let safe: String = name.to_lowercase().chars().map(|c| if allowed(c) { c } else { '_' }).take(31).collect();
    // An underscore may stand first, whatever follows it.
    let user = safe.parse().or_else(|_| format!("_{safe}").parse());
    let from = name.chars().take(OS_USER_MAX / char::MAX.len_utf8()).collect();
    (user.expect("an underscore and 31 allowed characters are a user name"), Some(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_os_names_become_user_names_and_are_said() {
        assert_eq!(mapped_user("ana"), ("ana".parse().unwrap(), None));
        assert_eq!(mapped_user("DOM\\Ana B"), ("dom_ana_b".parse().unwrap(), Some("DOM\\Ana B".into())));
        assert_eq!(mapped_user("1a"), ("_1a".parse().unwrap(), Some("1a".into())));
        assert!(mapped_user(&"é".repeat(99)).1.is_some_and(|from| from.len() <= OS_USER_MAX));
    }

    #[test]
    fn a_uid_is_called_as_the_system_calls_it_and_no_two_are_called_the_same() {
        let passwd = "root:x:0:0::/:/bin/sh\nana:x:1000:1000::/:/bin/sh\nAna:x:1001:1001::/:\nDOM\\Bo:x:1002:1::/:\n\
                      broken\n:x:x\nana2:x:1000:1::/:\ntwin:x:1003:1::/:\ntwin:x:1004:1::/:\nuid1005:x:1006:1::/:\nB b:x:1007:1::/:\nB/b:x:1008:1::/:\n";
        let name = |uid| OsUser::in_passwd(passwd, uid).map(|user| (user.name.to_string(), user.mapped_from));
        assert_eq!(name(0), Ok(("root".to_owned(), None)));
        assert_eq!(name(1000), Ok(("ana".to_owned(), None)), "the first of two names");
        assert_eq!(name(1002), Ok(("dom_bo".to_owned(), Some("DOM\\Bo".to_owned()))));
        assert_eq!(name(1006), Ok(("uid1005".to_owned(), None)));
        assert_eq!(name(4242), Ok(("uid4242".to_owned(), None)), "nobody has named it");
        for uid in [1001, 1003, 1004, 1005, 1007, 1008] {
            assert!(matches!(name(uid), Err(OsUserError::Ambiguous { .. })), "{uid}: {:?}", name(uid));
        }
        assert_eq!(OsUser::find(OVERFLOW_UID), Err(OsUserError::Overflow));
    }

    #[test]
    fn the_owner_is_called_at_the_door_as_in_the_policy_that_is_made_for_him() {
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(OsUser::find(uid).unwrap().name, owner_name().0);
        assert!(OsUser::is_called(&owner_name().0) && !OsUser::is_called(&"nobody-has-this.name".parse().unwrap()));
    }

    #[test]
    fn an_account_has_what_a_login_needs() {
        let passwd =
            b"broken:x:1\nana:x:1000:100:Ana:/home/ana:/bin/bash\nbare:x:1001:101:::\nroot2:x:0:0::/:/bin/sh\n";
        let ana = Account::find(passwd, |account| account.name == "ana").unwrap();
        let (home, shell) = (PathBuf::from("/home/ana"), PathBuf::from("/bin/bash"));
        assert_eq!(ana, Account { name: "ana".to_owned(), uid: 1000, gid: 100, home, shell });
        let bare = Account::find(passwd, |account| account.uid == 1001).unwrap();
        assert_eq!((bare.home, bare.shell), (PathBuf::from("/"), PathBuf::from("/bin/sh")));
        assert!(Account::find(passwd, |account| account.name == "broken").is_none());
    }
}
