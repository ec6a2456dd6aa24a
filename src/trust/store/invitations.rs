//! Invitations: `pending --burn--> burned`, once; five wrong proofs, or its end, remove a pending one.
//!
//! It is burned *before* a certificate is signed, and certificate and device are noted together: two racing joins give
//! one certificate, and a crash in between gives none. For ten minutes the same request may ask again, in case the
//! answer was lost on the way.

use std::time::Duration;

use redb::{ReadableTable, TableHandle, WriteTransaction};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{Cbor, Id, Store, StoreError, decode, devices, get, put, remove_if, storage, user_name, users};
use crate::{
    proto::UserName,
    trust::{
        UnixTime,
        identity::Identity,
        join_line::{InvitationId, JoinSecret},
        proof::JoinKeys,
    },
};

/// Wrong proofs that use an invitation up.
pub const WRONG_PROOFS_MAX: u8 = 5;
/// How long the request that burned an invitation may ask for its certificate again.
pub const ANSWER_AGAIN: Duration = Duration::from_secs(10 * 60);

/// What the lender knows about the sender of an invitation's id, before any proof.
pub struct Invitation {
    /// Who is invited.
    pub user: UserName,
    /// What its proofs are checked and made with.
    pub keys: JoinKeys,
}

/// An invitation that nobody has used yet, as the admin sees one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingInvitation {
    /// Which one.
    pub id: InvitationId,
    /// Who is invited.
    pub user: UserName,
    /// When it ends.
    pub expires: UnixTime,
}

/// What to do for someone whose proof was right.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Burn {
    /// Sign a certificate for this user, and note it.
    Sign(UserName),
    /// Send this certificate again.
    Again(CertificateDer<'static>),
}

impl Store {
    /// Makes an invitation for one device of a user. The store keeps keys derived from the secret, never the secret.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn create_invitation(
        &self,
        user: &UserName,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<(InvitationId, JoinSecret), StoreError> {
        let (id, secret) = (InvitationId::random(), JoinSecret::random());
        let keys = JoinKeys::derive(&secret);
        self.write(|txn| {
            users::record_of(&txn.open_table(users::USERS).map_err(storage)?, user)?;
            let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
            remove_if(&mut invitations, INVITATIONS.name(), |record: &InvitationRecord| !record.is_open(now))?;
            let record = InvitationRecord {
                user: user.as_str().to_owned(),
                client_key: *keys.client,
                server_key: *keys.server,
                expires: now.plus(ttl),
                wrong_count: 0,
                state: State::Pending,
            };
            put(&mut invitations, id.0, &record)
        })?;
        Ok((id, secret))
    }

    /// The invitation of this id, to check a proof with.
    ///
    /// # Errors
    /// If there is none, or it has ended.
    pub fn invitation(&self, id: InvitationId, now: UnixTime) -> Result<Invitation, StoreError> {
        let invitations = self.read()?.open_table(INVITATIONS).map_err(storage)?;
        let record = open_record(&invitations, id, now)?;
        Ok(Invitation {
            user: user_name(INVITATIONS.name(), &record.user)?,
            keys: JoinKeys { client: Zeroizing::new(record.client_key), server: Zeroizing::new(record.server_key) },
        })
    }

    /// Notes a wrong proof, and removes the invitation at the fifth. Gives how many more it takes.
    ///
    /// # Errors
    /// If there is no such invitation.
    pub fn count_wrong_proof(&self, id: InvitationId) -> Result<u8, StoreError> {
        self.write(|txn| {
            let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
            let mut record: InvitationRecord =
                get(&invitations, INVITATIONS.name(), id.0)?.ok_or(StoreError::NoInvitation)?;
            record.wrong_count = record.wrong_count.saturating_add(1);
            if record.wrong_count >= WRONG_PROOFS_MAX {
                invitations.remove(id.0).map_err(storage)?;
            } else {
                put(&mut invitations, id.0, &record)?;
            }
            Ok(WRONG_PROOFS_MAX.saturating_sub(record.wrong_count))
        })
    }

    /// Uses an invitation up for one certificate request, named by its SHA-256. To be called once its proof was found
    /// right, and before anything is signed.
    ///
    /// # Errors
    /// If there is none, it has ended, or another request was first. The same request is too late as well while its
    /// certificate is not noted yet.
    pub fn burn(&self, id: InvitationId, request_sha256: &[u8; 32], now: UnixTime) -> Result<Burn, StoreError> {
        self.write(|txn| {
            let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
            let mut record = open_record(&invitations, id, now)?;
            match record.state {
                State::Pending => {
                    record.state = State::Burned { request_sha256: *request_sha256, at: now, certificate: None };
                    put(&mut invitations, id.0, &record)?;
                    user_name(INVITATIONS.name(), &record.user).map(Burn::Sign)
                }
                State::Burned { request_sha256: first, certificate: Some(certificate), .. }
                    if first == *request_sha256 =>
                {
                    Ok(Burn::Again(certificate.into()))
                }
                State::Burned { .. } => Err(StoreError::InvitationUsed),
            }
        })
    }

