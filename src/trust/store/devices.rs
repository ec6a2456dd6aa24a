//! Devices: whose they are, and whether they were taken away.

use redb::{ReadableTable, TableHandle, WriteTransaction};

use super::{Cbor, Id, Store, StoreError, barred, decode, get, put, remove_if, storage, user_name, users};
use crate::{
    proto::{DeviceId, UserName},
    trust::{UnixTime, identity::Identity},
};

/// A device, as the admin sees one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which device.
    pub id: DeviceId,
    /// Whose.
    pub user: UserName,
    /// Serial number of its newest certificate.
    pub serial: String,
    /// When it joined.
    pub added: UnixTime,
    /// When it last connected.
    pub last_seen: UnixTime,
    /// When it was revoked, if it was.
    pub revoked: Option<UnixTime>,
    /// When its newest certificate ends.
    pub not_after: UnixTime,
}

impl Store {
    /// Notes a device with its certificate: a new one, or a new certificate of a known one.
    ///
    /// # Errors
    /// If there is no such user, the device is another user's, or it was revoked: a renewal does not undo that.
    pub fn add_device(&self, identity: &Identity, now: UnixTime) -> Result<(), StoreError> {
        self.write(|txn| add(txn, identity, now))
    }

    /// Whether a certificate is still good, to be asked at every handshake and before every ticket. Time is not judged
    /// here: TLS did. A user of the lender's own machine, who has none, needs no entry, but must not be barred.
    ///
    /// # Errors
    /// If the user or the device is unknown here, or the device was revoked; for a local user, [`StoreError::Barred`].
    pub fn admit(&self, identity: &Identity) -> Result<(), StoreError> {
        let txn = self.read()?;
        if identity.device.local_uid().is_some() {
            return barred::standing(&txn.open_table(barred::BARRED).map_err(storage)?, &identity.user);
        }
        users::record_of(&txn.open_table(users::USERS).map_err(storage)?, &identity.user)?;
        standing(&txn.open_table(DEVICES).map_err(storage)?, &identity.user, identity.device).map(drop)
    }

    /// One device.
    ///
    /// # Errors
    /// If the store fails.
    pub fn device(&self, id: DeviceId) -> Result<Option<Device>, StoreError> {
        let txn = self.read()?;
        let devices = txn.open_table(DEVICES).map_err(storage)?;
        let record: Option<DeviceRecord> = get(&devices, DEVICES.name(), *id.as_bytes())?;
        record.map(|record| record.shown(id)).transpose()
    }

    /// All devices, revoked ones too.
    ///
    /// # Errors
    /// If the store fails.
    pub fn list_devices(&self) -> Result<Vec<Device>, StoreError> {
        let txn = self.read()?;
        let devices = txn.open_table(DEVICES).map_err(storage)?;
        let mut found = Vec::new();
        for entry in devices.iter().map_err(storage)? {
            let (id, value) = entry.map_err(storage)?;
            found.push(decode::<DeviceRecord>(DEVICES.name(), value.value())?.shown(DeviceId::from_bytes(id.value()))?);
        }
        Ok(found)
    }

    /// Notes that a device connected. It costs no wait for the disk: a crash may forget it.
    ///
    /// # Errors
    /// If the device is not known.
    pub fn touch(&self, id: DeviceId, now: UnixTime) -> Result<(), StoreError> {
        self.write_lazily(|txn| change(txn, id, |record| record.last_seen = now))
    }

    /// Takes a device away from its user. Its live sessions are the caller's business.
    ///
    /// # Errors
    /// If the device is not known.
    pub fn revoke_device(&self, id: DeviceId, now: UnixTime) -> Result<(), StoreError> {
        self.take_back(|txn| {
            change(txn, id, |record| {
                record.revoked.get_or_insert(now);
            })
        })
    }
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(super) struct DeviceRecord {
    #[n(0)]
    pub(super) user: String,
    #[n(1)]
    serial: String,
    #[n(2)]
    added: UnixTime,
    #[n(3)]
    last_seen: UnixTime,
    #[n(4)]
    pub(super) revoked: Option<UnixTime>,
    #[n(5)]
    not_after: UnixTime,
}

impl DeviceRecord {
    fn shown(self, id: DeviceId) -> Result<Device, StoreError> {
        Ok(Device {
            id,
            user: user_name(DEVICES.name(), &self.user)?,
            serial: self.serial,
            added: self.added,
            last_seen: self.last_seen,
            revoked: self.revoked,
            not_after: self.not_after,
        })
    }
}

/// Notes a device, as part of a larger transaction.
pub(super) fn add(txn: &WriteTransaction, identity: &Identity, now: UnixTime) -> Result<(), StoreError> {
    users::record_of(&txn.open_table(users::USERS).map_err(storage)?, &identity.user)?;
    let mut devices = txn.open_table(DEVICES).map_err(storage)?;
    let added = match standing(&devices, &identity.user, identity.device) {
        Ok(known) => known.added,
        Err(StoreError::NoDevice(_)) if devices.get(*identity.device.as_bytes()).map_err(storage)?.is_none() => now,
        Err(refused) => return Err(refused),
    };
    let record = DeviceRecord {
        user: identity.user.as_str().to_owned(),
        serial: identity.serial.clone(),
        added,
        last_seen: now,
        revoked: None,
        not_after: identity.not_after,
    };
    put(&mut devices, *identity.device.as_bytes(), &record)
}

/// The device, if it is this user's and was not revoked.
pub(super) fn standing(
    devices: &impl ReadableTable<Id, &'static [u8]>,
    user: &UserName,
    id: DeviceId,
) -> Result<DeviceRecord, StoreError> {
    let record: Option<DeviceRecord> = get(devices, DEVICES.name(), *id.as_bytes())?;
    match record {
        Some(record) if record.user == user.as_str() => match record.revoked {
            None => Ok(record),
            Some(_) => Err(StoreError::Revoked(id)),
        },
        _ => Err(StoreError::NoDevice(id)),
    }
}

pub(super) fn remove_all(txn: &WriteTransaction, user: &UserName) -> Result<(), StoreError> {
    let mut devices = txn.open_table(DEVICES).map_err(storage)?;
    remove_if(&mut devices, DEVICES.name(), |record: &DeviceRecord| record.user == user.as_str())
}

fn change(txn: &WriteTransaction, id: DeviceId, edit: impl FnOnce(&mut DeviceRecord)) -> Result<(), StoreError> {
    let mut devices = txn.open_table(DEVICES).map_err(storage)?;
    let mut record: DeviceRecord = get(&devices, DEVICES.name(), *id.as_bytes())?.ok_or(StoreError::NoDevice(id))?;
    edit(&mut record);
    put(&mut devices, *id.as_bytes(), &record)
}

pub(super) const DEVICES: Cbor<Id> = Cbor::new("devices");
