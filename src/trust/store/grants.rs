//! Timed grants: what an admin allowed a user for a while, in the words of the policy.

use std::cell::Cell;

use redb::{ReadableTable, TableHandle, WriteTransaction};

use super::{Cbor, Id, META, Store, StoreError, decode, put, remove_if, storage, user_name};
use crate::{proto::UserName, trust::UnixTime};

/// Most grants at once: rules that should last belong into policy.toml, and each is looked at by every decision.
pub const GRANTS_MAX: usize = 1024;

/// One grant. Kind and target are texts here; what they mean, the policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedGrant {
    /// Its number, never used twice.
    pub number: u64,
    /// To whom.
    pub user: UserName,
    /// The key in policy.toml.
    pub kind: String,
    /// The pattern; empty where a kind needs none.
    pub target: String,
    /// Since when.
    pub created: UnixTime,
    /// Until when.
    pub expires: UnixTime,
}

impl Store {
    /// Keeps a grant until `expires`, and drops those that have ended. Gives its number.
    ///
    /// # Errors
    /// If there are as many as there may be.
    pub fn add_grant(
        &self,
        user: &UserName,
        kind: &str,
        target: &str,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<u64, StoreError> {
        self.write(|txn| {
            let mut grants = txn.open_table(GRANTS).map_err(storage)?;
            remove_if(&mut grants, GRANTS.name(), |old: &GrantRecord| old.expires <= now)?;
            if redb::ReadableTableMetadata::len(&grants).map_err(storage)? >= GRANTS_MAX as u64 {
                return Err(StoreError::TooManyGrants);
            }
            let mut meta = txn.open_table(META).map_err(storage)?;
            let number = meta.get(LAST).map_err(storage)?.map_or(0, |last| last.value()) + 1;
            meta.insert(LAST, number).map_err(storage)?;
            let record = GrantRecord {
                user: user.as_str().to_owned(),
                kind: kind.to_owned(),
                target: target.to_owned(),
                created: now,
                expires,
            };
            put(&mut grants, number.to_be_bytes(), &record)?;
            Ok(number)
        })
    }

    /// Those that have not ended, in the order of their numbers.
    ///
    /// # Errors
    /// If the store fails.
    pub fn list_grants(&self, now: UnixTime) -> Result<Vec<TimedGrant>, StoreError> {
        let txn = self.read()?;
        let grants = txn.open_table(GRANTS).map_err(storage)?;
        let mut listed = Vec::new();
        for entry in grants.iter().map_err(storage)? {
            let (number, value) = entry.map_err(storage)?;
            let record: GrantRecord = decode(GRANTS.name(), value.value())?;
            if record.expires > now {
                listed.push(TimedGrant {
                    number: u64::from_be_bytes(number.value()),
                    user: user_name(GRANTS.name(), &record.user)?,
                    kind: record.kind,
                    target: record.target,
                    created: record.created,
                    expires: record.expires,
                });
            }
        }
        Ok(listed)
    }

    /// Ends a grant before its time.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn remove_grant(&self, number: u64) -> Result<(), StoreError> {
        let found = Cell::new(false);
        self.take_back(|txn| {
            let mut grants = txn.open_table(GRANTS).map_err(storage)?;
            let removed = grants.remove(number.to_be_bytes()).map_err(storage)?.is_some();
            // Gone after it was found: an attempt that seemed to fail has lasted.
            found.set(found.get() || removed);
            found.get().then_some(()).ok_or(StoreError::NoGrant(number))
        })
    }
}

pub(super) fn remove_all(txn: &WriteTransaction, user: &UserName) -> Result<(), StoreError> {
    let mut grants = txn.open_table(GRANTS).map_err(storage)?;
    remove_if(&mut grants, GRANTS.name(), |record: &GrantRecord| record.user == user.as_str())
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct GrantRecord {
    #[n(0)]
    user: String,
    #[n(1)]
    kind: String,
    #[n(2)]
    target: String,
    #[n(3)]
    created: UnixTime,
    #[n(4)]
    expires: UnixTime,
}

/// By number, big-endian.
pub(super) const GRANTS: Cbor<Id> = Cbor::new("grants");
/// Where the last number is kept.
const LAST: &str = "last-grant";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_end_are_removed_and_never_share_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state.redb")).unwrap();
        let (ana, now) = ("ana".parse().unwrap(), UnixTime(1_000));
        let add = |expires, now| store.add_grant(&ana, "connect", "db:1", UnixTime(expires), now).unwrap();
        let numbers = |now| store.list_grants(now).unwrap().iter().map(|grant| grant.number).collect::<Vec<_>>();
        assert_eq!((add(1_010, now), add(1_020, now)), (1, 2));
        assert_eq!(numbers(now), [1, 2]);
        assert_eq!(numbers(UnixTime(1_010)), [2], "its last second is over");
        store.remove_grant(2).unwrap();
        assert!(matches!(store.remove_grant(2), Err(StoreError::NoGrant(2))));
        assert_eq!(add(1_030, UnixTime(1_011)), 3);
        assert_eq!(numbers(now), [3], "what had ended is gone for good");
        store.write(|txn| remove_all(txn, &ana)).unwrap();
        assert!(numbers(now).is_empty());
    }
}
