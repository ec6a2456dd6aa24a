//! A borrower that says what a test wants it to say: real TLS with a joined device's key, raw bytes inside.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use capuchin::{
    proto::{
        Frame, FrameReader, FromBorrower, FromLender, Goaway, Greeting, Header, Kind, Login, LoginMethod, StreamId,
        message, mux,
    },
    trust::{keyfile, pem, proof::TicketKey, ticket::SavedTicket, tls},
};
use minicbor::Encode;
use rustls::{ClientConfig, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Home, PATIENCE};

/// Where attacks come from, and the commands that a test starts.
pub const ATTACKER: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Where an honest borrower comes from meanwhile.
pub const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A connection to a lender, after TLS and before anything else; or, without TLS, to its door.
pub struct Peer<C = TlsStream<TcpStream>> {
    pub tls: C,
    reader: FrameReader,
    unread: Vec<u8>,
}

/// What a device got when it joined.
pub struct Credentials {
    pub ca: CertificateDer<'static>,
    pub chain: Vec<CertificateDer<'static>>,
    pub key_pem: Vec<u8>,
}

impl Credentials {
    pub fn of(home: &Home, user: &str) -> Self {
        let profile = home.profile();
        let read = |path: &Path| pem::certificates(&std::fs::read(path).unwrap()).unwrap();
        Self {
            ca: read(&profile.join("ca.crt")).remove(0),
            chain: read(&profile.join(user).join("client.crt")),
            key_pem: keyfile::read_secret(&profile.join(user).join("client.key")).unwrap().to_vec(),
        }
    }

    pub fn config(&self) -> ClientConfig {
        tls::borrower_config(&self.ca, self.chain.clone(), &self.key_pem).unwrap()
    }
}

/// The ticket that a login left.
pub fn saved_ticket(home: &Home, user: &str) -> SavedTicket {
    SavedTicket::load(&home.folder.path().join("state/capuchin/tickets/lab").join(user)).unwrap()
}

impl Peer {
    /// A handshake as the lender `name`; the lender may still refuse the certificate afterwards.
    pub async fn dial(address: SocketAddr, config: ClientConfig, name: &str) -> std::io::Result<Self> {
        Self::dial_from(ATTACKER, address, config, name).await
    }

    /// As [`Self::dial`], from another address of this machine: what one source did is not held against another.
    pub async fn dial_from(
        source: Ipv4Addr,
        address: SocketAddr,
        config: ClientConfig,
        name: &str,
    ) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let socket = socket.connect(address).await?;
        socket.set_nodelay(true)?;
        let name = tls::server_name(&name.parse().unwrap());
        let connect = TlsConnector::from(Arc::new(config)).connect(name, socket);
        let tls = timeout(PATIENCE, connect).await.expect("a handshake or its refusal")?;
        Ok(Self { tls, reader: FrameReader::new(), unread: Vec::new() })
    }

    pub fn exporter(&self, purpose: tls::Purpose) -> [u8; 32] {
        tls::exporter(self.tls.get_ref().1, purpose).unwrap()
    }

    /// A logged-in connection of this home's user, ready for frames of streams; it does not come from where attackers do.
    pub async fn logged_in(address: SocketAddr, home: &Home, user: &str) -> Self {
        let config = Credentials::of(home, user).config();
        let mut peer = Self::dial_from(HONEST, address, config, "lab").await.unwrap();
        let login = ticket_login(&saved_ticket(home, user), peer.exporter(tls::Purpose::Login));
        assert!(matches!(peer.log_in_with(login).await, FromLender::Welcome(_)), "logged in");
        peer
    }
}

impl Peer<UnixStream> {
    /// At the door of a lender, as the OS user who runs the test.
    pub async fn knock(door: &Path) -> Self {
        let tls = UnixStream::connect(door).await.unwrap();
        Self { tls, reader: FrameReader::new(), unread: Vec::new() }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Peer<C> {
    pub async fn send(&mut self, bytes: &[u8]) {
        // A lender that has hung up is what some tests are about; they see it when they read.
        let _ = self.tls.write_all(bytes).await;
        let _ = self.tls.flush().await;
    }

    pub async fn say(&mut self, message: &impl Encode<()>) {
        let body = message::encode(message);
        self.send(&frame(0, Kind::Data, false, false, &body)).await;
    }

    /// The next frame; `None` when the lender has closed.
    pub async fn hear(&mut self) -> Option<Frame> {
        loop {
            if !self.unread.is_empty() {
                let (taken, frame) = self.reader.read(&self.unread).expect("a lender sends whole frames");
                self.unread.drain(..taken);
                if frame.is_some() {
                    return frame;
                }
            }
            let mut buffer = vec![0; 65_536];
            match timeout(PATIENCE, self.tls.read(&mut buffer)).await.expect("an answer or an end") {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
            }
        }
    }

    /// The next message before the login.
    pub async fn hear_message(&mut self) -> Option<FromLender> {
        match self.hear().await? {
            Frame::Data { payload, .. } => Some(message::decode("message", &payload).unwrap()),
            other => panic!("a message was expected, not {other:?}"),
        }
    }

    /// Reads on until the lender says why it ends the session.
    pub async fn hear_goaway(&mut self) -> Goaway {
        loop {
            match self.hear().await {
                Some(Frame::Goaway(goaway)) => return goaway,
                Some(_) => {}
                None => panic!("the lender closed without a word"),
            }
        }
    }

    pub async fn greet(&mut self) {
        self.say(&FromBorrower::Greeting(Greeting::new(&mux::Config::default()))).await;
    }

    pub async fn log_in_with(&mut self, login: Login) -> FromLender {
        self.greet().await;
        self.say(&FromBorrower::Login(login)).await;
        assert!(
            matches!(self.hear_message().await, Some(FromLender::Greeting(_))),
            "the certificate is accepted first"
        );
        self.hear_message().await.expect("an answer to the login")
    }
}

pub fn password_login(password: &[u8]) -> Login {
    let mut login = Login::by(LoginMethod::Password);
    login.password = Some(password.to_vec());
    login
}

/// A login at the door, as this user or as whoever the lender thinks.
pub fn peer_login(user: Option<&str>) -> Login {
    let mut login = Login::by(LoginMethod::Peer);
    login.user = user.map(str::to_owned);
    login
}

pub fn ticket_login(saved: &SavedTicket, exporter: [u8; 32]) -> Login {
    let mut login = Login::by(LoginMethod::Ticket);
    login.ticket_id = Some(saved.ticket.id().0);
    login.ticket_proof = Some(TicketKey::derive(&saved.ticket).proof(&exporter));
    login
}

pub fn frame(stream: u64, kind: Kind, syn: bool, fin: bool, payload: &[u8]) -> Vec<u8> {
    let stream = StreamId::new(stream).unwrap();
    let header = Header { stream, kind, syn, fin, length: payload.len() as u16 };
    [&header.encode()[..], payload].concat()
}
