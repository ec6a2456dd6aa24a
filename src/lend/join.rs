//! Redeems invitations: the one exchange that a stranger may have with a lender.
//!
//! Order matters: the proof first, then the password, then the invitation is burned, and only then is anything signed,
//! so that two racing joins get one certificate between them.

use std::{net::SocketAddr, time::Duration};

use super::{Lender, accept::Connection, audit::Event};
use crate::{
    proto::{ErrorKind, FromBorrower, FromLender, JoinAnswer, JoinQuestion, JoinRequest, JoinStatus, Refusal},
    session::{Ended, GreetError, Greeter},
    trust::{
        UnixTime,
        identity::identity_of,
        join_line::InvitationId,
        password::{Password, PasswordError},
        proof::sha256,
        request::{SubjectKey, parse_request},
        store::{Burn, Invitation},
        tls::{self, Purpose},
    },
};

/// The whole exchange; the person was asked for the password before the second connection.
const JOIN_MAX: Duration = Duration::from_secs(20);

/// From the handshake to the message, which a borrower sends at once: silent strangers must not fill the places.
const MESSAGE_MAX: Duration = Duration::from_secs(5);

/// Answers one question or one join.
pub(super) async fn serve(lender: &Lender, connection: Connection, peer: SocketAddr) {
    let mut event = Event { event: "join", peer: Some(peer.to_string()), ..Event::default() };
    let mut greeter = Greeter::new(connection);
    let outcome = tokio::time::timeout(JOIN_MAX, answer(lender, &mut greeter, &mut event)).await;
    let mut last_words = Ended { kind: ErrorKind::Identity, text: "the join is over".to_owned() };
    let (verdict, reply) = match outcome {
        Ok(Ok(reply)) => ("granted", Some(reply)),
        Ok(Err(Ok(refusal))) => {
            event.why = Some(refusal.text().to_owned());
            ("refused", Some(FromLender::Refusal(refusal)))
        }
        Ok(Err(Err(error))) => {
            last_words = Ended { kind: ErrorKind::Protocol, text: error.to_string() };
            event.why = Some(error.to_string());
            ("refused", None)
        }
        Err(_) => {
            last_words.text = "the join took too long".to_owned();
            event.why = Some(last_words.text.clone());
            ("refused", None)
        }
    };
    // A question changes nothing, so only a join that went through is granted anything.
    let asked_only = matches!(&reply, Some(FromLender::JoinStatus(_)));
    event.verdict = Some(if asked_only { "asked" } else { verdict });
    tracing::info!(%peer, verdict = event.verdict, why = event.why, "join");
    match event.verdict {
        Some("refused") => lender.shared.audit.refused(peer.ip(), event).await,
        _ => lender.shared.audit.log(event).await,
    }
    if let Some(reply) = reply {
        let _ = greeter.send(&[reply]).await;
    }
    greeter.farewell(&last_words).await;
}

/// A refusal to tell, or an error to log.
type No = Result<Refusal, GreetError>;

async fn answer(lender: &Lender, greeter: &mut Greeter<Connection>, event: &mut Event) -> Result<FromLender, No> {
    let exporter = tls::exporter(greeter.connection().get_ref().1, Purpose::Join).map_err(|error| Ok(no(error)))?;
    match greeter.receive("join", MESSAGE_MAX).await.map_err(Err)? {
        FromBorrower::JoinQuestion(question) => {
            let (invitation, _) = check_proof(lender, &question, &exporter, event).map_err(Ok)?;
            let stored = lender.shared.store.password_of(&invitation.user).map_err(|error| Ok(no(error)))?;
            let (user, sets_password) = (invitation.user.to_string(), stored.phc.is_none());
            Ok(FromLender::JoinStatus(JoinStatus { user, sets_password }))
        }
        FromBorrower::JoinRequest(request) => {
            join(lender, request, &exporter, event).await.map(FromLender::JoinAnswer).map_err(Ok)
        }
        other => {
            let error = crate::proto::ProtocolError::Unexpected { expected: "join", got: other.name().to_owned() };
            Err(Err(error.into()))
        }
    }
}

