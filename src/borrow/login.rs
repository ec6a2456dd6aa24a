//! Logging in on a connection: who we are says the certificate, that it is really us says a password or a ticket.

use std::time::Duration;

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    BorrowError,
    link::{Link, LinkError, Route, Way},
};
use crate::{
    proto::{
        ErrorKind, FromBorrower, FromLender, Greeting, IssuedTicket, LocalNames, Login, LoginMethod, ProtocolError,
        Refusal, SessionId, mux,
    },
    session::{Greeter, Session},
    trust::{
        password::Password,
        proof::TicketKey,
        ticket::SavedTicket,
        tls::{Purpose, exporter},
    },
};

/// How long connecting and logging in may take together: names, TCP, TLS, a hash that waits its turn.
pub(super) const LOGIN_DEADLINE: Duration = Duration::from_secs(20);
/// How often a connection that the lender closed before its greeting is tried again; a flooded lender does that.
const RETRIES: u32 = 3;
/// Before the first retry; twice as long before each further one.
const BACKOFF: Duration = Duration::from_millis(100);

/// What shows that it is really us.
#[derive(Clone, Copy)]
pub(super) enum Credential<'a> {
    Password(&'a Password),
    Ticket(&'a SavedTicket),
    /// Nothing more than the certificate, which the connection has shown.
    Certificate,
}

/// A session that has just begun.
pub(super) struct LoggedIn {
    pub(super) session: Session,
    pub(super) id: SessionId,
    pub(super) ticket: Option<IssuedTicket>,
    pub(super) local: Option<LocalNames>,
    /// Where the lender says it is; its word, to be checked.
    pub(super) addresses: Vec<String>,
}

/// Does `attempt` until it is neither closed early nor late.
pub(super) async fn patiently<T, F>(way: &impl Way, mut attempt: impl FnMut() -> F) -> Result<T, BorrowError>
where
    F: Future<Output = Result<T, LinkError>>,
{
    let deadline = Instant::now() + LOGIN_DEADLINE;
    let attempts = async {
        let mut retries = 0;
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(LinkError::Failed(error)) => return Err(error),
                Err(LinkError::Closed(error)) if retries == RETRIES => return Err(way.closed(&error)),
                Err(LinkError::Closed(_)) => tokio::time::sleep(BACKOFF * 2_u32.pow(retries)).await,
            }
            retries += 1;
        }
    };
    tokio::time::timeout_at(deadline, attempts).await.unwrap_or_else(|_| Err(way.late(LOGIN_DEADLINE)))
}

/// Logs in over TLS. [`LinkError::Closed`] only before the lender's greeting.
pub(super) async fn log_in<IO>(
    route: &Route<'_>,
    link: Link<IO>,
    credential: Credential<'_>,
    replaces: Option<SessionId>,
) -> Result<LoggedIn, LinkError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut login = login_of(credential, &link).map_err(|error| {
        let text = format!("{}: {error}", route.alias);
        LinkError::Failed(BorrowError::Tls { text, notes: Vec::new() })
    })?;
    login.replaces = replaces.map(|session| session.0);
    let again = matches!(credential, Credential::Ticket(_)).then(|| log_in_again(route.alias));
    enter(route, link, login, again).await
}

/// Greets and logs in on a connection of any kind; `again` says what to do when the login is not taken.
/// [`LinkError::Closed`] only before the lender's greeting.
pub(super) async fn enter<C>(
    way: &impl Way,
    connection: C,
    login: Login,
    again: Option<String>,
) -> Result<LoggedIn, LinkError>
where
    C: AsyncBufRead + AsyncWrite + Send + Unpin + 'static,
{
    let ours = mux::Config::default();
    let mut greeter = Greeter::new(connection);
    // Together: the lender's greeting is also its verdict on our certificate. If it has hung up already, what it said
    // before can still be read, and says more than the failure to write.
    let _ = greeter.send(&[FromBorrower::Greeting(Greeting::new(&ours)), FromBorrower::Login(login)]).await;
    let broken = |source| LinkError::Failed(BorrowError::protocol(way.alias(), source));
    let config = match receive(way, &mut greeter, "greeting").await? {
        FromLender::Greeting(greeting) if greeting.lanes > 0 => greeting.agree(&ours).map_err(broken)?,
        FromLender::Greeting(_) => {
            return Err(broken(ProtocolError::Malformed { what: "greeting", why: "it offers no lane".to_owned() }));
        }
        FromLender::Refusal(refusal) => return Err(LinkError::Failed(refused(way, again, &refusal))),
        other => return Err(unexpected(way, "greeting", &other)),
    };
    let answer = receive(way, &mut greeter, "welcome").await.map_err(|error| LinkError::Failed(settled(way, error)))?;
    match answer {
        FromLender::Welcome(welcome) => Ok(LoggedIn {
            session: Session::start(greeter.into_inner(), mux::Role::Borrower, config),
            id: SessionId(welcome.session),
            ticket: welcome.ticket,
            local: welcome.local,
            addresses: welcome.addresses.unwrap_or_default(),
        }),
        FromLender::Refusal(refusal) => Err(LinkError::Failed(refused(way, again, &refusal))),
        other => Err(unexpected(way, "welcome", &other)),
    }
}

/// The lender's next message; the deadline over everything bounds the wait.
pub(super) async fn receive<C>(
    way: &impl Way,
    greeter: &mut Greeter<C>,
    what: &'static str,
) -> Result<FromLender, LinkError>
where
    C: AsyncBufRead + AsyncWrite + Unpin,
{
    greeter.receive(what, LOGIN_DEADLINE).await.map_err(|error| way.greet_error(error))
}

pub(super) fn unexpected(way: &impl Way, expected: &'static str, got: &FromLender) -> LinkError {
    let source = ProtocolError::Unexpected { expected, got: got.name().to_owned() };
    LinkError::Failed(BorrowError::protocol(way.alias(), source))
}

/// An error that is not worth a retry any more.
pub(super) fn settled(way: &impl Way, error: LinkError) -> BorrowError {
    match error {
        LinkError::Failed(error) => error,
        LinkError::Closed(error) => BorrowError::Ended {
            lender: way.alias().to_owned(),
            kind: ErrorKind::Lost,
            text: format!("it closed the connection ({error})"),
        },
    }
}

fn login_of<IO>(credential: Credential<'_>, link: &Link<IO>) -> Result<Login, crate::trust::tls::TlsError> {
    Ok(match credential {
        Credential::Certificate => Login::by(LoginMethod::Certificate),
        Credential::Password(password) => {
            let mut login = Login::by(LoginMethod::Password);
            login.password = Some(password.as_bytes().to_vec());
            login
        }
        Credential::Ticket(saved) => {
            let mut login = Login::by(LoginMethod::Ticket);
            login.ticket_id = Some(saved.ticket.id().0);
            let exporter = exporter(link.get_ref().1, Purpose::Login)?;
            login.ticket_proof = Some(TicketKey::derive(&saved.ticket).proof(&exporter));
            login
        }
    })
}

pub(super) fn refused(way: &impl Way, again: Option<String>, refusal: &Refusal) -> BorrowError {
    if refusal.kind() != ErrorKind::Login {
        return BorrowError::refused(way.alias(), "login", refusal);
    }
    let text = format!("{}: {}", way.alias(), refusal.text());
    let error = BorrowError::Login { text, notes: refusal.notes().to_vec() };
    match again {
        Some(note) => error.with_note(note),
        None => error,
    }
}

pub(super) fn log_in_again(host: &str) -> String {
    format!("log in again: capuchin login {host}")
}

#[cfg(test)]
mod tests;
