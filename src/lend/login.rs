//! From a verified certificate to a session: greeting, password or ticket, welcome.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, watch};
use zeroize::Zeroizing;

use super::{Lender, accept::Connection, audit::Event, borrower::Borrower, dispatch};
use crate::{
    proto::{
        ErrorKind, FromBorrower, FromLender, Greeting, IssuedTicket, Login, LoginMethod, Refusal, SessionId, Welcome,
        mux,
    },
    session::{Ended, GreetError, Greeter, Session},
    trust::{
        UnixTime,
        identity::{Identity, identity_of},
        password::{Password, PasswordError},
        store,
        ticket::{TICKET_LIFETIME, TicketId},
        tls::{self, Purpose},
    },
};

/// From the end of the handshake to the login: a person may be asked for a password before the connection, not in it.
pub(super) const LOGIN_MAX: Duration = Duration::from_secs(20);

/// Logs a peer in and serves its session to its end.
pub(super) async fn serve(
    lender: &Lender,
    connection: Connection,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    stopping: watch::Receiver<bool>,
) {
    let mut event = Event { event: "login", peer: Some(peer.to_string()), ..Event::default() };
    let mut greeter = Greeter::new(connection);
    let outcome = match tokio::time::timeout(LOGIN_MAX, log_in(lender, &mut greeter, &mut event)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(No::Ended(Ended { kind: ErrorKind::Login, text: "the login took too long".to_owned() })),
    };
    drop(place);
    let (identity, config, session_id) = match outcome {
        Ok(welcome) => welcome,
        Err(no) => {
            event.verdict = Some("refused");
            event.why = Some(no.to_string());
            tracing::info!(%peer, why = %no, "login refused");
            lender.shared.audit.log(event).await;
            match no {
                No::Refused(refusal) => drop(greeter.send(&[FromLender::Refusal(refusal)]).await),
                No::Ended(ended) => return greeter.farewell(&ended).await,
                No::Gone(_) => {}
            }
            return greeter.farewell(&Ended { kind: ErrorKind::Login, text: "the login was refused".to_owned() }).await;
        }
    };
    event.verdict = Some("granted");
    event.session = Some(session_id.to_string());
    lender.shared.audit.log(event).await;
    let session = Session::start(greeter.into_inner(), mux::Role::Lender, config);
    let borrower = Arc::new(Borrower::new(lender.clone(), identity, session_id, peer, session));
    let listed = lender.shared.live.list(borrower);
    let borrower = listed.borrower();
    // Whoever revokes writes first and cuts afterwards: what was written before the session was in the list is seen here.
    if let Err(error) = lender.shared.store.admit(&borrower.identity) {
        borrower.cut(ErrorKind::Revoked, &error.to_string());
    }
    dispatch::run(borrower.clone(), stopping).await;
}

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
enum No {
    /// Told in the place of the welcome.
    #[error("{}", .0.text())]
    Refused(Refusal),
    /// Told as the connection's end.
    #[error("{0}")]
    Ended(Ended),
    /// There is nobody left to tell.
    #[error("{0}")]
    Gone(std::io::Error),
}

impl From<GreetError> for No {
    fn from(error: GreetError) -> Self {
        match error {
            GreetError::Io(error) => Self::Gone(error),
            GreetError::Ended(ended) => Self::Gone(std::io::Error::other(ended)),
            GreetError::Protocol(error) => Self::Ended(Ended { kind: ErrorKind::Protocol, text: error.to_string() }),
            GreetError::Late(_) => {
                Self::Ended(Ended { kind: ErrorKind::Login, text: "the login took too long".to_owned() })
            }
        }
    }
}

