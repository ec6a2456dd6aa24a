//! A lender that writes to the borrower's terminal: whatever it says is shown, and none of it is obeyed.

use std::{os::fd::OwnedFd, process::Command, sync::Arc};

use capuchin::{
    proto::{Answer, ErrorKind, FromBorrower, FromLender, Greeting, JoinStatus, Refusal, Verdict, Welcome, mux},
    session::{Ended, Greeter, Session},
    trust::{keyfile, pem, tls},
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::BufReader,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::support::{Daemon, Home, LOOPBACK, Lab, PASSWORD, PATIENCE, json, run, run_with, text};

/// Clears the screen, types an answer, forges an error, hides what follows, and the same in one byte each.
const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{1b}[6n\r\nerror[policy]: all is well\u{8}\u{7f}\u{9b}31m\u{202e}\u{200b}";

/// What the hostile lender does with a connection.
#[derive(Clone, Copy)]
enum Trick {
    RefusesTheJoin,
    NamesAStrangeUser,
    RefusesTheLogin,
    EndsBeforeTheLogin,
    RefusesTheRequest,
    NamesAStrangeRule,
    EndsTheSession,
}

/// Keys and certificates of the honest lender, which now serve the hostile one.
struct Stolen {
    session: Arc<rustls::ServerConfig>,
    join: Arc<rustls::ServerConfig>,
}

impl Stolen {
    fn from(lab: &Lab) -> Self {
        let certificates = |name: &str| pem::certificates(&std::fs::read(lab.dir().join(name)).unwrap()).unwrap();
        let (ca, chain): (Vec<CertificateDer<'static>>, _) = (certificates("ca.crt"), certificates("server.crt"));
        let key = keyfile::read_secret(&lab.dir().join("server.key")).unwrap();
        Self {
            session: tls::lender_config(&ca[0], chain.clone(), &key).unwrap().into(),
            join: tls::join_config(chain, &key).unwrap().into(),
        }
    }

    /// Plays the trick on every connection that comes to the honest lender's socket.
    fn serve(self, listener: std::net::TcpListener, trick: Trick) -> tokio::task::JoinHandle<()> {
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let joins = matches!(trick, Trick::RefusesTheJoin | Trick::NamesAStrangeUser);
        let acceptor = TlsAcceptor::from(if joins { self.join } else { self.session });
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                if let Ok(tls) = acceptor.accept(BufReader::new(socket)).await {
                    play(trick, Greeter::new(tls)).await;
                }
            }
        })
    }
}

/// Starts the honest lender at this socket, which stays open when it ends: nobody else takes its port meanwhile.
fn serve_at(listener: &std::net::TcpListener, folder: tempfile::TempDir) -> Lab {
    let mut passed = Command::new("sh");
    let script = r#"LISTEN_PID=$$ exec "$0" serve 3<&0 </dev/null"#;
    passed.args(["-c", script, env!("CARGO_BIN_EXE_capuchind")]).stdin(OwnedFd::from(listener.try_clone().unwrap()));
    let daemon = Daemon::spawn(passed.env("CAPUCHIND_DIR", folder.path()).env("LISTEN_FDS", "1"));
    daemon.wait_for_line("listens on");
    Lab { folder, daemon, address: listener.local_addr().unwrap() }
}

async fn play(trick: Trick, mut greeter: Greeter<TlsStream<BufReader<TcpStream>>>) {
    let refusal = || Refusal::new(ErrorKind::Login, HOSTILE).with_notes([HOSTILE.to_owned()]);
    let ended = || Ended { kind: ErrorKind::Busy, text: HOSTILE.to_owned(), by_peer: false };
    // A borrower that has had enough is what this is about.
    let first = greeter.receive::<FromBorrower>("message", PATIENCE).await;
    match trick {
        Trick::RefusesTheJoin => drop(greeter.send(&[FromLender::Refusal(refusal())]).await),
        Trick::NamesAStrangeUser => {
            let status = JoinStatus { user: HOSTILE.to_owned(), sets_password: true, without_password: false };
            drop(greeter.send(&[FromLender::JoinStatus(status)]).await);
        }
        Trick::EndsBeforeTheLogin => return greeter.farewell(&ended()).await,
        _ => {
            let config = mux::Config::default();
            let _ = greeter.receive::<FromBorrower>("login", PATIENCE).await;
            let greeting = FromLender::Greeting(Greeting::new(&config));
            if matches!(trick, Trick::RefusesTheLogin) {
                let _ = greeter.send(&[greeting, FromLender::Refusal(refusal())]).await;
                return greeter.farewell(&ended()).await;
            }
            let welcome = Welcome { session: [3; 16], ticket: None, local: None, addresses: None };
            let _ = greeter.send(&[greeting, FromLender::Welcome(welcome)]).await;
            let Ok(FromBorrower::Greeting(theirs)) = first else { return };
            let config = theirs.agree(&config).unwrap();
            return lend(trick, Session::start(greeter.into_inner(), mux::Role::Lender, config)).await;
        }
    }
    greeter.farewell(&ended()).await;
}

