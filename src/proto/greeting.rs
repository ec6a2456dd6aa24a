//! What the two ends say before the first stream: greetings, login or join, and the answer.
//!
//! ```text
//!   borrower                          lender
//!      ├── Greeting, Login ──────────▶ │      after the handshake, without waiting
//!      │ ◀────────────────── Greeting ─┤      says that the certificate was accepted
//!      │ ◀─────── Welcome or Refusal ──┤
//! ```
//! A join has its own ALPN and is [`JoinQuestion`] or [`JoinRequest`], answered by [`JoinStatus`] or [`JoinAnswer`]; the
//! renewal of a certificate that has ended has another, and is [`Renewal`].
//! Each is one DATA frame on stream 0 of at most [`HANDSHAKE_BYTES_MAX`].

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use super::{ProtocolError, RenewedCertificate, message, mux};

/// Our minor version: two minors are served, and a larger one of the peer is answered with ours.
pub const MINOR: u8 = 0;
/// Least credit that a greeting may give new streams, in bytes: an answer fits.
pub const INITIAL_CREDIT_MIN: u32 = 1024;
/// Longest name of an OS user that is told, in bytes: what utmp(5) and POSIX systems use is far below.
pub const OS_USER_MAX: usize = 255;
/// Where a lender listens if it is not told otherwise.
pub const DEFAULT_PORT: u16 = 2278;
/// Most addresses that a lender tells, and that an invitation carries.
pub const LENDER_ADDRESSES_MAX: usize = 4;
/// Longest address, in bytes: a DNS name of 253, a colon, a port.
pub const LENDER_ADDRESS_MAX: usize = 255;
/// Largest frame before login, in bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 4 * 1024;

/// The first message of either side.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Greeting {
    /// Highest minor version that the sender speaks.
    #[n(0)]
    pub minor: u8,
    /// Bit set of optional features; none is defined yet.
    #[n(1)]
    pub features: u64,
    /// Parallel connections of one session that the sender can serve; 1.
    #[n(2)]
    pub lanes: u8,
    /// Credit that the sender gives each new stream, in bytes.
    #[n(3)]
    pub initial_credit: u32,
    /// Streams that the peer of the sender may have open at once.
    #[n(4)]
    pub max_streams: u32,
}

impl Greeting {
    /// What this build says, for what `config` allows the peer.
    pub fn new(config: &mux::Config) -> Self {
        Self {
            minor: MINOR,
            features: 0,
            lanes: 1,
            initial_credit: config.initial_credit,
            max_streams: config.max_streams,
        }
    }

    /// What both greetings agree on.
    ///
    /// # Errors
    /// The peer grants so little credit that not even an answer would fit.
    pub fn agree(&self, ours: &mux::Config) -> Result<mux::Config, ProtocolError> {
        if self.initial_credit < INITIAL_CREDIT_MIN {
            let why = format!("{} bytes of credit, at least {INITIAL_CREDIT_MIN} are needed", self.initial_credit);
            return Err(ProtocolError::Malformed { what: "greeting", why });
        }
        Ok(mux::Config {
            peer_initial_credit: self.initial_credit.min(mux::CREDIT_MAX),
            peer_max_streams: self.max_streams,
            ..ours.clone()
        })
    }
}

/// How a user proves who he is, beside the certificate; or, at the lender's own door, beside what its kernel says.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Login {
    /// Which of the fields below is meant.
    #[n(0)]
    pub method: LoginMethod,
    /// The password, for [`LoginMethod::Password`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub password: Option<Vec<u8>>,
    /// Names the ticket, for [`LoginMethod::Ticket`].
    #[cbor(n(2), with = "minicbor::bytes")]
    pub ticket_id: Option<[u8; 8]>,
    /// `HMAC(HKDF(ticket), exporter)`, good for this connection alone.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub ticket_proof: Option<[u8; 32]>,
    /// As whom, for [`LoginMethod::Peer`]; left out by whoever is content with what the lender calls him.
    #[n(4)]
    pub user: Option<String>,
    /// The session of this device whose connection was lost: the lender may still take it for alive, and ends it.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub replaces: Option<[u8; 16]>,
}

