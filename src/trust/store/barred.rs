//! Users of the lender's own machine who were taken away: a name that needs no entry to come in needs one to stay out.

use redb::{ReadableTable, TableDefinition, TableHandle, WriteTransaction};

use super::{Store, StoreError, grants, storage, user_name};
use crate::{proto::UserName, trust::UnixTime};

impl Store {
    /// Keeps a user of this machine out, whether there is an entry of this name or not. A new user of the name, or an
    /// invitation for it, ends that. Live sessions are the caller's business.
    ///
    /// # Errors
    /// If the store fails.
    pub fn bar(&self, user: &UserName, now: UnixTime) -> Result<(), StoreError> {
        self.take_back(|txn| bar(txn, user, now))
    }

    /// All who are kept out, by name, and since when.
    ///
    /// # Errors
    /// If the store fails.
    pub fn list_barred(&self) -> Result<Vec<(UserName, UnixTime)>, StoreError> {
        let txn = self.read()?;
        let barred = txn.open_table(BARRED).map_err(storage)?;
        let mut found = Vec::new();
        for entry in barred.iter().map_err(storage)? {
            let (name, since) = entry.map_err(storage)?;
            found.push((user_name(BARRED.name(), name.value())?, UnixTime(since.value())));
        }
        Ok(found)
    }

    /// As [`Self::bar`], and ends what the user was granted: what [`Self::revoke_user`] does for a user without an entry.
    ///
    /// # Errors
    /// If the store fails.
    pub fn revoke_local(&self, user: &UserName, now: UnixTime) -> Result<(), StoreError> {
        self.take_back(|txn| {
            bar(txn, user, now)?;
            grants::remove_all(txn, user)
        })
    }
}

/// As [`Store::bar`], as part of a larger transaction.
pub(super) fn bar(txn: &WriteTransaction, user: &UserName, now: UnixTime) -> Result<(), StoreError> {
    txn.open_table(BARRED).map_err(storage)?.insert(user.as_str(), now.0).map(drop).map_err(storage)
}

/// Lets a user in again.
pub(super) fn lift(txn: &WriteTransaction, user: &UserName) -> Result<(), StoreError> {
    txn.open_table(BARRED).map_err(storage)?.remove(user.as_str()).map(drop).map_err(storage)
}

/// Whether a user of this machine may come in, for all that the store knows.
pub(super) fn standing(barred: &impl ReadableTable<&'static str, u64>, user: &UserName) -> Result<(), StoreError> {
    match barred.get(user.as_str()).map_err(storage)? {
        Some(_) => Err(StoreError::Barred(user.clone())),
        None => Ok(()),
    }
}

/// By user: when, in seconds since 1970.
pub(super) const BARRED: TableDefinition<'static, &'static str, u64> = TableDefinition::new("barred");
