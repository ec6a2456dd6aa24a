//! What the lender remembers across restarts: users, devices, invitations, tickets.
//!
//! One file (redb), one process at a time. Every operation is one transaction, so that two racing connections see each
//! other's whole effect or none, and everything that matters to security is on the disk before its function returns.
//! Values are CBOR maps with integer keys; the schema version is checked when the file is opened.
//!
//! Invariants: a ticket is good only while its user's epoch is the one it was issued under; an invitation yields at most
//! one certificate; what is gone from here is refused at the next handshake, however long its certificate still runs.
//!
//! An error of the disk ends nothing for good: the database is opened again under the same lock, and works as soon as the
//! disk does. What takes something back may use room that is kept free for it, so that it works on a full disk too.
//!
//! # Cancellation
//! Calls block: those that write for a commit to the disk (a few milliseconds), those that read for nothing as a rule, but while
//! the file is opened again, or made larger for somebody's write, for the disk as well. Async callers use `spawn_blocking`; an
//! operation that was begun is then finished whoever hangs up.

mod barred;
mod devices;
mod disk;
mod grants;
mod invitations;
mod opened;
mod reserve;
mod retry;
mod tickets;
mod users;

use std::{
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
};

use redb::{Key, ReadableTable, Table, TableDefinition};

use self::{opened::Opened, reserve::Reserve, retry::Retry};

pub use self::{
    devices::Device,
    grants::{GRANTS_MAX, TimedGrant},
    invitations::{Invitation, Redeemed},
    tickets::{Login, TicketRefusal},
    users::{StoredPassword, User},
};
use super::keyfile::KeyFileError;
use crate::proto::{DeviceId, UserName};

/// Version of the layout of the file.
pub const SCHEMA: u64 = 1;

/// The lender's memory.
pub struct Store {
    opened: RwLock<Option<Opened>>,
    reserve: Mutex<Reserve>,
    retry: Mutex<Retry>,
    path: PathBuf,
    /// Locked (flock(2)) for as long as the store is there, also while its database is closed and opened again.
    file: Arc<File>,
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
    /// It has not come to an end in time, and may do so later.
    #[error("the store does not answer in time: its disk is busy or hangs")]
    Hangs,
    /// Something else is in its place: it was cut, overwritten, or never was one.
    #[error(
        "{} is not a store of capuchind, or is broken ({why}): restore it from a backup; \
         moved away, a new one without users and revocations can take its place", path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk.
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
    #[error("user {0} was revoked or removed: at the lender, `capuchind user list` says how he is let in again")]
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

#[cfg(test)]
mod tests;
