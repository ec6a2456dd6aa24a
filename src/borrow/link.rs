//! The way to a lender: its addresses, TCP, TLS, and what their failures mean to a user.

use std::{io, sync::Arc, time::Duration};

use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::{
    io::{AsyncRead, AsyncWrite, BufReader},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::client::TlsStream;

use super::BorrowError;
use crate::{
    proto::LenderName,
    session::{GreetError, READ_BYTES, TLS_BUFFER_BYTES, dial},
    trust::tls::{check_alpn, server_name},
};

/// The next address gets its turn when the one before has not come to an end of its handshake: two round trips of a slow
/// path. What an address stands for is tried as RFC 8305 has it by [`dial`].
const ADDRESS_STEP: Duration = Duration::from_millis(500);

/// A connection to a lender whose TLS handshake is over.
pub(super) type Link<IO = TcpStream> = TlsStream<BufReader<IO>>;

/// Whom to reach, and what for.
pub(super) struct Route<'a> {
    /// What the user calls the lender, in errors.
    pub(super) alias: &'a str,
    pub(super) lender: &'a LenderName,
    /// Each `host:port`.
    pub(super) addresses: &'a [String],
    pub(super) config: Arc<ClientConfig>,
    pub(super) alpn: &'static [u8],
}

/// Why there is no link, or nothing came over it.
#[derive(Debug)]
pub(super) enum LinkError {
    /// The other side closed before it said anything: a lender that is flooded does so, and trying again may help.
    Closed(io::Error),
    /// Trying again would end the same way.
    Failed(BorrowError),
}

impl LinkError {
    /// Of the failures of several addresses the one that says most: a lender that is flooded, then whatever answers and is
    /// not it, then silence.
    fn weight(&self) -> u8 {
        match self {
            Self::Closed(_) => 2,
            Self::Failed(BorrowError::Unreachable { .. }) => 0,
            Self::Failed(_) => 1,
        }
    }
}

impl Route<'_> {
    /// Connects to the first address at which the lender itself answers; who else may answer at an address that it had
    /// once is passed over.
    pub(super) async fn reach(&self) -> Result<Link, LinkError> {
        // `name@hub` is reached through another lender, which this version cannot.
        let mut rest = self.addresses.iter().filter(|address| !address.contains('@'));
        let (mut attempts, mut left) = (JoinSet::new(), true);
        let mut worst = self.nobody("it has no address".to_owned());
        loop {
            match rest.next() {
                Some(address) => {
                    let (address, connector) = (address.clone(), self.connector());
                    let lender = self.lender.clone();
                    attempts.spawn(async move { Self::attempt(&address, &lender, connector).await });
                }
                None => left = false,
            }
            let step =
                async { if left { tokio::time::sleep(ADDRESS_STEP).await } else { std::future::pending().await } };
            let failed = tokio::select! {
                done = attempts.join_next() => match done {
                    Some(Ok(Ok(link))) => match self.admitted(link) {
                        Ok(link) => return Ok(link),
                        Err(error) => error,
                    },
                    Some(Ok(Err(Missed::Dial(why)))) => self.nobody(why),
                    Some(Ok(Err(Missed::Handshake(error)))) => self.io_error(error),
                    Some(Err(error)) => self.nobody(error.to_string()),
                    None if left => continue,
                    None => return Err(worst),
                },
                () = step => continue,
            };
            if failed.weight() >= worst.weight() {
                worst = failed;
            }
        }
    }

    /// The handshake alone, on a connection that a test has made.
    #[cfg(test)]
    pub(super) async fn handshake<IO>(&self, connection: IO) -> Result<Link<IO>, LinkError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let link =
            shake_hands(self.connector(), self.lender, connection).await.map_err(|error| self.io_error(error))?;
        self.admitted(link)
    }

    fn connector(&self) -> tokio_rustls::TlsConnector {
        self.config.clone().into()
    }

    async fn attempt(
        address: &str,
        lender: &LenderName,
        connector: tokio_rustls::TlsConnector,
    ) -> Result<Link, Missed> {
        let found =
            tokio::net::lookup_host(address).await.map_err(|error| Missed::Dial(format!("{address}: {error}")))?;
        let dialed = dial(&found.collect::<Vec<_>>()).await;
        let socket = dialed.map_err(|error| {
            Missed::Dial(error.map_or_else(|| format!("{address}: no address"), |error| error.to_string()))
        })?;
        shake_hands(connector, lender, socket).await.map_err(Missed::Handshake)
    }

    /// Whoever has shown the lender's certificate must also mean our protocol.
    fn admitted<IO>(&self, mut link: Link<IO>) -> Result<Link<IO>, LinkError> {
        let tls = link.get_mut().1;
        tls.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        check_alpn(tls.alpn_protocol(), self.alpn).map_err(|error| {
            LinkError::Failed(BorrowError::Tls { text: format!("{}: {error}", self.alias), notes: Vec::new() })
        })?;
        Ok(link)
    }

    fn nobody(&self, why: String) -> LinkError {
        LinkError::Failed(self.unreachable(why).with_note("is capuchind running there?".to_owned()))
    }
}