fn check_proof(
    lender: &Lender,
    question: &JoinQuestion,
    exporter: &[u8; 32],
    event: &mut Event,
) -> Result<(Invitation, SubjectKey), Refusal> {
    let store = &lender.shared.store;
    let id = InvitationId(question.id);
    let invitation = store.invitation(id, UnixTime::now()).map_err(no)?;
    event.user = Some(invitation.user.to_string());
    if !invitation.keys.verify_client(exporter, &question.csr, &question.proof) {
        let left = store.count_wrong_proof(id).map_err(no)?;
        let more = if left == 0 { "; the invitation is used up" } else { "" };
        return Err(no(format!("the proof of the join line is wrong{more}")));
    }
    // Only somebody who holds the line gets a certificate request parsed.
    let key = parse_request(&question.csr).map_err(no)?;
    event.device = Some(key.device().to_string());
    Ok((invitation, key))
}

async fn join(
    lender: &Lender,
    mut request: JoinRequest,
    exporter: &[u8; 32],
    event: &mut Event,
) -> Result<JoinAnswer, Refusal> {
    let shared = &lender.shared;
    if !shared.audit.is_sound().await {
        let text = "the lender cannot write its audit log and takes no new devices";
        return Err(Refusal::new(ErrorKind::Busy, text));
    }
    let (invitation, key) = check_proof(lender, &request.question, exporter, event)?;
    let id = InvitationId(request.question.id);
    let password = Password::new(std::mem::take(&mut request.password)).map_err(no)?;
    let first = check_password(lender, &invitation, password, id).await?;
    let certificate = match shared.store.burn(id, &sha256(&request.question.csr), UnixTime::now()).map_err(no)? {
        Burn::Again(certificate) => certificate,
        Burn::Sign(user) => {
            if let Some(phc) = first {
                shared.store.set_first_password(&user, &phc).map_err(no)?;
            }
            let certificate = shared.authority.issue_client(&user, &key, UnixTime::now()).map_err(no)?;
            let identity = identity_of(&certificate).map_err(no)?;
            shared.store.record_issued(id, &certificate, &identity, UnixTime::now()).map_err(no)?;
            event.serial = Some(identity.serial);
            certificate
        }
    };
    let proof = invitation.keys.server_proof(exporter, &certificate);
    Ok(JoinAnswer { certificate: certificate.to_vec(), ca: shared.authority.cert_der().to_vec(), proof })
}

/// The hash of a first password, to be set once the invitation is burned; `None` when an existing one was right.
async fn check_password(
    lender: &Lender,
    invitation: &Invitation,
    password: Password,
    id: InvitationId,
) -> Result<Option<String>, Refusal> {
    let shared = &lender.shared;
    let slow = |error: PasswordError| match error {
        PasswordError::Busy => Refusal::new(ErrorKind::Busy, error.to_string()),
        other => Refusal::new(ErrorKind::Login, other.to_string()),
    };
    let stored = shared.store.password_of(&invitation.user).map_err(no)?;
    let Some(phc) = stored.phc else {
        return shared.passwords.hash(password).await.map(Some).map_err(slow);
    };
    if shared.passwords.verify(password, Some(phc)).await.map_err(slow)? {
        return Ok(None);
    }
    // Whoever found the line must not be able to guess at the password for long.
    let left = shared.store.count_wrong_proof(id).map_err(no)?;
    let more = if left == 0 { "; the invitation is used up" } else { "" };
    Err(Refusal::new(ErrorKind::Login, format!("wrong password of user {}{more}", invitation.user)))
}

fn no(error: impl ToString) -> Refusal {
    Refusal::new(ErrorKind::Identity, error.to_string())
}
