//! Joining a lender with the one line that its admin handed over.
//!
//! ```text
//!   Join::begin     line ── expired? another lender's alias? ──▶ JoinQuestion ──▶ whose password, new or existing?
//!   Join::finish    JoinRequest ──▶ certificate, checked ──▶ profile, in one rename ──▶ login
//! ```
//! Each step is a connection of its own, so that nothing waits while a person types.
//!
//! # Security
//! The line's CA key is all that is believed: another lender is noticed before anything is sent. The secret never
//! travels, and the key never leaves this machine.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    BorrowError, Borrower,
    draft::{Draft, Lender},
    link::{LinkError, Route},
    login::{log_in_again, patiently, receive, unexpected},
    profile::{Alias, Profiles},
};
use crate::{
    proto::{
        DeviceId, ErrorKind, FromBorrower, FromLender, JoinAnswer, JoinQuestion, JoinRequest, JoinStatus, LenderName,
        NameError, ProtocolError, Refusal, UserName,
    },
    session::Greeter,
    trust::{
        UnixTime,
        issued::check_issued,
        join_line::JoinLine,
        password::Password,
        proof::JoinKeys,
        request::{RequestError, SubjectKey, new_device_key},
        tls::{JOIN_ALPN, Purpose, TlsError, exporter, join_client_config},
    },
};

/// A join that the lender has agreed to, and that still needs the password.
pub struct Join {
    profiles: Profiles,
    alias: Alias,
    line: JoinLine,
    user: UserName,
    sets_password: bool,
    without_password: bool,
    key_pem: Zeroizing<String>,
    csr: Vec<u8>,
    device: DeviceId,
}

impl Join {
    /// Reads a line, and asks its lender whether it still stands.
    ///
    /// ```no_run
    /// # async fn example(line: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// use capuchin::trust::password::Password;
    ///
    /// let join = capuchin::Join::begin(&capuchin::Profiles::from_env()?, line, None).await?;
    /// println!("joining {} as {}", join.lender(), join.user());
    /// let lab = join.finish(&Password::new(b"correct horse".to_vec())?).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A line that is damaged or has expired, an alias that is another lender's, a lender that is not the line's, or one
    /// that does not know the invitation any more. The invitation is not used up.
    ///
    /// # Cancellation
    /// Dropping the future leaves nothing behind.
    pub async fn begin(profiles: &Profiles, line: &str, alias: Option<Alias>) -> Result<Self, BorrowError> {
        let line: JoinLine = line.parse().map_err(|error| BorrowError::usage(format!("{error}")))?;
        if line.is_expired(UnixTime::now()) {
            let notes = vec![new_line(&line.lender)];
            return Err(BorrowError::Login { text: format!("the join line for {} has expired", line.lender), notes });
        }
        let alias = alias.unwrap_or_else(|| Alias::from(&line.lender));
        profiles.knows(&alias, &lender_of(&line))?;
        let (key_pem, csr) = new_device_key().map_err(key_error)?;
        let device = SubjectKey::of_key(key_pem.as_bytes()).map_err(key_error)?.device();
        let question = Exchange { alias: &alias, line: &line, csr: &csr };
        let JoinStatus { user, sets_password, without_password } = question.ask().await?;
        let malformed = |error: NameError| {
            let source = ProtocolError::Malformed { what: "join status", why: error.to_string() };
            BorrowError::protocol(alias.as_str(), source)
        };
        let user = user.parse().map_err(malformed)?;
        Ok(Self {
            profiles: profiles.clone(),
            alias,
            line,
            user,
            sets_password,
            without_password,
            key_pem,
            csr,
            device,
        })
    }

    /// Redeems the invitation, keeps key and certificate, and logs in.
    ///
    /// # Errors
    /// A password that the lender does not take, or an invitation that someone else used meanwhile: nothing is left
    /// behind. A login that fails after the join is said to be that, and can be tried again by itself.
    ///
    /// # Cancellation
    /// Whether the invitation is used up is then not known; if it is, this very `Join` may finish again for ten minutes.
    pub async fn finish(&self, password: &Password) -> Result<Borrower, BorrowError> {
        let host = self.redeem(password.as_bytes()).await?;
        self.logged_in(&host, Borrower::login_with(&self.profiles, &host, password).await)
    }

    /// As [`Self::finish`], for a user whom the lender's policy asks for no password: see [`Self::needs_password`].
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub async fn finish_without_password(&self) -> Result<Borrower, BorrowError> {
        let host = self.redeem(&[]).await?;
        self.logged_in(&host, Borrower::login_by_certificate_with(&self.profiles, &host).await)
    }

    /// Redeems the invitation and keeps what came of it; gives what the host is called here.
    async fn redeem(&self, password: &[u8]) -> Result<String, BorrowError> {
        // Before the invitation is used up: a disk that is full, or a folder that is not ours, is noticed now.
        let draft = self.draft()?;
        let exchange = Exchange { alias: &self.alias, line: &self.line, csr: &self.csr };
        let (answer, exporter) = exchange.redeem(password).await?;
        let (certificate, ca) = self.check(&answer, &exporter)?;
        draft.finish(&certificate, &ca)?;
        let host = format!("{}@{}", self.user, self.alias);
        Ok(if self.is_default_user() { self.alias.to_string() } else { host })
    }

    fn logged_in(&self, host: &str, login: Result<Borrower, BorrowError>) -> Result<Borrower, BorrowError> {
        login.map_err(|error| error.with_note(format!("the join itself is done; {}", log_in_again(host))))
    }

    /// The lender's own name.
    pub fn lender(&self) -> &LenderName {
        &self.line.lender
    }