impl Login {
    /// A login by `method` that shows nothing yet.
    pub fn by(method: LoginMethod) -> Self {
        Self { method, password: None, ticket_id: None, ticket_proof: None, user: None, replaces: None }
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.password);
    }
}

/// The numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum LoginMethod {
    /// A password; a ticket comes back.
    #[n(0)]
    Password,
    /// A ticket from an earlier login of this device.
    #[n(1)]
    Ticket,
    /// Nothing: the lender's kernel says who asks. Only at the door of the lender's own machine.
    #[n(2)]
    Peer,
    /// Nothing more than the certificate, for whom the lender's policy asks for no password; a ticket comes back.
    #[n(3)]
    Certificate,
}

impl LoginMethod {
    /// The word in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Ticket => "ticket",
            Self::Peer => "peer",
            Self::Certificate => "certificate",
        }
    }
}

/// The lender's yes.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// This session's id.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub session: [u8; 16],
    /// A new ticket, after a login by password.
    #[n(1)]
    pub ticket: Option<IssuedTicket>,
    /// Who is who, after a login by [`LoginMethod::Peer`]: no certificate has said it.
    #[n(2)]
    pub local: Option<LocalNames>,
    /// Where the lender is found from now on, each `host:port`; at most [`LENDER_ADDRESSES_MAX`].
    #[n(3)]
    pub addresses: Option<Vec<String>>,
}

/// What the two ends of a door are called.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct LocalNames {
    /// The user, as the policy knows him.
    #[n(0)]
    pub user: String,
    /// The lender's name.
    #[n(1)]
    pub lender: String,
    /// The operating system's name for the user, where it is another one; at most [`OS_USER_MAX`] bytes.
    #[n(2)]
    pub os_user: Option<String>,
}

/// A ticket as it crosses the wire, once.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct IssuedTicket {
    /// Names it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 8],
    /// The secret itself.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: [u8; 32],
    /// When it ends, in seconds since 1970.
    #[n(2)]
    pub expires: u64,
}

impl Drop for IssuedTicket {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
    }
}

/// Asks whether this line still stands and what password the join needs. Costs the invitation nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JoinQuestion {
    /// The invitation.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 8],
    /// The certificate request (PKCS #10, DER); only its public key is used.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub csr: Vec<u8>,
    /// Proof of the secret over this connection and this request.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub proof: [u8; 32],
}

/// The answer to a [`JoinQuestion`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JoinStatus {
    /// The user whom the invitation is for.
    #[n(0)]
    pub user: String,
    /// The user has no password yet: the join sets one.
    #[n(1)]
    pub sets_password: bool,
    /// The policy asks this user for no password: the join has an empty one.
    #[n(2)]
    #[cbor(default)]
    pub without_password: bool,
}

/// Redeems an invitation.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JoinRequest {
    /// As in [`JoinQuestion`].
    #[n(0)]
    pub question: JoinQuestion,
    /// The user's password, new or existing.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub password: Vec<u8>,
}

impl Drop for JoinRequest {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.password);
    }
}

/// Asks for the next certificate of a device whose last has ended: for the same user and the same key, both of which the
/// certificate of the connection shows. It has an ALPN of its own, and is answered by [`RenewedCertificate`].
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Renewal {
    /// The user's password.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub password: Vec<u8>,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.password);
    }
}

/// The signed certificate.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JoinAnswer {
    /// The device's certificate (DER).
    #[cbor(n(0), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
    /// The lender's CA certificate (DER); its key is in the join line.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub ca: Vec<u8>,
    /// Proof of the secret over this connection and this certificate.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub proof: [u8; 32],
}

/// What a borrower sends on the session before it is logged in.
#[derive(Clone, PartialEq, Eq)]
pub enum FromBorrower {
    /// Versions and limits.
    Greeting(Greeting),
    /// Who asks.
    Login(Login),
    /// Before a join.
    JoinQuestion(JoinQuestion),
    /// A join.
    JoinRequest(JoinRequest),
    /// The renewal of a certificate that has ended.
    Renewal(Renewal),
}

