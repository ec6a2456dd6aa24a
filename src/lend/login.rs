//! From a verified certificate to a session: greeting, password or ticket, welcome.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, watch},
};
use zeroize::Zeroizing;

use super::{
    Lender,
    accept::Connection,
    admission::Place,
    at_store::STORE_MAX,
    audit::{Event, Source},
    borrower::Borrower,
    by_terms, descriptors, dispatch, guess,
    os_user::OsUser,
    peer::Peer,
    seats::Seat,
    stranger::{self, No},
};
use crate::{
    proto::{
        ErrorKind, FromBorrower, FromLender, Greeting, IssuedTicket, LocalNames, Login, LoginMethod, Refusal,
        SessionId, Welcome, mux,
    },
    session::{Crew, Greeter, Reachable, Session},
    trust::{
        UnixTime,
        identity::{Identity, identity_of},
        store::{self, StoreError, TicketRefusal},
        ticket::{TICKET_LIFETIME, TicketId},
        tls::{self, Purpose},
    },
};

/// From the end of the handshake to the login: a person may be asked for a password before the connection, not in it.
pub(super) const LOGIN_MAX: Duration = Duration::from_secs(20);
/// Of that it is waited so long until it is noted when the device was last seen, which is for the admin's eyes only.
const SEEN_MAX: Duration = Duration::from_secs(1);

const NO_LOG: &str = "the lender cannot write its audit log and takes no new sessions";

/// Largest certificate chain, in bytes: ours is one certificate of about 400, and room for an admin's own hierarchy.
const CHAIN_BYTES_MAX: usize = 16 * 1024;

/// Who is at the other end of a connection, before the login.
pub(super) struct Caller {
    identity: Identity,
    shown: Shown,
}

/// What has shown it, and what a login is bound to.
enum Shown {
    /// A certificate; proofs are bound to this value of the connection.
    Certificate([u8; 32]),
    /// The kernel.
    Kernel(OsUser),
}

/// Logs a caller in and serves its session to its end; or says why not.
pub(super) async fn serve<C>(
    lender: &Lender,
    connection: C,
    caller: Result<Caller, No>,
    peer: Peer,
    place: Place,
    stopping: watch::Receiver<bool>,
) where
    C: Reachable,
{
    let mut event = Event { event: "login", peer: Some(peer.to_string()), ..Event::default() };
    let mut greeter = Greeter::new(connection);
    let refused_user = caller.as_ref().ok().map(|caller| caller.identity.user.clone());
    let outcome = tokio::time::timeout(LOGIN_MAX, log_in(lender, &mut greeter, caller, &mut event)).await;
    let mut welcome = match outcome.unwrap_or(Err(No::Late)) {
        Ok(welcome) => welcome,
        Err(no) => {
            event.verdict = Some("refused");
            event.why = Some(no.to_string());
            tracing::info!(%peer, why = event.why, "login refused");
            // Whoever is refused may try as often as it likes, and must not fill the log with it.
            let from = refused_user.map_or_else(|| peer.source(), Source::User);
            lender.shared.audit.note(from, event);
            stranger::blame(lender, &place, no.offence());
            // The place is held to the end: a socket that is being closed costs as much as one that is not.
            return no.tell(greeter, "the login was refused").await;
        }
    };
    drop(place);
    let config = std::mem::take(&mut welcome.config);
    let session = Session::start_patient(greeter.into_inner(), mux::Role::Lender, config);
    let borrower = Arc::new(Borrower::new(lender.clone(), welcome, peer, session));
    let listed = lender.shared.live.list(borrower);
    let borrower = listed.borrower();
    // Whoever revokes writes first and cuts afterwards: what was written before the session was in the list is seen here.
    let identity = borrower.identity.clone();
    let admitted = lender.look(move |store| store.admit(&identity)).await;
    if let Err(error) = admitted {
        borrower.cut(kind_of(&error, ErrorKind::Revoked), &error.to_string());
    }
    borrower.judge_login();
    // The same of a renewal, which tells the sessions that are in the list.
    let device = borrower.identity.device;
    let renewed = lender.look(move |store| store.device(device)).await;
    if let Ok(Some(device)) = renewed {
        borrower.renewed(device.not_after);
    }
    // Beside the driver, as everything that it serves.
    let mut serving = Crew::new();
    serving.spawn(&borrower.session, dispatch::run(borrower.clone(), stopping));
    if let Some(Err(error)) = serving.join_next().await {
        tracing::error!(%error, "a session's task failed");
    }
}

/// A login that went through.
pub(super) struct Welcomed {
    pub(super) identity: Identity,
    pub(super) config: mux::Config,
    pub(super) session_id: SessionId,
    pub(super) login: store::Login,
    pub(super) seat: Seat,
    /// Its connection's, which is no stranger's any more.
    pub(super) descriptor: OwnedSemaphorePermit,
}

