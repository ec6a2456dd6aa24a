//! A session with a lender, as the program that borrows holds it.

use std::sync::Arc;

use super::{
    BorrowError, TcpStream,
    door::Door,
    link::Route,
    login::{Credential, LoggedIn, log_in, log_in_again, patiently},
    profile::{Host, Profile, Profiles},
    renew::{Renewal, Renewed},
    tcp,
};
use crate::{
    proto::{
        ASK_KIND_MAX, ASK_TARGET_MAX, Answer, Ask, LenderName, Request, SessionId, Target, UserName, Verdict, message,
    },
    session::{Session, Stream},
    trust::{
        UnixTime,
        password::Password,
        ticket::{SavedTicket, Ticket, TicketFileError},
        tls::{ALPN, borrower_config},
    },
};

/// A session with a lender. Clones are the same session.
///
/// # Cancellation
/// The session ends when the last clone, and the last thing that was borrowed through it, is dropped.
#[derive(Clone)]
pub struct Borrower {
    session: Session,
    facts: Arc<Facts>,
}

pub(super) struct Facts {
    /// What the user calls the lender.
    pub(super) host: String,
    pub(super) lender: LenderName,
    pub(super) user: UserName,
    pub(super) id: SessionId,
    /// Works until it is dropped, with the last handle of the session.
    pub(super) _renewal: Option<Renewal>,
}