    /// Notes the certificate that a burned invitation gave, and its device, before it is sent.
    ///
    /// # Errors
    /// If the invitation is not burned, gave one already or is for another user, or the device is refused as by
    /// [`Store::add_device`]. The certificate must then not be sent.
    pub fn record_issued(
        &self,
        id: InvitationId,
        certificate: &CertificateDer<'_>,
        identity: &Identity,
        now: UnixTime,
    ) -> Result<(), StoreError> {
        self.write(|txn| {
            let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
            let mut record = open_record(&invitations, id, now)?;
            match &mut record.state {
                State::Burned { certificate: noted @ None, .. } if record.user == identity.user.as_str() => {
                    *noted = Some(certificate.to_vec());
                }
                _ => return Err(StoreError::InvitationUsed),
            }
            put(&mut invitations, id.0, &record)?;
            devices::add(txn, identity, now)
        })
    }

    /// Invitations that nobody has used yet.
    ///
    /// # Errors
    /// If the store fails.
    pub fn pending_invitations(&self, now: UnixTime) -> Result<Vec<PendingInvitation>, StoreError> {
        let mut found = Vec::new();
        self.each_open(now, |id, record| {
            if matches!(record.state, State::Pending) {
                let user = user_name(INVITATIONS.name(), &record.user)?;
                found.push(PendingInvitation { id, user, expires: record.expires });
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Until when the join protocol must be answered: the end of the last invitation that is pending, or that was just
    /// used and whose answer may be asked for again. `None` if it need not be.
    ///
    /// # Errors
    /// If the store fails.
    pub fn joins_until(&self, now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
        let mut until = None;
        self.each_open(now, |_, record| {
            until = until.max(Some(record.end()));
            Ok(())
        })?;
        Ok(until)
    }

    fn each_open(
        &self,
        now: UnixTime,
        mut visit: impl FnMut(InvitationId, InvitationRecord) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let invitations = self.read()?.open_table(INVITATIONS).map_err(storage)?;
        for entry in invitations.iter().map_err(storage)? {
            let (id, value) = entry.map_err(storage)?;
            let record: InvitationRecord = decode(INVITATIONS.name(), value.value())?;
            if record.is_open(now) {
                visit(InvitationId(id.value()), record)?;
            }
        }
        Ok(())
    }
}

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct InvitationRecord {
    #[n(0)]
    user: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    client_key: [u8; 32],
    #[cbor(n(2), with = "minicbor::bytes")]
    server_key: [u8; 32],
    #[n(3)]
    expires: UnixTime,
    #[n(4)]
    wrong_count: u8,
    #[n(5)]
    state: State,
}

#[derive(minicbor::Encode, minicbor::Decode)]
enum State {
    #[n(0)]
    Pending,
    #[n(1)]
    #[cbor(map)]
    Burned {
        #[cbor(n(0), with = "minicbor::bytes")]
        request_sha256: [u8; 32],
        #[n(1)]
        at: UnixTime,
        /// DER; none until it is signed.
        #[cbor(n(2), with = "minicbor::bytes")]
        certificate: Option<Vec<u8>>,
    },
}

impl InvitationRecord {
    /// When it stops to be answered.
    fn end(&self) -> UnixTime {
        match self.state {
            State::Pending => self.expires,
            State::Burned { at, .. } => at.plus(ANSWER_AGAIN),
        }
    }

    fn is_open(&self, now: UnixTime) -> bool {
        now < self.end()
    }
}

fn open_record(
    invitations: &impl ReadableTable<Id, &'static [u8]>,
    id: InvitationId,
    now: UnixTime,
) -> Result<InvitationRecord, StoreError> {
    let record: InvitationRecord = get(invitations, INVITATIONS.name(), id.0)?.ok_or(StoreError::NoInvitation)?;
    match record.state {
        _ if record.is_open(now) => Ok(record),
        State::Pending => Err(StoreError::InvitationExpired),
        State::Burned { .. } => Err(StoreError::InvitationUsed),
    }
}

pub(super) fn remove_all(txn: &WriteTransaction, user: &UserName) -> Result<(), StoreError> {
    let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
    remove_if(&mut invitations, INVITATIONS.name(), |record: &InvitationRecord| record.user == user.as_str())
}

pub(super) const INVITATIONS: Cbor<Id> = Cbor::new("invitations");