async fn log_in<C>(
    lender: &Lender,
    greeter: &mut Greeter<C>,
    caller: Result<Caller, No>,
    event: &mut Event,
) -> Result<Welcomed, No>
where
    C: AsyncBufRead + AsyncWrite + Unpin,
{
    let shared = &lender.shared;
    let Caller { identity, shown } = caller?;
    event.user = Some(identity.user.to_string());
    event.device = Some(identity.device.to_string());
    event.serial = Some(identity.serial.clone()).filter(|serial| !serial.is_empty());
    let asked = identity.clone();
    let admitted = lender.look(move |store| store.admit(&asked)).await;
    admitted.map_err(|error| No::not_admitted(&identity.user, &error))?;
    if !shared.audit.is_sound().await {
        return Err(No::ended(ErrorKind::Busy, NO_LOG));
    }
    let limits = lender.policy().limits(&identity.user);
    let hours = lender.login_lasts(&identity.user);
    let mut config = mux::Config::default();
    config.max_streams = limits.streams.unwrap_or(u32::MAX).min(config.max_streams);
    greeter.send(&[FromLender::Greeting(Greeting::new(&config))]).await?;
    let greeting = match greeter.receive("greeting", LOGIN_MAX).await? {
        FromBorrower::Greeting(greeting) => greeting,
        other => return Err(No::unexpected("greeting", &other)),
    };
    let agreed = greeting.agree(&config)?;
    let mut login = match greeter.receive("login", LOGIN_MAX).await? {
        FromBorrower::Login(login) => login,
        other => return Err(No::unexpected("login", &other)),
    };
    event.method = Some(login.method.as_str());
    let replaced = login.replaces.take().map(SessionId);
    let (login, ticket) = match &shown {
        Shown::Certificate(exporter) => check(lender, login, &identity, exporter, hours).await?,
        Shown::Kernel(user) => (check_local(&login, user)?, None),
    };
    if let Some(replaced) = replaced {
        shared.live.replace(replaced, &identity);
    }
    let seat = shared.seats.take_soon(&identity.user, || lender.policy().limits(&identity.user)).await;
    let is_unnamed = matches!(shown, Shown::Kernel(_)) && !lender.policy().names(&identity.user);
    let seat = if is_unnamed { seat.and_then(Seat::of_unnamed) } else { seat };
    let seat = seat.map_err(|full| {
        let notes = by_terms::notes(&identity.user, "limits = { sessions = N }");
        No::Refused(Refusal::new(ErrorKind::Busy, full.to_string()).with_notes(notes))
    })?;
    let descriptor = shared.sockets.clone().try_acquire_owned();
    let descriptor = descriptor.map_err(|_| No::refused(ErrorKind::Busy, descriptors::NONE_LEFT))?;
    let session_id = SessionId(crate::trust::random());
    let local = shown.names(lender);
    // What cannot be told now stands in the borrower's profile as it was.
    let addresses = lender.advertised().ok();
    // The log may have become full since it was last asked, and with nobody there nothing has noticed.
    // Should that be written too late, or the welcome not arrive, the line that says so names the session that was none.
    event.session = Some(session_id.to_string());
    if !shared.audit.log_surely(Event { verdict: Some("granted"), ..event.clone() }).await {
        return Err(No::ended(ErrorKind::Busy, NO_LOG));
    }
    greeter.send(&[FromLender::Welcome(Welcome { session: session_id.0, ticket, local, addresses })]).await?;
    let device = identity.device;
    // Best effort: whoever was welcomed is not turned away because a disk hangs.
    let _ = lender.store_within(SEEN_MAX, move |store| store.touch(device, UnixTime::now())).await;
    Ok(Welcomed { identity, config: agreed, session_id, login, seat, descriptor })
}

/// Who the peer's certificate says it is, and the value that its proofs are bound to.
pub(super) fn certificate_of(connection: &Connection) -> Result<Caller, No> {
    let certificate = shown_by(connection)?;
    let exporter =
        tls::exporter(connection.get_ref().1, Purpose::Login).map_err(|error| No::ended(ErrorKind::Tls, error))?;
    let identity = identity_of(certificate).map_err(|error| No::ended(ErrorKind::Identity, error))?;
    Ok(Caller { identity, shown: Shown::Certificate(exporter) })
}

/// The certificate that the peer has shown, in a chain of bounded length.
pub(super) fn shown_by(connection: &Connection) -> Result<&CertificateDer<'static>, No> {
    let chain = connection.get_ref().1.peer_certificates().unwrap_or_default();
    let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > CHAIN_BYTES_MAX {
        let text = format!("a certificate chain of {bytes} bytes, the limit is {CHAIN_BYTES_MAX}");
        return Err(No::ended(ErrorKind::Protocol, text));
    }
    chain.first().ok_or_else(|| No::ended(ErrorKind::Identity, "no certificate"))
}

/// Who the kernel says it is.
pub(super) fn user_of_this_machine(user: OsUser) -> Caller {
    Caller { identity: user.identity(), shown: Shown::Kernel(user) }
}

impl Shown {
    /// What no certificate has told the borrower.
    fn names(&self, lender: &Lender) -> Option<LocalNames> {
        let Self::Kernel(user) = self else { return None };
        let lender = lender.config().name.to_string();
        Some(LocalNames { user: user.name.to_string(), lender, os_user: user.mapped_from.clone() })
    }
}