/// Why one address did not lead to the lender.
enum Missed {
    Dial(String),
    Handshake(io::Error),
}

async fn shake_hands<IO>(
    connector: tokio_rustls::TlsConnector,
    lender: &LenderName,
    connection: IO,
) -> io::Result<Link<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    connector.connect(server_name(lender), BufReader::with_capacity(READ_BYTES, connection)).await
}

/// How failures on the way to a lender read, whichever way it is.
pub(super) trait Way {
    /// What the user calls the lender.
    fn alias(&self) -> &str;

    /// It cannot be reached, and why.
    fn unreachable(&self, why: String) -> BorrowError;

    /// What the connection failed with.
    fn io_error(&self, error: io::Error) -> LinkError {
        plain_io_error(self, error)
    }

    /// The other side took too long.
    fn late(&self, deadline: std::time::Duration) -> BorrowError {
        self.unreachable(format!("no answer within {} s", deadline.as_secs()))
    }

    /// The other side closed every time.
    fn closed(&self, error: &io::Error) -> BorrowError {
        self.unreachable(format!("it closes the connection ({error})"))
            .with_note(
                "it may be flooded or starting, or hear nobody from here for a while after failed logins; its log says more"
                    .to_owned(),
            )
    }

    /// What an exchange before the first stream failed with.
    fn greet_error(&self, error: GreetError) -> LinkError {
        LinkError::Failed(match error {
            GreetError::Io(error) => return self.io_error(error),
            GreetError::Protocol(error) => BorrowError::protocol(self.alias(), error),
            GreetError::Ended(ended) => BorrowError::ended(self.alias(), ended),
            GreetError::Late(deadline) => self.late(deadline),
        })
    }
}

impl Way for Route<'_> {
    fn alias(&self) -> &str {
        self.alias
    }

    fn unreachable(&self, why: String) -> BorrowError {
        BorrowError::Unreachable {
            lender: self.alias.to_owned(),
            tried: self.addresses.join(", "),
            why,
            notes: Vec::new(),
        }
    }

    fn io_error(&self, error: io::Error) -> LinkError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => LinkError::Failed(self.tls_error(tls)),
            None => plain_io_error(self, error),
        }
    }
}

/// What a connection failed with, TLS apart. A close may be worth another try.
fn plain_io_error(way: &(impl Way + ?Sized), error: io::Error) -> LinkError {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => LinkError::Closed(error),
        _ => LinkError::Failed(way.unreachable(error.to_string())),
    }
}