async fn lend(trick: Trick, session: Session) {
    let Some(stream) = session.accept().await else { return };
    assert!(stream.read_message_bytes("request").await.is_ok());
    let answer = match trick {
        Trick::NamesAStrangeRule => Answer::Granted(Verdict::new(&HOSTILE, [HOSTILE.to_owned()])),
        Trick::EndsTheSession => {
            session.end(ErrorKind::Revoked, HOSTILE);
            drop(session.ended().await);
            return;
        }
        _ => Answer::Refused(Refusal::new(ErrorKind::Policy, HOSTILE).with_notes(vec![HOSTILE.to_owned(); 8])),
    };
    let _ = stream.write_message(&answer).await;
    session.ended().await;
}

/// Runs a command and gives what it printed, none of which may steer a terminal.
async fn printed(mut command: Command, stdin: &'static str) -> String {
    let output = tokio::task::spawn_blocking(move || run_with(&mut command, stdin)).await.unwrap();
    let printed = text([output.stdout, output.stderr].concat());
    let steers = |c: char| (c.is_control() && c != '\n') || ('\u{200b}'..='\u{202e}').contains(&c);
    assert!(!printed.contains(steers), "{printed:?}");
    assert!(!printed.lines().any(|line| line.starts_with("error[policy]: all is well")), "{printed:?}");
    printed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_55_escape_bytes_in_the_lenders_messages() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut lab = serve_at(&listener, lab.folder);
    let home = lab.join("alice");
    let line = lab.invite("bob");
    lab.daemon.kill();
    for (trick, kind, shown) in [
        (Trick::RefusesTheJoin, "error[login]", "\\u{1b}[2J"),
        // Names have a grammar: this one is not even shown.
        (Trick::NamesAStrangeUser, "error[protocol]", "user name"),
        (Trick::RefusesTheLogin, "error[login]", "\\u{1b}[2J"),
        (Trick::EndsBeforeTheLogin, "error[busy]", "\\u{1b}[2J"),
        (Trick::RefusesTheRequest, "denied: ", "\\u{9b}31m\\u{202e}\\u{200b}"),
        (Trick::NamesAStrangeRule, "allowed: ", "\\u{1b}]0;owned\\u{7}"),
        (Trick::EndsTheSession, "error[revoked]", "\\r\\nerror[policy]"),
    ] {
        let hostile = Stolen::from(&lab).serve(listener.try_clone().unwrap(), trick);
        let mut command = home.capuchin();
        match trick {
            Trick::RefusesTheJoin | Trick::NamesAStrangeUser => {
                command = Home::new().capuchin();
                command.args(["join", line.trim(), "--password-file", "-"]);
            }
            Trick::RefusesTheLogin | Trick::EndsBeforeTheLogin => {
                command.args(["login", "lab", "--password-file", "-"]);
            }
            _ => drop(command.args(["check", "lab", "connect", "127.0.0.1:1"])),
        }
        let said = printed(command, PASSWORD).await;
        assert!(said.contains(kind) && said.contains(shown), "{said}");
        if matches!(trick, Trick::RefusesTheRequest | Trick::NamesAStrangeRule) {
            let mut command = home.capuchin();
            command.args(["check", "lab", "connect", "127.0.0.1:1", "--json"]);
            let said = printed(command, "").await;
            assert!(said.is_ascii() && json(said.as_bytes()).to_string().contains("owned"), "{said}");
            let mut command = home.capuchin();
            command.args(["forward", "lab", "-N", "-L", "0:127.0.0.1:1"]);
            if matches!(trick, Trick::RefusesTheRequest) {
                assert!(printed(command, "").await.starts_with("error[policy]"));
            }
        }
        hostile.abort();
        let _ = hostile.await;
    }
    // The honest lender, back at its address, serves the borrower that was lied to.
    let lab = serve_at(&listener, lab.folder);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    lab.wait_for_verdict("check", "granted");
}