async fn log_in(
    lender: &Lender,
    greeter: &mut Greeter<Connection>,
    event: &mut Event,
) -> Result<(Identity, mux::Config, SessionId), No> {
    let shared = &lender.shared;
    let ended = |kind, text: String| No::Ended(Ended { kind, text });
    let (certificate, exporter) = {
        let tls = greeter.connection().get_ref().1;
        let certificate = tls.peer_certificates().and_then(|chain| chain.first()).cloned();
        (certificate, tls::exporter(tls, Purpose::Login))
    };
    let certificate = certificate.ok_or_else(|| ended(ErrorKind::Identity, "no certificate".to_owned()))?;
    let exporter = exporter.map_err(|error| ended(ErrorKind::Tls, error.to_string()))?;
    let identity = identity_of(&certificate).map_err(|error| ended(ErrorKind::Identity, error.to_string()))?;
    event.user = Some(identity.user.to_string());
    event.device = Some(identity.device.to_string());
    event.serial = Some(identity.serial.clone());
    shared.store.admit(&identity).map_err(|error| ended(ErrorKind::Revoked, error.to_string()))?;
    if !shared.audit.is_sound().await {
        let text = "the lender cannot write its audit log and takes no new sessions".to_owned();
        return Err(ended(ErrorKind::Busy, text));
    }
    let config = mux::Config::default();
    greeter.send(&[FromLender::Greeting(Greeting::new(&config))]).await?;
    let greeting = match greeter.receive("greeting", LOGIN_MAX).await? {
        FromBorrower::Greeting(greeting) => greeting,
        other => return Err(unexpected("greeting", &other)),
    };
    let agreed = greeting.agree(&config).map_err(|error| ended(ErrorKind::Protocol, error.to_string()))?;
    let login = match greeter.receive("login", LOGIN_MAX).await? {
        FromBorrower::Login(login) => login,
        other => return Err(unexpected("login", &other)),
    };
    event.method = Some(login.method.as_str());
    let ticket = check(lender, login, &identity, &exporter).await.map_err(No::Refused)?;
    let session = SessionId(crate::trust::random());
    // Best effort: when it was last seen is for the admin's eyes only.
    let _ = shared.store.touch(identity.device, UnixTime::now());
    greeter.send(&[FromLender::Welcome(Welcome { session: session.0, ticket })]).await?;
    Ok((identity, agreed, session))
}

fn unexpected(expected: &'static str, got: &FromBorrower) -> No {
    let error = crate::proto::ProtocolError::Unexpected { expected, got: got.name().to_owned() };
    No::Ended(Ended { kind: ErrorKind::Protocol, text: error.to_string() })
}

/// Checks password or ticket; a password earns a new ticket.
async fn check(
    lender: &Lender,
    mut login: Login,
    identity: &Identity,
    exporter: &[u8; 32],
) -> Result<Option<IssuedTicket>, Refusal> {
    let no = |text: String| Refusal::new(ErrorKind::Login, text);
    let store = &lender.shared.store;
    match login.method {
        LoginMethod::Ticket => {
            let (Some(id), Some(proof)) = (login.ticket_id, login.ticket_proof) else {
                return Err(no("a login by ticket needs its id and its proof".to_owned()));
            };
            let redeemed = store.redeem_ticket(TicketId(id), &proof, exporter, identity, UnixTime::now());
            redeemed.map(|_| None).map_err(|error| no(format!("the ticket was refused: {error}; log in again")))
        }
        LoginMethod::Password => {
            let password = Zeroizing::new(login.password.take().unwrap_or_default());
            let stored = check_password(lender, password, identity).await?;
            let earned = store::Login { at: UnixTime::now(), epoch: stored };
            let (ticket, expires) = store
                .issue_ticket(identity, earned, TICKET_LIFETIME, UnixTime::now())
                .map_err(|error| no(error.to_string()))?;
            Ok(Some(IssuedTicket { id: ticket.id().0, secret: *ticket.as_bytes(), expires: expires.0 }))
        }
    }
}

/// Gives the epoch under which the password was right.
async fn check_password(lender: &Lender, password: Zeroizing<Vec<u8>>, identity: &Identity) -> Result<u64, Refusal> {
    let no = |text: String| Refusal::new(ErrorKind::Login, text);
    let shared = &lender.shared;
    let lockout = || shared.lockout.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(wait) = lockout().wait(&identity.user, identity.device, Instant::now()) {
        return Err(no(format!("too many wrong passwords: try again in {} s", wait.as_secs() + 1)));
    }
    let password = Password::new(password.to_vec()).map_err(|error| no(error.to_string()))?;
    let stored = shared.store.password_of(&identity.user).map_err(|error| no(error.to_string()))?;
    match shared.passwords.verify(password, stored.phc).await {
        Ok(true) => {
            lockout().succeeded(&identity.user, identity.device);
            Ok(stored.epoch)
        }
        Ok(false) => {
            lockout().failed(&identity.user, identity.device, Instant::now());
            Err(no("wrong password".to_owned()))
        }
        Err(error @ PasswordError::Busy) => Err(Refusal::new(ErrorKind::Busy, error.to_string())),
        Err(error) => Err(no(error.to_string())),
    }
}