impl Route<'_> {
    /// What rustls says, as the user needs to hear it.
    fn tls_error(&self, error: &rustls::Error) -> BorrowError {
        use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible, PeerMisbehaved};
        let (alias, lender) = (self.alias, self.lender);
        let identity = |text: String, note: String| BorrowError::Identity { text, notes: vec![note] };
        let tls = |text: String, note: &str| BorrowError::Tls { text, notes: vec![note.to_owned()] };
        match error {
            InvalidCertificate(why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => identity(
                    format!("the certificate of {lender} has expired"),
                    "a running capuchind renews it by itself: check the clock of both machines".to_owned(),
                ),
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => identity(
                    format!("the certificate of {lender} is not valid yet"),
                    "check the clock of both machines".to_owned(),
                ),
                _ => identity(
                    format!("what answers at {} is not {lender}: {error}", self.addresses.join(", ")),
                    format!(
                        "nothing was sent to it; if {lender} was set up anew, join it again under another name: capuchin join --as NAME"
                    ),
                ),
            },
            AlertReceived(alert) => self.alert(*alert),
            InvalidMessage(_) | PeerIncompatible(_) | PeerMisbehaved(_) => tls(
                format!("what answers at {} does not speak capuchin's TLS: {error}", self.addresses.join(", ")),
                "is capuchind running there, on that port?",
            ),
            _ => tls(format!("the TLS handshake with {alias} failed: {error}"), "its log says more"),
        }
    }

    /// What the lender said when it ended the handshake.
    fn alert(&self, alert: AlertDescription) -> BorrowError {
        use AlertDescription as Alert;
        let (alias, lender) = (self.alias, self.lender);
        let again = format!("join again: on {lender} run `capuchind invite USER`, here `capuchin join`");
        let identity = |text: String, note: String| BorrowError::Identity { text, notes: vec![note] };
        match alert {
            Alert::NoApplicationProtocol if self.alpn == crate::trust::tls::JOIN_ALPN => BorrowError::Login {
                text: format!("{lender} has no open invitation: it was used, has expired or was taken back"),
                notes: vec![format!("ask for a new line: on {lender} run `capuchind invite USER`")],
            },
            Alert::NoApplicationProtocol => BorrowError::Tls {
                text: format!("{alias} does not speak capuchin/1"),
                notes: vec!["is capuchind running there, on that port?".to_owned()],
            },
            Alert::CertificateExpired => identity(
                format!("{alias} does not take this device's certificate: it has expired, or is not valid yet"),
                format!("check the clock of both machines; the password renews it: capuchin login {alias}; or {again}"),
            ),
            Alert::CertificateRevoked | Alert::AccessDenied => {
                identity(format!("{alias} has revoked this device's certificate"), again)
            }
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::CertificateRequired
            | Alert::DecryptError => {
                identity(format!("{alias} does not take this device's certificate ({alert:?})"), again)
            }
            _ => BorrowError::Tls {
                text: format!("{alias} ended the TLS handshake: {alert:?}"),
                notes: vec!["is capuchind running there, in a version that fits?".to_owned()],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::Error;

    use super::*;
    use crate::{
        proto::ErrorKind,
        trust::tls::{ALPN, JOIN_ALPN, join_client_config},
    };

    fn told(alpn: &'static [u8], error: &Error) -> (ErrorKind, String) {
        let lender = "lab".parse().unwrap();
        let addresses = ["10.0.0.1:2278".to_owned()];
        let config = Arc::new(join_client_config(&[7; 32]).unwrap());
        let route = Route { alias: "lab", lender: &lender, addresses: &addresses, config, alpn };
        let error = match route.io_error(io::Error::new(io::ErrorKind::InvalidData, error.clone())) {
            LinkError::Failed(error) => error,
            LinkError::Closed(error) => panic!("{error} is no close"),
        };
        assert!(!error.notes().is_empty(), "{error} says nothing to do");
        (error.kind(), error.to_string())
    }

    #[test]
    fn each_way_a_handshake_ends_has_its_kind_and_says_what_to_do() {
        use AlertDescription as Alert;
        for (alpn, error, kind, text) in [
            (ALPN, Error::AlertReceived(Alert::CertificateExpired), ErrorKind::Identity, "it has expired"),
            (ALPN, Error::AlertReceived(Alert::UnknownCA), ErrorKind::Identity, "does not take this device's"),
            (ALPN, Error::AlertReceived(Alert::AccessDenied), ErrorKind::Identity, "has revoked"),
            (ALPN, Error::AlertReceived(Alert::NoApplicationProtocol), ErrorKind::Tls, "does not speak capuchin/1"),
            (JOIN_ALPN, Error::AlertReceived(Alert::NoApplicationProtocol), ErrorKind::Login, "no open invitation"),
            (ALPN, Error::AlertReceived(Alert::ProtocolVersion), ErrorKind::Tls, "ProtocolVersion"),
            (ALPN, CertificateError::UnknownIssuer.into(), ErrorKind::Identity, "10.0.0.1:2278 is not lab"),
            (ALPN, CertificateError::Expired.into(), ErrorKind::Identity, "of lab has expired"),
            (ALPN, Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), ErrorKind::Tls, "does not speak"),
        ] {
            let (got, told) = told(alpn, &error);
            assert_eq!(got, kind, "{told}");
            assert!(told.contains(text), "{told}");
        }
    }
}
