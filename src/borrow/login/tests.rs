use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncWriteExt, BufReader, DuplexStream, duplex};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    proto::{LenderName, Welcome},
    trust::{
        UnixTime,
        authority::Authority,
        request::{SubjectKey, new_key},
        ticket::Ticket,
        tls::{ALPN, borrower_config, lender_config},
    },
};

/// A lender of one's own making: real TLS over memory, and the test says what it answers.
struct Lab {
    lender: Arc<ServerConfig>,
    borrower: Arc<ClientConfig>,
    name: LenderName,
}

type FarEnd = Greeter<tokio_rustls::server::TlsStream<BufReader<DuplexStream>>>;

impl Lab {
    /// Whose borrowers have certificates of its own CA, or of another one.
    fn new(own: bool) -> Self {
        let (name, now): (LenderName, _) = ("lab".parse().unwrap(), UnixTime::now());
        let authority = Authority::create(now).unwrap();
        let issuer = if own { &authority } else { &Authority::create(now).unwrap() };
        let (server_pem, client_pem) = (new_key().unwrap(), new_key().unwrap());
        let server = SubjectKey::of_key(server_pem.as_bytes()).unwrap();
        let client = SubjectKey::of_key(client_pem.as_bytes()).unwrap();
        let chain = vec![authority.issue_server(&name, &server, now).unwrap()];
        let lender = lender_config(authority.cert_der(), chain, server_pem.as_bytes()).unwrap();
        let chain = vec![issuer.issue_client(&"ana".parse().unwrap(), &client, now).unwrap()];
        let borrower = borrower_config(authority.cert_der(), chain, client_pem.as_bytes()).unwrap();
        Self { lender: Arc::new(lender), borrower: Arc::new(borrower), name }
    }

    fn route(&self) -> Route<'_> {
        Route { alias: "lab", lender: &self.name, addresses: &[], config: self.borrower.clone(), alpn: ALPN }
    }

    /// Logs in at a lender that does as `script` says, once its side of the handshake stands.
    async fn log_in<F: Future<Output = ()> + Send>(
        &self,
        credential: Credential<'_>,
        script: impl FnOnce(FarEnd) -> F,
    ) -> Result<LoggedIn, LinkError> {
        let (near, far) = duplex(64 * 1024);
        let lender = async {
            if let Ok(tls) = TlsAcceptor::from(self.lender.clone()).accept(BufReader::new(far)).await {
                script(Greeter::new(tls)).await;
            }
        };
        let route = self.route();
        let borrower = async { log_in(&route, route.handshake(near).await?, credential, None).await };
        tokio::join!(lender, borrower).1
    }
}

async fn greeted(lender: &mut FarEnd) -> Login {
    let deadline = LOGIN_DEADLINE;
    assert!(matches!(lender.receive("greeting", deadline).await, Ok(FromBorrower::Greeting(_))));
    match lender.receive("login", deadline).await {
        Ok(FromBorrower::Login(login)) => login,
        _ => panic!("the login comes right behind the greeting, unasked"),
    }
}

fn greeting() -> FromLender {
    FromLender::Greeting(Greeting::new(&mux::Config::default()))
}

fn password() -> Password {
    Password::new(b"correct horse".to_vec()).unwrap()
}

fn failed(result: Result<LoggedIn, LinkError>) -> BorrowError {
    match result.map(drop) {
        Err(LinkError::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_password_brings_a_session_and_a_ticket() {
    let ticket = IssuedTicket { id: [1; 8], secret: [2; 32], expires: 3 };
    let issued = ticket.clone();
    let (lab, password) = (Lab::new(true), password());
    let logged_in = lab.log_in(Credential::Password(&password), |mut lender| async move {
        assert_eq!(greeted(&mut lender).await.password.as_deref(), Some(&b"correct horse"[..]));
        let welcome =
            FromLender::Welcome(Welcome { session: [9; 16], ticket: Some(issued), local: None, addresses: None });
        lender.send(&[greeting(), welcome]).await.unwrap();
    });
    let Ok(logged_in) = logged_in.await else { panic!("the login failed") };
    assert_eq!(logged_in.id, SessionId([9; 16]));
    assert!(logged_in.ticket == Some(ticket));
}

#[tokio::test]
async fn a_refused_ticket_says_how_to_log_in_again() {
    let ticket = Ticket::random();
    let id = ticket.id().0;
    let saved = SavedTicket {
        ticket,
        expires: UnixTime(u64::MAX),
        user: "ana".parse().unwrap(),
        lender: "lab".parse().unwrap(),
    };
    let lab = Lab::new(true);
    let result = lab.log_in(Credential::Ticket(&saved), |mut lender| async move {
        let login = greeted(&mut lender).await;
        assert_eq!((login.ticket_id, login.password.is_none()), (Some(id), true));
        let refusal = Refusal::new(ErrorKind::Login, "the ticket is not known");
        lender.send(&[greeting(), FromLender::Refusal(refusal)]).await.unwrap();
    });
    let error = failed(result.await);
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Login, "lab: the ticket is not known"));
    assert_eq!(error.notes(), ["log in again: capuchin login lab"]);
}

#[tokio::test]
async fn a_certificate_that_the_lender_refuses_is_an_identity_error() {
    let (lab, password) = (Lab::new(false), password());
    let result = lab.log_in(Credential::Password(&password), |_| async {}).await;
    let error = failed(result);
    assert_eq!(error.kind(), ErrorKind::Identity, "{error}");
    assert!(error.notes()[0].contains("invite"), "{error}");
}

#[tokio::test]
async fn a_lender_without_lanes_breaks_the_protocol() {
    let (lab, password) = (Lab::new(true), password());
    let result = lab.log_in(Credential::Password(&password), |mut lender| async move {
        greeted(&mut lender).await;
        let none = Greeting { lanes: 0, ..Greeting::new(&mux::Config::default()) };
        lender.send(&[FromLender::Greeting(none)]).await.unwrap();
    });
    assert_eq!(failed(result.await).kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_close_is_worth_a_retry_only_before_the_greeting() {
    let (lab, password) = (Lab::new(true), password());
    let early = lab.log_in(Credential::Password(&password), |lender| async move {
        lender.into_inner().shutdown().await.unwrap();
    });
    assert!(matches!(early.await, Err(LinkError::Closed(_))));
    let late = lab.log_in(Credential::Password(&password), |mut lender| async move {
        greeted(&mut lender).await;
        lender.send(&[greeting()]).await.unwrap();
    });
    assert_eq!(failed(late.await).kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_lender_that_closes_is_tried_three_times_more_and_one_that_hangs_is_given_up() {
    let lab = Lab::new(true);
    let route = lab.route();
    let mut attempts = 0;
    let closed = patiently(&route, || {
        attempts += 1;
        async { Err::<(), _>(LinkError::Closed(std::io::ErrorKind::ConnectionReset.into())) }
    });
    assert_eq!(closed.await.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(attempts, 4);
    let hung = patiently(&route, std::future::pending::<Result<(), LinkError>>).await;
    assert!(hung.unwrap_err().to_string().contains("no answer within 20 s"));
}
