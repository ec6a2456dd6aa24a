//! Users: a name, perhaps a password, and an epoch that ends everything issued before.

use std::cell::Cell;

use redb::{ReadableTable, TableHandle, WriteTransaction};

use super::{
    Cbor, Store, StoreError, barred, decode,
    devices::{self, DeviceRecord},
    get, grants, invitations, put, storage, tickets, user_name,
};
use crate::{
    proto::{DeviceId, UserName},
    trust::UnixTime,
};

/// A user, as the admin sees one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: UserName,
    /// When the admin made it.
    pub created: UnixTime,
    /// Whether a password was set; the first device sets it.
    pub has_password: bool,
}

/// What a login needs to check a password.
///
/// The epoch is read together with the hash and goes into the [`Login`](super::Login): a password that is changed while
/// the old one is still being hashed then gives no ticket.
pub struct StoredPassword {
    /// The hash (PHC), if one was set.
    pub phc: Option<String>,
    /// The user's epoch.
    pub epoch: u64,
}

impl Store {
    /// Adds a user. One of this name who was barred from the lender's own machine is let in again.
    ///
    /// # Errors
    /// If there is one of this name.
    pub fn add_user(&self, user: &UserName, now: UnixTime) -> Result<(), StoreError> {
        self.write(|txn| {
            let mut users = txn.open_table(USERS).map_err(storage)?;
            if users.get(user.as_str()).map_err(storage)?.is_some() {
                return Err(StoreError::UserExists(user.clone()));
            }
            barred::lift(txn, user)?;
            put(&mut users, user.as_str(), &UserRecord { created: now, password: None, epoch: 0 })
        })
    }

    /// All users, by name.
    ///
    /// # Errors
    /// If the store fails.
    pub fn list_users(&self) -> Result<Vec<User>, StoreError> {
        let txn = self.read()?;
        let users = txn.open_table(USERS).map_err(storage)?;
        let mut found = Vec::new();
        for entry in users.iter().map_err(storage)? {
            let (name, value) = entry.map_err(storage)?;
            let record: UserRecord = decode(USERS.name(), value.value())?;
            found.push(User {
                name: user_name(USERS.name(), name.value())?,
                created: record.created,
                has_password: record.password.is_some(),
            });
        }
        Ok(found)
    }

    /// Removes a user with all devices, grants, invitations and tickets, and bars the name on the lender's own machine.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn remove_user(&self, user: &UserName, now: UnixTime) -> Result<(), StoreError> {
        let found = Cell::new(false);
        self.take_back(|txn| {
            let removed = txn.open_table(USERS).map_err(storage)?.remove(user.as_str()).map_err(storage)?.is_some();
            // Gone after it was found: an attempt that seemed to fail has lasted.
            found.set(found.get() || removed);
            if !found.get() {
                return Err(StoreError::NoUser(user.clone()));
            }
            barred::bar(txn, user, now)?;
            devices::remove_all(txn, user)?;
            invitations::remove_all(txn, user)?;
            grants::remove_all(txn, user)?;
            tickets::remove_all(txn, user)
        })
    }

    /// Sets the password, and ends every ticket of the user.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn set_password(&self, user: &UserName, phc: &str) -> Result<(), StoreError> {
        self.take_back(|txn| {
            change(txn, user, |record| {
                record.password = Some(phc.to_owned());
                record.epoch += 1;
                Ok(())
            })
        })
    }

    /// Ends every ticket of the user: `capuchind logout`.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn drop_tickets(&self, user: &UserName) -> Result<(), StoreError> {
        self.take_back(|txn| {
            change(txn, user, |record| {
                record.epoch += 1;
                Ok(())
            })
        })
    }

    /// Revokes every device of the user, ends all tickets, grants and invitations, and bars the name on the lender's own
    /// machine. Gives the devices that were not revoked before.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn revoke_user(&self, user: &UserName, now: UnixTime) -> Result<Vec<DeviceId>, StoreError> {
        self.take_back(|txn| {
            change(txn, user, |record| {
                record.epoch += 1;
                Ok(())
            })?;
            barred::bar(txn, user, now)?;
            invitations::remove_all(txn, user)?;
            grants::remove_all(txn, user)?;
            let mut devices = txn.open_table(devices::DEVICES).map_err(storage)?;
            let mut revoked = Vec::new();
            for entry in devices.iter().map_err(storage)? {
                let (id, value) = entry.map_err(storage)?;
                let record: DeviceRecord = decode(devices::DEVICES.name(), value.value())?;
                if record.user == user.as_str() && record.revoked.is_none() {
                    revoked.push((id.value(), record));
                }
            }
            for (id, record) in &mut revoked {
                record.revoked = Some(now);
                put(&mut devices, *id, record)?;
            }
            Ok(revoked.into_iter().map(|(id, _)| DeviceId::from_bytes(id)).collect())
        })
    }

    /// The password hash and the epoch it belongs to.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn password_of(&self, user: &UserName) -> Result<StoredPassword, StoreError> {
        let txn = self.read()?;
        let users = txn.open_table(USERS).map_err(storage)?;
        let record = record_of(&users, user)?;
        Ok(StoredPassword { phc: record.password, epoch: record.epoch })
    }
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct UserRecord {
    #[n(0)]
    created: UnixTime,
    #[n(1)]
    password: Option<String>,
    /// Raised by whatever must end all tickets.
    #[n(2)]
    pub(super) epoch: u64,
}

pub(super) fn record_of(
    users: &impl ReadableTable<&'static str, &'static [u8]>,
    user: &UserName,
) -> Result<UserRecord, StoreError> {
    get(users, USERS.name(), user.as_str())?.ok_or_else(|| StoreError::NoUser(user.clone()))
}

fn change(
    txn: &WriteTransaction,
    user: &UserName,
    edit: impl FnOnce(&mut UserRecord) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut users = txn.open_table(USERS).map_err(storage)?;
    let mut record = record_of(&users, user)?;
    edit(&mut record)?;
    put(&mut users, user.as_str(), &record)
}

/// Sets the password of a user who has none, as part of a larger transaction. Of two first devices that join at once,
/// one sets it.
pub(super) fn set_first_password(txn: &WriteTransaction, user: &UserName, phc: &str) -> Result<(), StoreError> {
    change(txn, user, |record| {
        if record.password.is_some() {
            return Err(StoreError::HasPassword(user.clone()));
        }
        record.password = Some(phc.to_owned());
        record.epoch += 1;
        Ok(())
    })
}

pub(super) const USERS: Cbor<&'static str> = Cbor::new("users");
