//! A session with a lender, as the program that borrows holds it.

use std::sync::Arc;
#[cfg(feature = "run")]
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
#[cfg(feature = "run")]
use tokio::time::timeout;

use super::{
    BorrowError, TcpStream,
    access::{Access, Entered},
    arrivals::Opened,
    keep::{Connection, SessionEnd},
    present::{Present, Shared},
    profile::Profiles,
    tcp,
};
use crate::{
    proto::{Answer, Ask, ErrorKind, LenderName, OwnRules, Request, SessionId, Target, UserName, Verdict, message},
    session::{CLOSED, Session, Stream},
    trust::password::Password,
};

/// How long a session may take to say that it ends, where the connection takes nothing: a person waits for it.
#[cfg(feature = "run")]
const SAID_MAX: Duration = Duration::from_millis(500);

/// A session with a lender. Clones are the same session.
///
/// # Cancellation
/// The session ends when the last clone, and the last thing that was borrowed through it, is dropped.
#[derive(Clone)]
pub struct Borrower {
    shared: Arc<Shared>,
}

impl Borrower {
    /// Connects to a host that this machine has joined, `lab` or `ana@lab`, with the ticket of the last login, or with no
    /// more than the certificate where the lender's policy asks for no password. `.` is the
    /// lender of this machine itself, which needs no join: by `CAPUCHIND_DIR`, else this user's own, else root's.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    ///
    /// let lab = capuchin::Borrower::connect("lab").await?;
    /// let mut page = lab.tcp_connect("intranet:80").await?;
    /// page.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    /// let mut text = String::new();
    /// page.read_to_string(&mut text).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An unknown host, a lender that cannot be reached or is not the one that was joined, and, with the kind `login`,
    /// a ticket that is missing, over, or refused.
    ///
    /// # Cancellation
    /// Dropping the future gives up; a session that has begun by then ends.
    pub async fn connect(host: &str) -> Result<Self, BorrowError> {
        let access = Access::from_env(host)?;
        Ok(Self::new(access.again(None).await?, access))
    }

    /// As [`Self::connect`], with the profiles of another place.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, web, _folder) = lab().await?;
    ///
    /// let lab = capuchin::Borrower::connect_with(&profiles, "ana@lab").await?;
    /// let mut page = lab.tcp_connect(web.to_string()).await?;
    /// page.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    /// let mut text = String::new();
    /// page.read_to_string(&mut text).await?;
    /// assert!(text.ends_with("hello"));
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_with(profiles: &Profiles, host: &str) -> Result<Self, BorrowError> {
        let access = Access::with(profiles, host)?;
        Ok(Self::new(access.again(None).await?, access))
    }

    /// Logs in with a password, and keeps the ticket for [`Self::connect`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use capuchin::trust::password::Password;
    ///
    /// let password = Password::new(b"correct horse".to_vec())?;
    /// let lab = capuchin::Borrower::login("ana@lab", &password).await?;
    /// println!("logged in at {} as {}", lab.lender(), lab.user());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Self::connect`]; a login that fails leaves the earlier ticket as it is. A certificate that ended less than 180
    /// days ago is renewed first.
    pub async fn login(host: &str, password: &Password) -> Result<Self, BorrowError> {
        Self::login_with(&Profiles::from_env()?, host, password).await
    }

    /// As [`Self::login`], with the profiles of another place.
    ///
    /// # Errors
    /// As [`Self::login`].
    pub async fn login_with(profiles: &Profiles, host: &str, password: &Password) -> Result<Self, BorrowError> {
        let access = Access::with(profiles, host)?;
        Ok(Self::new(access.by_password(password).await?, access))
    }

    /// Logs in without a password, where the lender's policy asks this user for none, and keeps the ticket.
    ///
    /// # Errors
    /// As [`Self::connect`]; of the kind `login` where a password is needed, also to renew a certificate that has ended.
    pub async fn login_by_certificate(host: &str) -> Result<Self, BorrowError> {
        Self::login_by_certificate_with(&Profiles::from_env()?, host).await
    }

