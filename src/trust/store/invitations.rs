//! Invitations: `pending --redeem_invitation--> burned`, once; five wrong proofs, or its end, remove a pending one.
//!
//! Burning it, setting the first password, signing and noting the certificate and its device are one transaction: two
//! racing joins give one certificate, the one that comes too late loses nothing, and a crash leaves all or nothing. For
//! ten minutes the same request may ask again, in case the answer was lost on the way.

use std::time::Duration;

use redb::{ReadableTable, TableHandle, WriteTransaction};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{Cbor, Id, Store, StoreError, barred, decode, devices, get, put, remove_if, storage, user_name, users};
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
    /// SHA-256 of the certificate request that has used it.
    pub used_by: Option<[u8; 32]>,
}

/// What a request gets for an invitation: `issued` is `false` if it got it before.
#[derive(Debug, PartialEq, Eq)]
pub struct Redeemed {
    /// To be sent.
    pub certificate: CertificateDer<'static>,
    /// Whether this call used the invitation up.
    pub issued: bool,
}

impl Store {
    /// Makes an invitation for one device of a user, who is let in on the lender's own machine again, too. The store keeps keys
    /// derived from the secret, never the secret.
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
            barred::lift(txn, user)?;
            let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
            remove_if(&mut invitations, INVITATIONS.name(), |record: &InvitationRecord| {
                !record.is_open(now) || record.is_guessed_at()
            })?;
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
        let txn = self.read()?;
        let invitations = txn.open_table(INVITATIONS).map_err(storage)?;
        let record = open_record(&invitations, id, now)?;
        if record.is_guessed_at() {
            return Err(StoreError::NoInvitation);
        }
        let used_by = match record.state {
            State::Burned { request_sha256, .. } => Some(request_sha256),
            State::Pending => None,
        };
        Ok(Invitation {
            used_by,
            user: user_name(INVITATIONS.name(), &record.user)?,
            keys: JoinKeys { client: Zeroizing::new(record.client_key), server: Zeroizing::new(record.server_key) },
        })
    }

    /// Counts a wrong proof, or a password *before* it is judged, so that guesses made at once count as well. Gives how
    /// many more the invitation takes; one that takes no more is found by nobody.
    ///
    /// # Errors
    /// If there is no such invitation, or it takes no more.
    pub fn count_guess(&self, id: InvitationId) -> Result<u8, StoreError> {
        self.write(|txn| {
            change(txn, id, |record| {
                if record.is_guessed_at() {
                    return Err(StoreError::NoInvitation);
                }
                record.wrong_count += 1;
                Ok(WRONG_PROOFS_MAX - record.wrong_count)
            })
        })
    }

    /// Takes a password back that was counted, and was right or not judged.
    ///
    /// # Errors
    /// If there is no such invitation.
    pub fn forgive_guess(&self, id: InvitationId) -> Result<(), StoreError> {
        self.write(|txn| {
            change(txn, id, |record| {
                record.wrong_count = record.wrong_count.saturating_sub(1);
                Ok(())
            })
        })
    }

    /// Uses an invitation up for one certificate request, named by its SHA-256: `sign` makes the certificate for its
    /// user. Together with it the first password is set, if one is given, and the device is noted; either all of it is on
    /// the disk when this returns, or nothing has happened. To be called once the proof was found right.
    ///
    /// The same request gets its certificate again for ten minutes.
    ///
    /// # Errors
    /// If there is none, it has ended, or another request was first; if the user has a password already while one is to
    /// be set, the device is refused as by [`Store::add_device`], or `sign` fails. The invitation then still stands.
    pub fn redeem_invitation<E: From<StoreError>>(
        &self,
        id: InvitationId,
        request_sha256: &[u8; 32],
        first_password: Option<&str>,
        now: UnixTime,
        sign: impl FnOnce(&UserName) -> Result<(CertificateDer<'static>, Identity), E>,
    ) -> Result<Redeemed, E> {
        self.write(|txn| {
            let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
            let mut record = open_record(&invitations, id, now)?;
            match record.state {
                State::Pending => {}
                State::Burned { request_sha256: first, certificate, .. } if first == *request_sha256 => {
                    return Ok(Redeemed { certificate: certificate.into(), issued: false });
                }
                State::Burned { .. } => return Err(StoreError::InvitationUsed.into()),
            }
            let user = user_name(INVITATIONS.name(), &record.user)?;
            if let Some(phc) = first_password {
                users::set_first_password(txn, &user, phc)?;
            }
            // Nobody sees it before all of this is on the disk.
            let (certificate, identity) = sign(&user)?;
            record.state =
                State::Burned { request_sha256: *request_sha256, at: now, certificate: certificate.to_vec() };
            put(&mut invitations, id.0, &record)?;
            devices::add(txn, &identity, now)?;
            Ok(Redeemed { certificate, issued: true })
        })
    }

    /// Until when the join protocol must be answered: the end of the last invitation that is pending, or that was just
    /// used and whose answer may be asked for again. `None` if it need not be.
    ///
    /// # Errors
    /// If the store fails.
    pub fn joins_until(&self, now: UnixTime) -> Result<Option<UnixTime>, StoreError> {
        let txn = self.read()?;
        let invitations = txn.open_table(INVITATIONS).map_err(storage)?;
        let mut until = None;
        for entry in invitations.iter().map_err(storage)? {
            let (_, value) = entry.map_err(storage)?;
            let record: InvitationRecord = decode(INVITATIONS.name(), value.value())?;
            if record.is_open(now) && !record.is_guessed_at() {
                until = until.max(Some(record.end()));
            }
        }
        Ok(until)
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
        /// DER.
        #[cbor(n(2), with = "minicbor::bytes")]
        certificate: Vec<u8>,
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

    fn is_guessed_at(&self) -> bool {
        self.wrong_count >= WRONG_PROOFS_MAX
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

fn change<T>(
    txn: &WriteTransaction,
    id: InvitationId,
    edit: impl FnOnce(&mut InvitationRecord) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
    let mut record: InvitationRecord = get(&invitations, INVITATIONS.name(), id.0)?.ok_or(StoreError::NoInvitation)?;
    let done = edit(&mut record)?;
    put(&mut invitations, id.0, &record)?;
    Ok(done)
}

pub(super) fn remove_all(txn: &WriteTransaction, user: &UserName) -> Result<(), StoreError> {
    let mut invitations = txn.open_table(INVITATIONS).map_err(storage)?;
    remove_if(&mut invitations, INVITATIONS.name(), |record: &InvitationRecord| record.user == user.as_str())
}

pub(super) const INVITATIONS: Cbor<Id> = Cbor::new("invitations");
