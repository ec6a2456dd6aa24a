//! Joins over real TCP and TLS, at a lender whose answers the test makes up.

use std::{path::Path, time::Duration};

use rustls::ServerConfig;
use tokio::{
    io::BufReader,
    net::{TcpListener, TcpSocket, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::*;
use crate::{
    proto::{Greeting, IssuedTicket, Welcome, mux},
    trust::{
        authority::Authority,
        join_line::{InvitationId, JoinSecret},
        request::{new_key, parse_request},
        tls::{join_config, lender_config},
    },
};

const DEADLINE: Duration = Duration::from_secs(20);

struct Lab {
    listener: TcpListener,
    authority: Authority,
    join: Arc<ServerConfig>,
    session: Arc<ServerConfig>,
    line: JoinLine,
    dir: tempfile::TempDir,
}

type FarEnd = Greeter<TlsStream<BufReader<TcpStream>>>;

impl Lab {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (name, now) = ("lab".parse().unwrap(), UnixTime::now());
        let authority = Authority::create(now).unwrap();
        let key_pem = new_key().unwrap();
        let key = SubjectKey::of_key(key_pem.as_bytes()).unwrap();
        let chain = vec![authority.issue_server(&name, &key, now).unwrap()];
        let session = lender_config(authority.cert_der(), chain.clone(), key_pem.as_bytes()).unwrap();
        let line = JoinLine {
            expires: now.plus(Duration::from_secs(900)),
            lender: name,
            addresses: vec![listener.local_addr().unwrap().to_string()],
            id: InvitationId::random(),
            secret: JoinSecret::random(),
            ca_key: authority.public_key(),
        };
        Self {
            listener,
            join: Arc::new(join_config(chain, key_pem.as_bytes()).unwrap()),
            session: Arc::new(session),
            authority,
            line,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn profiles(&self) -> Profiles {
        Profiles::at(self.dir.path(), &self.dir.path().join("state"))
    }

    fn text(&self) -> Zeroizing<String> {
        self.line.encode().unwrap()
    }

    async fn accept(&self, config: &Arc<ServerConfig>) -> (FarEnd, [u8; 32]) {
        let (socket, _) = self.listener.accept().await.unwrap();
        let tls = TlsAcceptor::from(config.clone()).accept(BufReader::new(socket)).await.unwrap();
        let exporter = exporter(tls.get_ref().1, Purpose::Join).unwrap();
        (Greeter::new(tls), exporter)
    }

    /// Answers the question that a join begins with.
    async fn say_yes(&self, user: &str) {
        let (mut lender, exporter) = self.accept(&self.join).await;
        let Ok(FromBorrower::JoinQuestion(question)) = lender.receive("question", DEADLINE).await else {
            panic!("a join begins with its question")
        };
        assert!(self.proves(&exporter, &question));
        let status = JoinStatus { user: user.to_owned(), sets_password: true, without_password: false };
        lender.send(&[FromLender::JoinStatus(status)]).await.unwrap();
    }

    fn proves(&self, exporter: &[u8; 32], question: &JoinQuestion) -> bool {
        question.id == self.line.id.0
            && JoinKeys::derive(&self.line.secret).verify_client(exporter, &question.csr, &question.proof)
    }

    /// The connection on which a request came, its exporter, and the certificate request in it.
    async fn request(&self) -> (FarEnd, [u8; 32], Vec<u8>) {
        let (mut lender, exporter) = self.accept(&self.join).await;
        let Ok(FromBorrower::JoinRequest(request)) = lender.receive("join", DEADLINE).await else {
            panic!("the request follows the password")
        };
        assert!(self.proves(&exporter, &request.question));
        assert_eq!(request.password, b"correct horse");
        (lender, exporter, request.question.csr.clone())
    }

    fn answer(&self, user: &str, exporter: &[u8; 32], csr: &[u8], ca: &Authority) -> FromLender {
        let key = parse_request(csr).unwrap();
        let certificate = self.authority.issue_client(&user.parse().unwrap(), &key, UnixTime::now()).unwrap().to_vec();
        let proof = JoinKeys::derive(&self.line.secret).server_proof(exporter, &certificate);
        FromLender::JoinAnswer(JoinAnswer { certificate, ca: ca.cert_der().to_vec(), proof })
    }

    async fn log_in(&self) {
        let (mut lender, _) = self.accept(&self.session).await;
        assert!(lender.receive::<FromBorrower>("greeting", DEADLINE).await.is_ok());
        assert!(lender.receive::<FromBorrower>("login", DEADLINE).await.is_ok());
        let ticket = IssuedTicket { id: [1; 8], secret: [2; 32], expires: u64::MAX };
        let welcome = Welcome { session: [3; 16], ticket: Some(ticket), local: None, addresses: None };
        let greeting = FromLender::Greeting(Greeting::new(&mux::Config::default()));
        lender.send(&[greeting, FromLender::Welcome(welcome)]).await.unwrap();
    }

    async fn begin(&self) -> Join {
        self.begin_as("ana").await
    }

    async fn begin_as(&self, user: &str) -> Join {
        tokio::join!(async { Join::begin(&self.profiles(), &self.text(), None).await.unwrap() }, self.say_yes(user)).0
    }
}

fn password() -> Password {
    Password::new(b"correct horse".to_vec()).unwrap()
}

fn is_empty(hosts: &Path) -> bool {
    std::fs::read_dir(hosts).map_or(true, |mut entries| entries.next().is_none())
}

#[tokio::test]
async fn a_join_ends_logged_in_even_if_its_first_answer_is_lost() {
    let (lab, password) = (Lab::new().await, password());
    let join = lab.begin().await;
    assert_eq!((join.user().as_str(), join.sets_password(), join.alias().as_str()), ("ana", true, "lab"));
    let lender = async {
        let (lost, _, first) = lab.request().await;
        drop(lost);
        let (mut lender, exporter, csr) = lab.request().await;
        assert_eq!(csr, first, "the same request asks again");
        lender.send(&[lab.answer("ana", &exporter, &csr, &lab.authority)]).await.unwrap();
        lab.log_in().await;
    };
    let (borrower, ()) = tokio::join!(async { join.finish(&password).await.unwrap() }, lender);
    assert_eq!((borrower.lender().as_str(), borrower.user().as_str(), borrower.host()), ("lab", "ana", "lab"));
    let profiles = lab.profiles();
    // The ticket was kept: the next connection needs no password.
    let (again, ()) = tokio::join!(Borrower::connect_with(&profiles, "lab"), lab.log_in());
    assert_eq!(again.unwrap().user().as_str(), "ana");
}

/// As several lines in a script, each with an `&` behind it.
#[tokio::test]
async fn joins_of_one_lender_at_once_all_end_logged_in() {
    for (slow_user, fast_user) in [("ana", "ana"), ("ben", "ana")] {
        let (lab, password) = (Lab::new().await, password());
        let (slow, fast) = (lab.begin_as(slow_user).await, lab.begin_as(fast_user).await);
        let slow = async { slow.finish(&password).await.unwrap() };
        let meanwhile = async {
            // Its draft was made before.
            let (mut lender, exporter, csr) = lab.request().await;
            let serve = async {
                let (mut lender, exporter, csr) = lab.request().await;
                lender.send(&[lab.answer(fast_user, &exporter, &csr, &lab.authority)]).await.unwrap();
                lab.log_in().await;
            };
            let (fast, ()) = tokio::join!(async { fast.finish(&password).await.unwrap() }, serve);
            lender.send(&[lab.answer(slow_user, &exporter, &csr, &lab.authority)]).await.unwrap();
            lab.log_in().await;
            fast
        };
        let (slow, fast) = tokio::join!(slow, meanwhile);
        assert_eq!((slow.user().as_str(), fast.user().as_str()), (slow_user, fast_user));
        // Who was first is who is meant by the alias alone.
        let host = if slow_user == fast_user { "lab".to_owned() } else { format!("{slow_user}@lab") };
        assert_eq!((slow.host(), fast.host()), (host.as_str(), "lab"));
        for host in [slow.host(), fast.host()] {
            let (profiles, entered) = (lab.profiles(), lab.log_in());
            let (again, ()) = tokio::join!(Borrower::connect_with(&profiles, host), entered);
            again.unwrap();
        }
        let hosts = lab.dir.path().join("capuchin/hosts");
        let left = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
        assert_eq!(left(&hosts), 1, "nothing half-made");
        let users = if slow_user == fast_user { 1 } else { 2 };
        assert_eq!(left(&hosts.join("lab")), users + 2, "with ca.crt and lender.toml");
    }
}

#[tokio::test]
async fn a_certificate_that_was_not_asked_for_is_not_kept() {
    for (user, own_ca) in [("bob", true), ("ana", false)] {
        let (lab, password, other) = (Lab::new().await, password(), Authority::create(UnixTime::now()).unwrap());
        let join = lab.begin().await;
        let lender = async {
            let (mut lender, exporter, csr) = lab.request().await;
            let ca = if own_ca { &lab.authority } else { &other };
            lender.send(&[lab.answer(user, &exporter, &csr, ca)]).await.unwrap();
        };
        let (result, ()) = tokio::join!(join.finish(&password), lender);
        assert_eq!(result.err().unwrap().kind(), ErrorKind::Identity);
        assert!(is_empty(&lab.dir.path().join("capuchin/hosts")), "{user} {own_ca}");
    }
}

#[tokio::test]
async fn a_refused_password_leaves_nothing_behind() {
    let (lab, password) = (Lab::new().await, password());
    let join = lab.begin().await;
    let lender = async {
        let refusal = FromLender::Refusal(Refusal::new(ErrorKind::Login, "the password is wrong"));
        lab.request().await.0.send(&[refusal]).await.unwrap();
    };
    let (result, ()) = tokio::join!(join.finish(&password), lender);
    let error = result.err().unwrap();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Login, "lab: the password is wrong"));
    assert!(is_empty(&lab.dir.path().join("capuchin/hosts")));
}

#[tokio::test]
async fn an_expired_line_is_told_before_anything_is_dialled() {
    let mut lab = Lab::new().await;
    lab.line.expires = UnixTime::now();
    // Nobody accepts: a connection would wait for ever.
    let error = Join::begin(&lab.profiles(), &lab.text(), None).await.err().unwrap();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Login, "the join line for lab has expired"));
}