impl Borrower {
    /// Connects to a host that this machine has joined, `lab` or `ana@lab`, with the ticket of the last login. `.` is the
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
    pub async fn connect(host: &str) -> Result<Self, BorrowError> {
        match Door::named(host)? {
            Some(door) => door.connect().await,
            None => Self::connect_with(&Profiles::from_env()?, host).await,
        }
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
        if let Some(door) = Door::named(host)? {
            return door.connect().await;
        }
        let (profile, user) = profiles.find(&host.parse()?)?;
        let again = |text: String| BorrowError::Login { text, notes: vec![log_in_again(host)] };
        let saved = match profiles.ticket(&profile.alias, &user) {
            Err(TicketFileError::File(error)) if error.is_missing() => {
                return Err(again(format!("{user} is not logged in at {}", profile.alias)));
            }
            Err(error @ TicketFileError::Malformed(_)) => return Err(again(error.to_string())),
            saved => saved?,
        };
        if saved.expires <= UnixTime::now() || saved.user != user || saved.lender != profile.lender {
            return Err(again(format!("the last login at {} is over", profile.alias)));
        }
        Self::start(profiles, profile, user, host, Credential::Ticket(&saved)).await
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
    /// As [`Self::connect`]; a login that fails leaves the earlier ticket as it is.
    pub async fn login(host: &str, password: &Password) -> Result<Self, BorrowError> {
        Self::login_with(&Profiles::from_env()?, host, password).await
    }

    /// As [`Self::login`], with the profiles of another place.
    ///
    /// # Errors
    /// As [`Self::login`].
    pub async fn login_with(profiles: &Profiles, host: &str, password: &Password) -> Result<Self, BorrowError> {
        let (profile, user) = profiles.find(&host.parse::<Host>()?)?;
        Self::start(profiles, profile, user, host, Credential::Password(password)).await
    }

    async fn start(
        profiles: &Profiles,
        profile: Profile,
        user: UserName,
        host: &str,
        credential: Credential<'_>,
    ) -> Result<Self, BorrowError> {
        let own = profiles.credentials(&profile.alias, &user)?;
        let config = borrower_config(&own.ca, own.chain, &own.key_pem).map_err(|error| BorrowError::Profile {
            path: profiles.folder(&profile.alias).join(user.as_str()).display().to_string(),
            why: std::error::Error::source(&error).map_or(error.to_string(), |why| format!("{error}: {why}")),
        })?;
        let route = Route {
            alias: host,
            lender: &profile.lender,
            addresses: &profile.addresses,
            config: Arc::new(config),
            alpn: ALPN,
        };
        let attempt = || async { log_in(&route, route.reach().await?, credential).await };
        let LoggedIn { session, id, ticket, local: _ } = patiently(&route, attempt).await?;
        if let Some(issued) = ticket {
            let saved = SavedTicket {
                ticket: Ticket::from_bytes(issued.secret),
                expires: UnixTime(issued.expires),
                user: user.clone(),
                lender: profile.lender.clone(),
            };
            profiles.save_ticket(&profile.alias, &saved)?;
        }
        let renewed = Renewed {
            profiles: profiles.clone(),
            alias: profile.alias,
            lender: profile.lender.clone(),
            user: user.clone(),
        };
        let renewal = Some(renewed.keep(session.clone()).await);
        Ok(Self::new(session, Facts { host: host.to_owned(), lender: profile.lender, user, id, _renewal: renewal }))
    }

    pub(super) fn new(session: Session, facts: Facts) -> Self {
        Self { session, facts: Arc::new(facts) }
    }

    /// Connects from the lender to `host:port`; the lender resolves the name.
    ///
    /// # Errors
    /// The lender refuses it, or cannot connect: [`BorrowError::Dial`] has the error number of its `connect`.
    ///
    /// # Cancellation
    /// Dropping the future makes the lender give up.
    pub async fn tcp_connect(&self, target: impl AsRef<str>) -> Result<TcpStream, BorrowError> {
        self.tcp_connect_to(&parse_target(target.as_ref())?).await
    }

    /// As [`Self::tcp_connect`], to a target that was read before.
    ///
    /// # Errors
    /// As [`Self::tcp_connect`].
    pub async fn tcp_connect_to(&self, target: &Target) -> Result<TcpStream, BorrowError> {
        let stream = self.open(&Request::TcpConnect(target.clone()))?;
        let connected = tcp::answer(&stream, self.host(), target).await?;
        Ok(TcpStream::new(stream, connected))
    }

    /// Asks whether the policy would allow a request, and by which rule. Nothing is done. `kind` is the policy's key, such
    /// as `connect` or `env.send`, and `target` what is wanted, as `capuchin check` takes both.
    ///
    /// # Errors
    /// [`BorrowError::Refused`] of the kind `policy`, with the rule that decided and how to mend it in its notes.
    pub async fn check(&self, kind: &str, target: &str) -> Result<Verdict, BorrowError> {
        let ask = Ask { kind: kind.to_owned(), target: target.to_owned() };
        if !(1..=ASK_KIND_MAX).contains(&kind.len()) || target.len() > ASK_TARGET_MAX {
            let limits = format!("a kind has 1 to {ASK_KIND_MAX} bytes, a target at most {ASK_TARGET_MAX}");
            return Err(BorrowError::usage(limits));
        }
        let stream = self.open(&Request::Check(ask.clone()))?;
        let answer = stream.read_message("answer").await;
        match answer.map_err(|error| BorrowError::answer(self.host(), &ask.to_string(), error))? {
            Answer::Granted(verdict) => Ok(verdict),
            Answer::Refused(refusal) => Err(BorrowError::refused(self.host(), target, &refusal)),
        }
    }

    /// Waits until the session is over, and says why.
    pub async fn ended(&self) -> BorrowError {
        BorrowError::ended(self.host(), self.session.ended().await)
    }

    /// The lender's name.
    pub fn lender(&self) -> &LenderName {
        &self.facts.lender
    }

    /// As whom we are logged in.
    pub fn user(&self) -> &UserName {
        &self.facts.user
    }

    /// What the user calls the lender, e.g. `lab` or `ana@lab`.
    pub fn host(&self) -> &str {
        &self.facts.host
    }

    /// The session's number, as it stands in the lender's audit log.
    pub fn session_id(&self) -> SessionId {
        self.facts.id
    }

    /// Opens a stream whose first message is `request`.
    pub(super) fn open(&self, request: &Request) -> Result<Stream, BorrowError> {
        let first = message::encode_prefixed(request);
        self.session.open(first).map_err(|error| BorrowError::open(self.host(), error))
    }
}

/// Reads `host:port`.
fn parse_target(text: &str) -> Result<Target, BorrowError> {
    text.parse().map_err(|error: crate::proto::TargetError| BorrowError::usage(error.to_string()))
}
