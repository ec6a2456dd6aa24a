//! Redeems invitations: the one exchange that a stranger may have with a lender.
//!
//! Order matters: the proof first, then the password, and then, in one transaction, the invitation is burned, the first
//! password set and the certificate noted. Two racing joins get one certificate between them, and the one that comes too
//! late keeps its own invitation.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    Lender,
    accept::Connection,
    admission::Place,
    at_store::STORE_MAX,
    audit::Event,
    stranger::{self, No},
};
use crate::{
    proto::{ErrorKind, FromBorrower, FromLender, JoinAnswer, JoinQuestion, JoinRequest, JoinStatus},
    session::{Ended, Greeter},
    trust::{
        UnixTime,
        identity::identity_of,
        join_line::InvitationId,
        password::{Password, PasswordError},
        proof::sha256,
        request::{SubjectKey, parse_request},
        store::{Invitation, Redeemed, StoreError},
        tls::{self, Purpose},
    },
};

/// The whole exchange; the person was asked for the password before the second connection.
const JOIN_MAX: Duration = Duration::from_secs(20);

/// Of that the disk may take so long for the certificate and the end of the invitation: who is told nothing of them by then
/// needs a new one.
const REDEEM_MAX: Duration = Duration::from_secs(12);

/// From the handshake to the message, which a borrower sends at once: silent strangers must not fill the places.
const MESSAGE_MAX: Duration = Duration::from_secs(5);

const NO_LOG: &str = "the lender cannot write its audit log and takes no new devices";

/// Answers one question or one join; `joins` has a place for each that may be spoken at once.
pub(super) async fn serve(
    lender: &Lender,
    connection: Connection,
    peer: SocketAddr,
    place: Place,
    joins: &Arc<Semaphore>,
) {
    let mut event = Event { event: "join", peer: Some(peer.to_string()), ..Event::default() };
    let mut greeter = Greeter::new(connection);
    // Held to the end, as the place is.
    let share = joins.clone().try_acquire_owned();
    let outcome = match &share {
        Ok(_) => {
            let outcome = tokio::time::timeout(JOIN_MAX, answer(lender, &mut greeter, &mut event)).await;
            outcome.unwrap_or(Err(No::Late))
        }
        Err(_) => Err(No::ended(ErrorKind::Busy, "the lender is busy with other joins: try again in a moment")),
    };
    event.verdict = Some(match &outcome {
        // A question changes nothing, so only a join that went through is granted anything.
        Ok(FromLender::JoinStatus(_)) => "asked",
        Ok(_) => "granted",
        Err(_) => "refused",
    });
    event.why = outcome.as_ref().err().map(ToString::to_string);
    tracing::info!(%peer, verdict = event.verdict, why = event.why, "join");
    let audit = &lender.shared.audit;
    let outcome = match outcome {
        Err(no) => {
            audit.note(peer.ip(), event);
            Err(no)
        }
        Ok(reply) if audit.log_surely(event).await => Ok(reply),
        // A device is noted all the same, and may ask again as if the answer were lost.
        Ok(_) => Err(No::refused(ErrorKind::Busy, NO_LOG)),
    };
    match outcome {
        Ok(reply) => {
            // If the answer is lost, the same request may ask for it again.
            let _ = greeter.send(&[reply]).await;
            greeter
                .farewell(&Ended { kind: ErrorKind::Identity, text: "the join is over".to_owned(), by_peer: false })
                .await;
        }
        Err(no) => {
            stranger::blame(lender, &place, no.offence());
            no.tell(greeter, "the join was refused").await;
        }
    }
}

async fn answer(lender: &Lender, greeter: &mut Greeter<Connection>, event: &mut Event) -> Result<FromLender, No> {
    let exporter = tls::exporter(greeter.connection().get_ref().1, Purpose::Join).map_err(refused)?;
    match greeter.receive("join", MESSAGE_MAX).await? {
        FromBorrower::JoinQuestion(question) => {
            let (invitation, _) = check_proof(lender, &question, &exporter, event).await?;
            let user = invitation.user.clone();
            let stored = lender.look(move |store| store.password_of(&user)).await?;
            let without_password = !lender.asks_password(&invitation.user);
            let sets_password = stored.phc.is_none() && !without_password;
            let user = invitation.user.to_string();
            Ok(FromLender::JoinStatus(JoinStatus { user, sets_password, without_password }))
        }
        FromBorrower::JoinRequest(request) => join(lender, request, &exporter, event).await.map(FromLender::JoinAnswer),
        other => Err(No::unexpected("join", &other)),
    }
}