#[tokio::test]
async fn a_lender_that_is_not_the_lines_is_sent_nothing() {
    let mut lab = Lab::new().await;
    lab.line.ca_key = Authority::create(UnixTime::now()).unwrap().public_key();
    let (profiles, line) = (lab.profiles(), lab.text());
    let lender = async {
        let (socket, _) = lab.listener.accept().await.unwrap();
        TlsAcceptor::from(lab.join.clone()).accept(socket).await.map(drop)
    };
    let (result, handshake) = tokio::join!(Join::begin(&profiles, &line, None), lender);
    let error = result.err().unwrap();
    assert!(error.kind() == ErrorKind::Identity && error.to_string().contains("is not lab"), "{error}");
    assert!(handshake.is_err(), "the borrower ends it before its side is complete");
}

#[tokio::test]
async fn a_lender_without_an_open_invitation_says_so() {
    let lab = Lab::new().await;
    let (profiles, line) = (lab.profiles(), lab.text());
    let lender = async {
        let (socket, _) = lab.listener.accept().await.unwrap();
        assert!(TlsAcceptor::from(lab.session.clone()).accept(socket).await.is_err());
    };
    let (result, ()) = tokio::join!(Join::begin(&profiles, &line, None), lender);
    let error = result.err().unwrap();
    assert!(error.kind() == ErrorKind::Login && error.to_string().contains("no open invitation"), "{error}");
}

#[tokio::test]
async fn a_lender_that_is_down_is_named_with_its_addresses() {
    let Lab { line, dir, .. } = Lab::new().await;
    // Bound and not listening: it refuses, and the kernel gives its number to nobody else.
    let down = TcpSocket::new_v4().unwrap();
    down.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = down.local_addr().unwrap().to_string();
    let line = JoinLine { addresses: vec![address.clone()], ..line };
    let error = Join::begin(&Profiles::at(dir.path(), dir.path()), &line.encode().unwrap(), None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains(&address) && error.notes()[0].contains("capuchind"), "{error}");
}