    /// What the lender is called here.
    pub fn alias(&self) -> &Alias {
        &self.alias
    }

    /// The user whom the invitation is for.
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// Whether the password becomes the user's; else it must be the one that the user has.
    pub fn sets_password(&self) -> bool {
        self.sets_password
    }

    /// Whether there is a password at all: not for a user whom the lender's policy asks for none.
    pub fn needs_password(&self) -> bool {
        !self.without_password
    }

    fn draft(&self) -> Result<Draft, BorrowError> {
        let lender = lender_of(&self.line);
        self.profiles.draft(&self.alias, &lender, &self.user, self.device, self.key_pem.as_bytes())
    }

    fn is_default_user(&self) -> bool {
        self.profiles.profile(&self.alias).is_ok_and(|profile| profile.default_user == self.user)
    }

    /// The certificates of an answer, if they are what was asked for and come from who made the line.
    fn check(
        &self,
        answer: &JoinAnswer,
        exporter: &[u8; 32],
    ) -> Result<(CertificateDer<'static>, CertificateDer<'static>), BorrowError> {
        let wrong = |why: String| BorrowError::Identity {
            text: format!("{} answered the join with a certificate that cannot be kept: {why}", self.line.lender),
            notes: vec![new_line(&self.line.lender)],
        };
        if !JoinKeys::derive(&self.line.secret).verify_server(exporter, &answer.certificate, &answer.proof) {
            return Err(wrong("it does not prove to know the line's secret".to_owned()));
        }
        let certificate = CertificateDer::from(answer.certificate.clone());
        let ca = CertificateDer::from(answer.ca.clone());
        check_issued(&ca, &self.line.ca_key, &certificate, &self.user, self.device, UnixTime::now())
            .map_err(|error| wrong(error.to_string()))?;
        Ok((certificate, ca))
    }
}

/// The questions of one join, each on a connection of its own.
struct Exchange<'a> {
    alias: &'a Alias,
    line: &'a JoinLine,
    csr: &'a [u8],
}

impl Exchange<'_> {
    async fn ask(&self) -> Result<JoinStatus, BorrowError> {
        let route = self.route()?;
        patiently(&route, || async {
            match self.converse(&route, FromBorrower::JoinQuestion).await?.0 {
                FromLender::JoinStatus(status) => Ok(status),
                other => Err(self.no(&route, "join status", &other)),
            }
        })
        .await
    }

    /// The answer, and the exporter value of the connection that it came on. If the connection dies, whether the lender
    /// has signed is not known; asking again with the same request gives the same answer.
    async fn redeem(&self, password: &[u8]) -> Result<(JoinAnswer, [u8; 32]), BorrowError> {
        let route = self.route()?;
        let request = |question| FromBorrower::JoinRequest(JoinRequest { question, password: password.to_vec() });
        patiently(&route, || async {
            match self.converse(&route, request).await? {
                (FromLender::JoinAnswer(answer), exporter) => Ok((answer, exporter)),
                (other, _) => Err(self.no(&route, "join answer", &other)),
            }
        })
        .await
    }

    async fn converse(
        &self,
        route: &Route<'_>,
        message: impl Fn(JoinQuestion) -> FromBorrower,
    ) -> Result<(FromLender, [u8; 32]), LinkError> {
        let link = route.reach().await?;
        let exporter =
            exporter(link.get_ref().1, Purpose::Join).map_err(|e| LinkError::Failed(tls_error(route, &e)))?;
        let proof = JoinKeys::derive(&self.line.secret).client_proof(&exporter, self.csr);
        let question = JoinQuestion { id: self.line.id.0, csr: self.csr.to_vec(), proof };
        let mut greeter = Greeter::new(link);
        // What the lender said before it hung up says more than the failure to write.
        let _ = greeter.send(&[message(question)]).await;
        Ok((receive(route, &mut greeter, "join answer").await?, exporter))
    }

    fn route(&self) -> Result<Route<'_>, BorrowError> {
        let config = join_client_config(&self.line.ca_key).map_err(|error| BorrowError::Tls {
            text: format!("the join line cannot be used: {error}"),
            notes: vec![new_line(&self.line.lender)],
        })?;
        Ok(Route {
            alias: self.alias.as_str(),
            lender: &self.line.lender,
            addresses: &self.line.addresses,
            config: Arc::new(config),
            alpn: JOIN_ALPN,
        })
    }

    fn no(&self, route: &Route<'_>, expected: &'static str, got: &FromLender) -> LinkError {
        match got {
            FromLender::Refusal(refusal) => LinkError::Failed(self.refused(refusal)),
            other => unexpected(route, expected, other),
        }
    }

    fn refused(&self, refusal: &Refusal) -> BorrowError {
        if refusal.kind() != ErrorKind::Login {
            return BorrowError::refused(self.alias.as_str(), "join", refusal);
        }
        let text = format!("{}: {}", self.alias, refusal.text());
        BorrowError::Login { text, notes: refusal.notes().to_vec() }
    }
}

fn lender_of(line: &JoinLine) -> Lender<'_> {
    Lender { name: &line.lender, addresses: &line.addresses, ca_key: &line.ca_key }
}

fn new_line(lender: &LenderName) -> String {
    format!("ask for a new line: on {lender} run `capuchind invite USER`")
}

fn key_error(error: RequestError) -> BorrowError {
    BorrowError::local("cannot make a key", std::io::Error::other(error))
}

fn tls_error(route: &Route<'_>, error: &TlsError) -> BorrowError {
    BorrowError::Tls { text: format!("{}: {error}", route.alias), notes: Vec::new() }
}

#[cfg(test)]
mod tests;
