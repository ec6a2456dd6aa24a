//! What the lender remembers across restarts: users, devices, invitations, tickets.
//!
//! One file (redb), one process at a time. Every operation is one transaction, so that two racing connections see each
//! other's whole effect or none, and everything that matters to security is on the disk before its function returns.
//! Values are CBOR maps with integer keys; the schema version is checked when the file is opened.
//!
//! Invariants: a ticket is good only while its user's epoch is the one it was issued under; an invitation yields at most
//! one certificate; what is gone from here is refused at the next handshake, however long its certificate still runs.
//!
//! # Cancellation
//! Calls block, for a commit to the disk at most (a few milliseconds). Async callers that care use `spawn_blocking`;
//! an operation that was begun is then finished whoever hangs up.

mod barred;
mod devices;
mod grants;
mod invitations;
mod tickets;
mod users;

use std::path::Path;

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
    backends::FileBackend,
};

pub use self::{
    devices::Device,
    grants::{GRANTS_MAX, TimedGrant},
    invitations::{Invitation, PendingInvitation, Redeemed},
    tickets::{Login, TicketRefusal},
    users::{StoredPassword, User},
};
use super::keyfile::{self, KeyFileError};
use crate::proto::{DeviceId, UserName};

/// Version of the layout of the file.
pub const SCHEMA: u64 = 1;

/// The lender's memory.
pub struct Store {
    db: Database,
}

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is not safe, or the system refused.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// Another process has it: the running daemon, which is to be asked instead.
    #[error("the store is in use by a running capuchind")]
    InUse,
    /// It was written by a newer program.
    #[error("the store has version {got} and this program knows version {SCHEMA}: update capuchin")]
    Newer {
        /// The version found.
        got: u64,
    },
    /// A value cannot be read.
    #[error("the store holds a broken entry in {table}: restore state.redb from a backup")]
    Broken {
        /// Where.
        table: &'static str,
    },
    /// Asked too late.
    #[error("the lender is stopping")]
    Stopping,
    /// The disk, or the file as a whole.
    #[error("the store failed")]
    Storage(#[source] Box<redb::Error>),
    /// There is such a user.
    #[error("user {0} exists")]
    UserExists(UserName),
    /// There is no such user.
    #[error("there is no user {0}: `capuchind user list` names them")]
    NoUser(UserName),
    /// A first device sets the password; this was not the first.
    #[error("user {0} has a password: give it")]
    HasPassword(UserName),
    /// There is no such device, or it is another user's.
    #[error("device {0} is not known: `capuchind user list` names them")]
    NoDevice(DeviceId),
    /// It was taken away from its user.
    #[error("device {0} was revoked")]
    Revoked(DeviceId),
    /// A user of the lender's own machine, taken away from it.
    #[error("user {0} was revoked or removed")]
    Barred(UserName),
    /// There is no such grant, or it has ended.
    #[error("there is no grant {0}: `capuchind grants` lists them")]
    NoGrant(u64),
    /// More than [`GRANTS_MAX`].
    #[error("there are {GRANTS_MAX} grants already: what should last belongs into policy.toml")]
    TooManyGrants,
    /// It never existed, it was withdrawn, or wrong proofs used it up.
    #[error("there is no such invitation")]
    NoInvitation,
    /// It ended before it was used.
    #[error("the invitation has expired: ask for a new one")]
    InvitationExpired,
    /// It made a certificate already, or is about to.
    #[error("the invitation was used: ask for a new one")]
    InvitationUsed,
    /// A ticket was refused; a login with the password helps.
    #[error("the ticket is refused: {0}")]
    Ticket(TicketRefusal),
    /// The login is as old as the policy allows, or its password has changed since.
    #[error("the login has ended: log in again")]
    LoginOver,
}

impl Store {
    /// Opens the store, and makes it on first use (0600).
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = keyfile::open_secret(path)?;
        let db = FileBackend::new(file)
            .and_then(|file| {
                let mut builder = Database::builder();
                // A broken file is then an error here rather than a panic later. The file is small.
                builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
                builder.create_with_backend(file)
            })
            .map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
                other => storage(other),
            })?;
        let store = Self { db };
        store.write(|txn| {
            let mut meta = txn.open_table(META).map_err(storage)?;
            let found = meta.get("schema").map_err(storage)?.map(|version| version.value());
            match found {
                None => meta.insert("schema", SCHEMA).map(drop).map_err(storage)?,
                Some(SCHEMA) => {}
                Some(got) => return Err(StoreError::Newer { got }),
            }
            // Readers may then rely on every table being there.
            for table in BY_ID {
                txn.open_table(table).map_err(storage)?;
            }
            txn.open_table(barred::BARRED).map_err(storage)?;
            txn.open_table(users::USERS).map(drop).map_err(storage)
        })?;
        Ok(store)
    }

    /// One transaction: on the disk when it returns `Ok`, without effect when it returns an error.
    fn write<T, E: From<StoreError>>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, E>) -> Result<T, E> {
        // A commit is durable and synced unless a transaction says otherwise.
        let txn = self.db.begin_write().map_err(storage)?;
        let value = work(&txn)?;
        txn.commit().map_err(storage)?;
        Ok(value)
    }

    fn read(&self) -> Result<ReadTransaction, StoreError> {
        self.db.begin_read().map_err(storage)
    }
}

/// A table of CBOR values; `K` is text or eight bytes.
type Cbor<K> = TableDefinition<'static, K, &'static [u8]>;
/// What devices, grants, invitations and tickets are found by.
type Id = [u8; 8];

fn get<K: Key + 'static, T: for<'b> minicbor::Decode<'b, ()>>(
    table: &impl ReadableTable<K, &'static [u8]>,
    name: &'static str,
    key: K::SelfType<'_>,
) -> Result<Option<T>, StoreError> {
    table.get(key).map_err(storage)?.map(|value| decode(name, value.value())).transpose()
}

fn put<K: Key + 'static, T: minicbor::Encode<()>>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: K::SelfType<'_>,
    value: &T,
) -> Result<(), StoreError> {
    let bytes = minicbor::to_vec(value).expect("encoding into memory cannot fail");
    table.insert(key, bytes.as_slice()).map(drop).map_err(storage)
}

/// Removes the entries that `gone` says are.
fn remove_if<K: Key + 'static, T: for<'b> minicbor::Decode<'b, ()>>(
    table: &mut Table<'_, K, &'static [u8]>,
    name: &'static str,
    gone: impl Fn(&T) -> bool,
) -> Result<(), StoreError> {
    let mut broken = false;
    table
        .retain(|_, value| match decode(name, value) {
            Ok(value) => !gone(&value),
            Err(_) => {
                broken = true;
                true
            }
        })
        .map_err(storage)?;
    if broken { Err(StoreError::Broken { table: name }) } else { Ok(()) }
}

fn decode<T: for<'b> minicbor::Decode<'b, ()>>(table: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    minicbor::decode(bytes).map_err(|_| StoreError::Broken { table })
}

/// A user name that we wrote ourselves.
fn user_name(table: &'static str, text: &str) -> Result<UserName, StoreError> {
    text.parse().map_err(|_| StoreError::Broken { table })
}

fn storage(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Storage(Box::new(error.into()))
}

const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
const BY_ID: [Cbor<Id>; 4] = [devices::DEVICES, grants::GRANTS, invitations::INVITATIONS, tickets::TICKETS];
/// redb's own default is 1 GiB, for stores that are not a list of users and devices.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