/// What a lender answers on the session before login.
#[derive(Clone, PartialEq, Eq)]
pub enum FromLender {
    /// The certificate was accepted.
    Greeting(Greeting),
    /// Logged in: the next frames are streams.
    Welcome(Welcome),
    /// No; the connection ends.
    Refusal(super::Refusal),
    /// To a join question.
    JoinStatus(JoinStatus),
    /// To a join.
    JoinAnswer(JoinAnswer),
    /// To a renewal.
    Renewed(RenewedCertificate),
}

impl FromBorrower {
    /// The message's name, for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Greeting(_) => "greeting",
            Self::Login(_) => "login",
            Self::JoinQuestion(_) => "join question",
            Self::JoinRequest(_) => "join",
            Self::Renewal(_) => "renewal",
        }
    }
}

impl FromLender {
    /// The message's name, for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Greeting(_) => "greeting",
            Self::Welcome(_) => "welcome",
            Self::Refusal(_) => "refusal",
            Self::JoinStatus(_) => "join status",
            Self::JoinAnswer(_) => "join answer",
            Self::Renewed(_) => "renewed certificate",
        }
    }
}

impl Encode<()> for FromBorrower {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut ()) -> Result<(), encode::Error<W::Error>> {
        match self {
            Self::Greeting(body) => e.map(1)?.u8(0)?.encode(body)?.ok(),
            Self::Login(body) => e.map(1)?.u8(1)?.encode(body)?.ok(),
            Self::JoinQuestion(body) => e.map(1)?.u8(2)?.encode(body)?.ok(),
            Self::JoinRequest(body) => e.map(1)?.u8(3)?.encode(body)?.ok(),
            Self::Renewal(body) => e.map(1)?.u8(4)?.encode(body)?.ok(),
        }
    }
}

impl<'b> Decode<'b, ()> for FromBorrower {
    fn decode(d: &mut Decoder<'b>, _: &mut ()) -> Result<Self, decode::Error> {
        message::decode_one_of(d, |d, key| {
            Ok(match key {
                0 => Some(Self::Greeting(d.decode()?)),
                1 => Some(Self::Login(d.decode()?)),
                2 => Some(Self::JoinQuestion(d.decode()?)),
                3 => Some(Self::JoinRequest(d.decode()?)),
                4 => Some(Self::Renewal(d.decode()?)),
                _ => None,
            })
        })
    }
}

impl Encode<()> for FromLender {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut ()) -> Result<(), encode::Error<W::Error>> {
        match self {
            Self::Greeting(body) => e.map(1)?.u8(0)?.encode(body)?.ok(),
            Self::Welcome(body) => e.map(1)?.u8(1)?.encode(body)?.ok(),
            Self::Refusal(body) => e.map(1)?.u8(2)?.encode(body)?.ok(),
            Self::JoinStatus(body) => e.map(1)?.u8(3)?.encode(body)?.ok(),
            Self::JoinAnswer(body) => e.map(1)?.u8(4)?.encode(body)?.ok(),
            Self::Renewed(body) => e.map(1)?.u8(5)?.encode(body)?.ok(),
        }
    }
}

impl<'b> Decode<'b, ()> for FromLender {
    fn decode(d: &mut Decoder<'b>, _: &mut ()) -> Result<Self, decode::Error> {
        message::decode_one_of(d, |d, key| {
            Ok(match key {
                0 => Some(Self::Greeting(d.decode()?)),
                1 => Some(Self::Welcome(d.decode()?)),
                2 => Some(Self::Refusal(d.decode()?)),
                3 => Some(Self::JoinStatus(d.decode()?)),
                4 => Some(Self::JoinAnswer(d.decode()?)),
                5 => Some(Self::Renewed(d.decode()?)),
                _ => None,
            })
        })
    }
}

#[cfg(test)]
mod tests;
