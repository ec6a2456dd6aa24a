//! Tickets: of each the key that proves it, whose it is, and the login it goes back to.

use std::time::Duration;

use redb::{ReadableTable, TableHandle, WriteTransaction};
use zeroize::Zeroizing;

use super::{Cbor, Id, Store, StoreError, decode, devices, get, put, remove_if, storage, users};
use crate::{
    proto::{DeviceId, UserName},
    trust::{
        UnixTime,
        identity::Identity,
        proof::{Proof, TicketKey},
        ticket::{Ticket, TicketId, ticket_expiry},
    },
};

/// Most tickets of one device; the one that ends first makes room. One is in use, the others are being replaced by the
/// sessions that renew theirs.
pub const TICKETS_PER_DEVICE: usize = 16;

/// When and under which epoch the user logged in: what every ticket goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Login {
    /// When.
    pub at: UnixTime,
    /// The epoch, as it stood beside the password hash.
    pub epoch: u64,
    /// No password was given: it holds only as long as the policy asks for none.
    pub by_certificate: bool,
}

/// Why a ticket was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketRefusal {
    /// It never existed, or its user or device is gone.
    #[error("it is not known")]
    Unknown,
    /// It was issued to another user or device.
    #[error("it belongs to another device")]
    OtherDevice,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// The password was changed, or the user was logged out.
    #[error("it was withdrawn")]
    Withdrawn,
    /// Whoever sent it does not hold it.
    #[error("its proof is wrong")]
    WrongProof,
}

impl Store {
    /// Issues a ticket for a login, new or renewed. It ends after 12 hours, and never later than `allowed` (the
    /// policy's `limits.hours`) after the login.
    ///
    /// # Errors
    /// If the device is unknown or revoked, the password has changed since the login, or the login is over.
    pub fn issue_ticket(
        &self,
        identity: &Identity,
        login: Login,
        allowed: Duration,
        now: UnixTime,
    ) -> Result<(Ticket, UnixTime), StoreError> {
        let (ticket, expires) = (Ticket::random(), ticket_expiry(login.at, allowed, now));
        if expires <= now {
            return Err(StoreError::LoginOver);
        }
        let record = TicketRecord {
            key: *TicketKey::derive(&ticket).0,
            user: identity.user.as_str().to_owned(),
            device: *identity.device.as_bytes(),
            expires,
            login_at: login.at,
            epoch: login.epoch,
            by_certificate: login.by_certificate,
        };
        self.write(|txn| {
            let epoch = users::record_of(&txn.open_table(users::USERS).map_err(storage)?, &identity.user)?.epoch;
            if epoch != login.epoch {
                return Err(StoreError::LoginOver);
            }
            devices::standing(&txn.open_table(devices::DEVICES).map_err(storage)?, &identity.user, identity.device)?;
            let mut tickets = txn.open_table(TICKETS).map_err(storage)?;
            remove_if(&mut tickets, TICKETS.name(), |old: &TicketRecord| {
                old.expires <= now || (old.user == record.user && old.epoch != epoch)
            })?;
            make_room(&mut tickets, identity.device)?;
            put(&mut tickets, ticket.id().0, &record)
        })?;
        Ok((ticket, expires))
    }

    /// Checks a proof that the other end of a connection holds a ticket, and gives the login it goes back to. A ticket
    /// may be used by many processes, so it stays good.
    ///
    /// # Errors
    /// [`StoreError::Ticket`] with the reason if it is refused.
    pub fn redeem_ticket(
        &self,
        id: TicketId,
        proof: &Proof,
        exporter: &[u8; 32],
        identity: &Identity,
        now: UnixTime,
    ) -> Result<Login, StoreError> {
        let refused = |reason| Err(StoreError::Ticket(reason));
        let txn = self.read()?;
        let tickets = txn.open_table(TICKETS).map_err(storage)?;
        let Some(record) = get::<_, TicketRecord>(&tickets, TICKETS.name(), id.0)? else {
            return refused(TicketRefusal::Unknown);
        };
        // First of all, so that the other reasons are told to its holder only.
        if !TicketKey(Zeroizing::new(record.key)).verify(exporter, proof) {
            return refused(TicketRefusal::WrongProof);
        }
        if record.user != identity.user.as_str() || record.device != *identity.device.as_bytes() {
            return refused(TicketRefusal::OtherDevice);
        }
        if record.expires <= now {
            return refused(TicketRefusal::Expired);
        }
        let epoch = users::record_of(&txn.open_table(users::USERS).map_err(storage)?, &identity.user)?.epoch;
        if record.epoch != epoch {
            return refused(TicketRefusal::Withdrawn);
        }
        devices::standing(&txn.open_table(devices::DEVICES).map_err(storage)?, &identity.user, identity.device)?;
        Ok(Login { at: record.login_at, epoch, by_certificate: record.by_certificate })
    }
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct TicketRecord {
    #[cbor(n(0), with = "minicbor::bytes")]
    key: [u8; 32],
    #[n(1)]
    user: String,
    #[cbor(n(2), with = "minicbor::bytes")]
    device: Id,
    #[n(3)]
    expires: UnixTime,
    #[n(4)]
    login_at: UnixTime,
    #[n(5)]
    epoch: u64,
    #[n(6)]
    #[cbor(default)]
    by_certificate: bool,
}

/// Removes the ticket of this device that ends first, if there are as many as allowed.
fn make_room(tickets: &mut redb::Table<'_, Id, &'static [u8]>, device: DeviceId) -> Result<(), StoreError> {
    let mut held = Vec::new();
    for entry in tickets.iter().map_err(storage)? {
        let (id, value) = entry.map_err(storage)?;
        let record: TicketRecord = decode(TICKETS.name(), value.value())?;
        if record.device == *device.as_bytes() {
            held.push((record.expires, id.value()));
        }
    }
    if held.len() >= TICKETS_PER_DEVICE
        && let Some((_, first)) = held.iter().min()
    {
        tickets.remove(*first).map_err(storage)?;
    }
    Ok(())
}

pub(super) fn remove_all(txn: &WriteTransaction, user: &UserName) -> Result<(), StoreError> {
    let mut tickets = txn.open_table(TICKETS).map_err(storage)?;
    remove_if(&mut tickets, TICKETS.name(), |record: &TicketRecord| record.user == user.as_str())
}

pub(super) const TICKETS: Cbor<Id> = Cbor::new("tickets");