    /// As [`Self::login_by_certificate`], with the profiles of another place.
    ///
    /// # Errors
    /// As [`Self::login_by_certificate`].
    pub async fn login_by_certificate_with(profiles: &Profiles, host: &str) -> Result<Self, BorrowError> {
        let access = Access::with(profiles, host)?;
        Ok(Self::new(access.by_certificate().await?, access))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn new(entered: Entered, access: Access) -> Self {
        Self { shared: Arc::new(Shared::new(entered, access)) }
    }

    /// Makes the session again, by the ticket of the last login, whenever its connection is lost, until it is closed, the last
    /// clone is dropped, or the lender takes it back. [`Self::connection`] tells how it stands.
    ///
    /// What was borrowed over the lost connection fails, and what is asked for meanwhile is refused at once with
    /// [`BorrowError::Ended`]: neither hangs. Listening sockets have to be asked for again; the lender has closed the old
    /// ones by the time the new session begins.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn keep_connected(&self) {
        Shared::keep(&self.shared);
    }

    /// How the connection to the lender stands, now and at each change. Without [`Self::keep_connected`] it stays as it
    /// began, and [`Self::ended`] tells of the end. What is over stays so.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.shared.connection()
    }

    /// Connects from the lender to `host:port`; the lender resolves the name.
    ///
    /// # Errors
    /// `target` is none; the lender refuses it, or cannot connect: [`BorrowError::Dial`] has the error number of its `connect`.
    ///
    /// # Cancellation
    /// Dropping the future makes the lender give up: at once, but for very many that are dropped together.
    pub async fn tcp_connect(&self, target: impl AsRef<str>) -> Result<TcpStream, BorrowError> {
        self.tcp_connect_to(&parse_target(target.as_ref())?).await
    }

    /// As [`Self::tcp_connect`], to a target that was read before.
    ///
    /// # Errors
    /// As [`Self::tcp_connect`].
    pub async fn tcp_connect_to(&self, target: &Target) -> Result<TcpStream, BorrowError> {
        let (stream, connected) = tcp::connect(self, target).await?;
        Ok(TcpStream::new(stream, connected))
    }

    /// Asks whether the policy would allow a request, and by which rule. Nothing is done. `kind` is the policy's key, such
    /// as `connect` or `env.send`, and `target` what is wanted, as `capuchin check` takes both.
    ///
    /// # Errors
    /// [`BorrowError::Refused`] of the kind `policy`, with the rule that decided and how to mend it in its notes.
    pub async fn check(&self, kind: &str, target: &str) -> Result<Verdict, BorrowError> {
        let ask = Ask { kind: kind.to_owned(), target: target.to_owned() };
        let stream = self.open(&Request::Check(ask.clone()))?;
        let answer = stream.read_message("answer").await;
        match answer.map_err(|error| BorrowError::answer(self.host(), &ask.to_string(), error))? {
            Answer::Granted(verdict) => Ok(verdict),
            Answer::Refused(refusal) => Err(BorrowError::unanswered(self.host(), &refusal)),
        }
    }

    /// Asks what the policy lets this user do.
    ///
    /// # Errors
    /// The session is over; a lender that does not know the question refuses it with the kind `version`.
    pub async fn own_rules(&self) -> Result<OwnRules, BorrowError> {
        let stream = self.open(&Request::OwnRules)?;
        let answer = stream.read_message("answer").await;
        match answer.map_err(|error| BorrowError::answer(self.host(), "its rules", error))? {
            Answer::Granted(rules) => Ok(rules),
            Answer::Refused(refusal) => Err(BorrowError::refused(self.host(), "its rules", &refusal)),
        }
    }

    /// Ends the session, for every clone and everything that was borrowed through it, once the lender has what was written,
    /// and waits until the lender has ended it, too. Dropping the last clone does the same and does not say how it went.
    ///
    /// # Errors
    /// The session was over before, or the lender did not confirm its end.
    ///
    /// # Cancellation
    /// Before the lender has everything the session goes on, and is kept if it was; afterwards it ends, and nobody hears of it.
    pub async fn close(self) -> Result<(), BorrowError> {
        let delivered = self.shared.session().delivered().await;
        // Perhaps another one than before, if that was lost.
        let session = self.shared.close(closed());
        let confirmed = session.end_confirmed(CLOSED).await;
        delivered.and(confirmed).map_err(|ended| BorrowError::ended(self.host(), ended))
    }

    /// Ends the session, for every clone, and waits until that is said, as far as the connection takes it: for who has done
    /// everything, and is about to end.
    ///
    /// # Cancellation
    /// It ends.
    #[cfg(feature = "run")]
    pub(crate) async fn leave(&self) {
        let session = self.shared.close(closed());
        let _ = timeout(SAID_MAX, session.end_said(CLOSED)).await;
    }

    /// Waits until the session is over, and says why; one that is kept connected is over when it cannot be made again.
    ///
    /// # Cancellation
    /// Dropping the future loses nothing; as many may wait as like.
    pub async fn ended(&self) -> BorrowError {
        let ended = self.shared.session().ended().await;
        // Asked afterwards: whoever began to wait before the session was kept waits on.
        if !self.shared.is_kept() {
            return BorrowError::ended(self.host(), ended);
        }
        let mut connection = self.connection();
        // The sender lives in `shared`.
        loop {
            if let Connection::Over(end) = &*connection.borrow_and_update() {
                return end.error(self.host());
            }
            let _ = connection.changed().await;
        }
    }

    /// The lender's name.
    pub fn lender(&self) -> &LenderName {
        self.shared.lender()
    }

    /// As whom we are logged in.
    pub fn user(&self) -> &UserName {
        self.shared.user()
    }

    /// What the user calls the lender, e.g. `lab` or `ana@lab`.
    pub fn host(&self) -> &str {
        self.shared.access().host()
    }

    /// The session's number, as it stands in the lender's audit log; another one after a reconnection.
    pub fn session_id(&self) -> SessionId {
        self.shared.id()
    }

    /// Whether its session is another program's.
    #[cfg(feature = "cli")]
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_shared()
    }

    /// The session of now: another one after a reconnection.
    pub(crate) fn session(&self) -> Session {
        self.shared.session()
    }

    /// Opens a stream whose first message is `request`.
    pub(super) fn open(&self, request: &Request) -> Result<Stream, BorrowError> {
        self.open_with(first_message(request)?)
    }

    /// Opens a stream whose first bytes are `first`.
    pub(super) fn open_with(&self, first: Bytes) -> Result<Stream, BorrowError> {
        self.shared.session().open(first).map_err(|error| BorrowError::open(self.host(), error))
    }

    /// As [`Self::open`], for a request that connections come to.
    pub(super) fn open_listener(&self, request: &Request) -> Result<Opened, BorrowError> {
        let Present { session, arrivals, .. } = self.shared.present();
        let opened = arrivals.open(&session, first_message(request)?);
        opened.map_err(|error| BorrowError::open(self.host(), error))
    }
}

fn closed() -> SessionEnd {
    SessionEnd { kind: ErrorKind::Lost, text: CLOSED.to_owned(), notes: Vec::new() }
}

/// What a stream begins with. A request that the lender could not read would end the session, for everybody.
pub(super) fn first_message(request: &Request) -> Result<Bytes, BorrowError> {
    request.check().map_err(BorrowError::usage)?;
    Ok(message::encode_prefixed(request))
}

/// Reads `host:port`.
fn parse_target(text: &str) -> Result<Target, BorrowError> {
    text.parse().map_err(|error: crate::proto::TargetError| BorrowError::usage(error.to_string()))
}