async fn check_proof(
    lender: &Lender,
    question: &JoinQuestion,
    exporter: &[u8; 32],
    event: &mut Event,
) -> Result<(Invitation, SubjectKey), No> {
    let id = InvitationId(question.id);
    let invitation = lender.look(move |store| store.invitation(id, UnixTime::now())).await?;
    event.user = Some(invitation.user.to_string());
    if !invitation.keys.verify_client(exporter, &question.csr, &question.proof) {
        let left = lender.store_within(STORE_MAX, move |store| store.count_guess(id)).await?;
        return Err(wrong(ErrorKind::Identity, "the proof of the join line is wrong", left));
    }
    // Whoever has a line that was used learns that, and nothing about a password.
    if invitation.used_by.is_some_and(|first| first != sha256(&question.csr)) {
        return Err(StoreError::InvitationUsed.into());
    }
    // Only somebody who holds the line gets a certificate request parsed.
    let key = parse_request(&question.csr).map_err(refused)?;
    event.device = Some(key.device().to_string());
    Ok((invitation, key))
}

async fn join(
    lender: &Lender,
    mut request: JoinRequest,
    exporter: &[u8; 32],
    event: &mut Event,
) -> Result<JoinAnswer, No> {
    if !lender.shared.audit.is_sound().await {
        return Err(No::refused(ErrorKind::Busy, NO_LOG));
    }
    let (invitation, key) = check_proof(lender, &request.question, exporter, event).await?;
    let (id, request_sha256) = (InvitationId(request.question.id), sha256(&request.question.csr));
    let password = Password::new(std::mem::take(&mut request.password)).map_err(refused)?;
    let first = match lender.asks_password(&invitation.user) {
        true => check_password(lender, &invitation, password, id).await?,
        // The line is all that such a device has; one that was given all the same is neither judged nor kept.
        false => None,
    };
    let shared = lender.shared.clone();
    let redeemed = lender.store_within(REDEEM_MAX, move |store| {
        let now = UnixTime::now();
        store.redeem_invitation(id, &request_sha256, first.as_deref(), now, |user| {
            let certificate = shared.authority.issue_client(user, &key, now).map_err(refused)?;
            let identity = identity_of(&certificate).map_err(refused)?;
            Ok::<_, No>((certificate, identity))
        })
    });
    let Redeemed { certificate, issued } = redeemed.await?;
    if issued {
        event.serial = Some(identity_of(&certificate).map_err(refused)?.serial);
    }
    let proof = invitation.keys.server_proof(exporter, &certificate);
    let ca = lender.shared.authority.cert_der().to_vec();
    Ok(JoinAnswer { certificate: certificate.to_vec(), ca, proof })
}

/// The hash of a first password, to be set with the certificate; `None` when an existing one was right.
async fn check_password(
    lender: &Lender,
    invitation: &Invitation,
    password: Password,
    id: InvitationId,
) -> Result<Option<String>, No> {
    let shared = &lender.shared;
    let slow = |error: PasswordError| match error {
        PasswordError::Busy => No::refused(ErrorKind::Busy, error),
        other => No::refused(ErrorKind::Login, other),
    };
    let user = invitation.user.clone();
    let stored = lender.look(move |store| store.password_of(&user)).await?;
    let Some(phc) = stored.phc else {
        return shared.passwords.hash(password).await.map(Some).map_err(slow);
    };
    // Whoever found the line must not be able to guess at the password for long, nor at many at once.
    let left = lender.store_within(STORE_MAX, move |store| store.count_guess(id)).await?;
    let verdict = shared.passwords.verify(password, Some(phc)).await;
    if matches!(verdict, Ok(false)) {
        let text = format!("wrong password of user {}", invitation.user);
        return Err(wrong(ErrorKind::Login, &text, left));
    }
    lender.store_within(STORE_MAX, move |store| store.forgive_guess(id)).await?;
    verdict.map(|_| None).map_err(slow)
}

/// A proof or password that was wrong, and `left` more that the invitation takes.
fn wrong(kind: ErrorKind, text: &str, left: u8) -> No {
    let more = if left == 0 { "; the invitation is used up" } else { "" };
    No::wrong(kind, format!("{text}{more}"))
}

fn refused(error: impl ToString) -> No {
    No::refused(ErrorKind::Identity, error)
}