/// A user of this machine has nothing to show, and is nobody else. No password is ever judged here.
fn check_local(login: &Login, user: &OsUser) -> Result<store::Login, No> {
    if login.method != LoginMethod::Peer {
        let text = format!("{} is no login for the door: nothing but the OS user counts there", login.method.as_str());
        return Err(No::refused(ErrorKind::Login, text));
    }
    match &login.user {
        Some(wanted) if wanted != user.name.as_str() => {
            let wanted: String = wanted.chars().take(crate::proto::USER_NAME_MAX).collect();
            let text = format!("uid {} is {} here and not {wanted:?}", user.uid, user.name);
            Err(No::wrong(ErrorKind::Login, text))
        }
        // No ticket will ever go back to it.
        _ => Ok(store::Login { at: UnixTime::now(), epoch: 0, by_certificate: false }),
    }
}

/// Checks password, ticket, or that none is needed; but for a ticket, a new one is earned. `hours`: how long a login
/// lasts, if that is bounded.
async fn check(
    lender: &Lender,
    mut login: Login,
    identity: &Identity,
    exporter: &[u8; 32],
    hours: Option<Duration>,
) -> Result<(store::Login, Option<IssuedTicket>), No> {
    match login.method {
        LoginMethod::Peer => {
            Err(No::refused(ErrorKind::Login, "a login by peer is for the door of the lender's own machine"))
        }
        LoginMethod::Ticket => {
            let (Some(id), Some(proof)) = (login.ticket_id, login.ticket_proof) else {
                return Err(No::refused(ErrorKind::Login, "a login by ticket needs its id and its proof"));
            };
            let (holder, exporter) = (identity.clone(), *exporter);
            let redeem = move |store: &store::Store| {
                store.redeem_ticket(TicketId(id), &proof, &exporter, &holder, UnixTime::now())
            };
            match lender.look(redeem).await {
                Ok(login) if hours.is_some_and(|hours| login.at.plus(hours) <= UnixTime::now()) => {
                    Err(No::refused(ErrorKind::Login, "the hours that the policy gives a login are over: log in again"))
                }
                Ok(login) if login.by_certificate && lender.asks_password(&identity.user) => {
                    Err(needs_password(identity))
                }
                Ok(login) => Ok((login, None)),
                Err(error) if error.is_of_disk() => Err(No::refused(ErrorKind::Busy, error)),
                Err(error) => {
                    use TicketRefusal::{OtherDevice, WrongProof};
                    let stolen = matches!(error, StoreError::Ticket(WrongProof | OtherDevice));
                    let text = match &error {
                        StoreError::Ticket(_) => format!("{error}; log in again"),
                        error => format!("the ticket is refused: {error}; log in again"),
                    };
                    Err(if stolen { No::wrong(ErrorKind::Login, text) } else { No::refused(ErrorKind::Login, text) })
                }
            }
        }
        LoginMethod::Certificate => {
            if lender.asks_password(&identity.user) {
                return Err(needs_password(identity));
            }
            let user = identity.user.clone();
            let stored = lender.look(move |store| store.password_of(&user)).await;
            let epoch = stored.map_err(|error| No::refused(kind_of(&error, ErrorKind::Login), error))?.epoch;
            let login = store::Login { at: UnixTime::now(), epoch, by_certificate: true };
            let ticket = issue(lender, identity, login, hours).await;
            Ok((login, Some(ticket.map_err(|error| No::refused(kind_of(&error, ErrorKind::Login), error))?)))
        }
        LoginMethod::Password => {
            let password = Zeroizing::new(login.password.take().unwrap_or_default());
            let epoch = guess::check_password(lender, password, identity).await?;
            let login = store::Login { at: UnixTime::now(), epoch, by_certificate: false };
            let ticket = issue(lender, identity, login, hours).await;
            Ok((login, Some(ticket.map_err(|error| No::refused(kind_of(&error, ErrorKind::Login), error))?)))
        }
    }
}

/// `refused`, unless the store could not be asked: then nothing is decided, and a borrower may come again.
pub(super) fn kind_of(error: &StoreError, refused: ErrorKind) -> ErrorKind {
    if error.is_of_disk() { ErrorKind::Busy } else { refused }
}

fn needs_password(identity: &Identity) -> No {
    No::refused(ErrorKind::Login, format!("the policy asks {} for a password: log in with it", identity.user))
}

/// A ticket that goes back to `login`, for at most 12 hours and as long as the login lasts.
pub(super) async fn issue(
    lender: &Lender,
    identity: &Identity,
    login: store::Login,
    hours: Option<Duration>,
) -> Result<IssuedTicket, StoreError> {
    let (identity, allowed) = (identity.clone(), hours.unwrap_or(TICKET_LIFETIME));
    let issued = move |store: &store::Store| store.issue_ticket(&identity, login, allowed, UnixTime::now());
    let (ticket, expires) = lender.store_within(STORE_MAX, issued).await?;
    Ok(IssuedTicket { id: ticket.id().0, secret: *ticket.as_bytes(), expires: expires.0 })
}
