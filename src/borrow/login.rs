//! Logging in on a connection: who we are says the certificate, that it is really us says a password or a ticket.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    BorrowError,
    link::{Link, LinkError, Route},
};
use crate::{
    proto::{
        ErrorKind, FromBorrower, FromLender, Greeting, IssuedTicket, Login, LoginMethod, ProtocolError, Refusal,
        SessionId, mux,
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
}

/// A session that has just begun.
pub(super) struct LoggedIn {
    pub(super) session: Session,
    pub(super) id: SessionId,
    pub(super) ticket: Option<IssuedTicket>,
}

/// Does `attempt` until it is neither closed early nor late.
pub(super) async fn patiently<T, F>(route: &Route<'_>, mut attempt: impl FnMut() -> F) -> Result<T, BorrowError>
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
                Err(LinkError::Closed(error)) if retries == RETRIES => return Err(route.closed(&error)),
                Err(LinkError::Closed(_)) => tokio::time::sleep(BACKOFF * 2_u32.pow(retries)).await,
            }
            retries += 1;
        }
    };
    tokio::time::timeout_at(deadline, attempts).await.unwrap_or_else(|_| Err(route.late(LOGIN_DEADLINE)))
}

/// Greets and logs in. [`LinkError::Closed`] only before the lender's greeting.
pub(super) async fn log_in<IO>(
    route: &Route<'_>,
    link: Link<IO>,
    credential: Credential<'_>,
) -> Result<LoggedIn, LinkError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let ours = mux::Config::default();
    let login = login_of(credential, &link).map_err(|error| {
        let text = format!("{}: {error}", route.alias);
        LinkError::Failed(BorrowError::Tls { text, notes: Vec::new() })
    })?;
    let mut greeter = Greeter::new(link);
    // Together: the lender's greeting is also its verdict on our certificate. If it has hung up already, what it said
    // before can still be read, and says more than the failure to write.
    let _ = greeter.send(&[FromBorrower::Greeting(Greeting::new(&ours)), FromBorrower::Login(login)]).await;
    let broken = |source| LinkError::Failed(BorrowError::protocol(route.alias, source));
    let config = match receive(route, &mut greeter, "greeting").await? {
        FromLender::Greeting(greeting) if greeting.lanes > 0 => greeting.agree(&ours).map_err(broken)?,
        FromLender::Greeting(_) => {
            return Err(broken(ProtocolError::Malformed { what: "greeting", why: "it offers no lane".to_owned() }));
        }
        FromLender::Refusal(refusal) => return Err(LinkError::Failed(refused(route, credential, &refusal))),
        other => return Err(unexpected(route, "greeting", &other)),
    };
    let answer =
        receive(route, &mut greeter, "welcome").await.map_err(|error| LinkError::Failed(settled(route, error)))?;
    match answer {
        FromLender::Welcome(welcome) => Ok(LoggedIn {
            session: Session::start(greeter.into_inner(), mux::Role::Borrower, config),
            id: SessionId(welcome.session),
            ticket: welcome.ticket,
        }),
        FromLender::Refusal(refusal) => Err(LinkError::Failed(refused(route, credential, &refusal))),
        other => Err(unexpected(route, "welcome", &other)),
    }
}

/// The lender's next message; the deadline over everything bounds the wait.
pub(super) async fn receive<IO>(
    route: &Route<'_>,
    greeter: &mut Greeter<Link<IO>>,
    what: &'static str,
) -> Result<FromLender, LinkError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    greeter.receive(what, LOGIN_DEADLINE).await.map_err(|error| route.greet_error(error))
}

pub(super) fn unexpected(route: &Route<'_>, expected: &'static str, got: &FromLender) -> LinkError {
    let source = ProtocolError::Unexpected { expected, got: got.name().to_owned() };
    LinkError::Failed(BorrowError::protocol(route.alias, source))
}

/// An error that is not worth a retry any more.
pub(super) fn settled(route: &Route<'_>, error: LinkError) -> BorrowError {
    match error {
        LinkError::Failed(error) => error,
        LinkError::Closed(error) => BorrowError::Ended {
            lender: route.alias.to_owned(),
            kind: ErrorKind::Lost,
            text: format!("it closed the connection ({error})"),
        },
    }
}

fn login_of<IO>(credential: Credential<'_>, link: &Link<IO>) -> Result<Login, crate::trust::tls::TlsError> {
    Ok(match credential {
        Credential::Password(password) => Login {
            method: LoginMethod::Password,
            password: Some(password.as_bytes().to_vec()),
            ticket_id: None,
            ticket_proof: None,
        },
        Credential::Ticket(saved) => Login {
            method: LoginMethod::Ticket,
            password: None,
            ticket_id: Some(saved.ticket.id().0),
            ticket_proof: Some(TicketKey::derive(&saved.ticket).proof(&exporter(link.get_ref().1, Purpose::Login)?)),
        },
    })
}

fn refused(route: &Route<'_>, credential: Credential<'_>, refusal: &Refusal) -> BorrowError {
    if refusal.kind() != ErrorKind::Login {
        return BorrowError::refused(route.alias, "login", refusal);
    }
    let text = format!("{}: {}", route.alias, refusal.text());
    let error = BorrowError::Login { text, notes: refusal.notes().to_vec() };
    match credential {
        Credential::Password(_) => error,
        Credential::Ticket(_) => error.with_note(log_in_again(route.alias)),
    }
}

pub(super) fn log_in_again(host: &str) -> String {
    format!("log in again: capuchin login {host}")
}

#[cfg(test)]
mod tests;
