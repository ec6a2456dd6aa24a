//! Keeps a device's certificate and a login alive while a session is: a long forward needs nobody at a keyboard.

use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::{
    BorrowError,
    profile::{Alias, Profiles},
};
use crate::{
    proto::{Answer, IssuedTicket, LenderName, RenewedCertificate, Request, UserName, message},
    session::Session,
    trust::{
        UnixTime,
        authority::LEAF_LIFETIME,
        identity,
        issued::check_renewed,
        request::{SubjectKey, request_for},
        ticket::{SavedTicket, TICKET_LIFETIME, Ticket},
    },
};

/// How often the wall clock is looked at; it may be set, and the machine may sleep.
const CLOCK_STEP: Duration = Duration::from_secs(600);
/// A lender that is slow to renew must not keep its borrower waiting.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Before a renewal that failed is tried again.
const PAUSE: Duration = Duration::from_secs(3600);
/// A certificate that ends this soon and could not be renewed is worth a warning each time.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);

/// Renews in the background until it is dropped.
pub(super) struct Renewal(tokio::task::JoinHandle<()>);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is renewed, and where it lies.
pub(super) struct Renewed {
    pub(super) profiles: Profiles,
    pub(super) alias: Alias,
    pub(super) lender: LenderName,
    pub(super) user: UserName,
    /// What the lender is known by.
    pub(super) ca: CertificateDer<'static>,
}

impl Renewed {
    /// Renews what is due, so that who only runs short commands is looked after too, and then goes on in the background.
    pub(super) async fn keep(self, session: Session) -> Renewal {
        let mut pause = self.pause_after(&session).await;
        Renewal(tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                pause = self.pause_after(&session).await;
            }
        }))
    }

    /// Renews what is due, and says when to look again.
    async fn pause_after(&self, session: &Session) -> Duration {
        match tokio::time::timeout(ANSWER_MAX, self.renew_due(session)).await {
            Ok(Ok(())) => return CLOCK_STEP,
            Ok(Err(error)) => tracing::debug!(%error, "a renewal failed"),
            Err(_) => tracing::debug!("a renewal is not answered"),
        }
        if let Some(days) = self.days_left(UnixTime::now()) {
            tracing::warn!(lender = %self.lender, days, "the certificate of this device ends soon and was not renewed");
        }
        PAUSE
    }

    /// How long the certificate on the disk is still good, if that is worth a warning.
    fn days_left(&self, now: UnixTime) -> Option<u64> {
        let (_, ends) = self.profiles.certificate_lasts(&self.alias, &self.user).ok()?;
        (ends.minus(WARN_BEFORE) <= now).then(|| ends.0.saturating_sub(now.0) / 86_400)
    }

    /// Renews what is past two thirds of its time.
    async fn renew_due(&self, session: &Session) -> Result<(), BorrowError> {
        let now = UnixTime::now();
        let own = self.profiles.credentials(&self.alias, &self.user)?;
        if own.ca != self.ca {
            // Another lender has the name by now, and what lies there is of that one.
            return Ok(());
        }
        let ends = own.chain.first().and_then(|certificate| identity::not_after(certificate).ok());
        if ends.is_some_and(|ends| ends.minus(LEAF_LIFETIME / 3) <= now) {
            self.renew_certificate(session, &own.key_pem).await?;
        }
        match self.profiles.ticket(&self.alias, &self.user) {
            Ok(saved) if saved.expires.minus(TICKET_LIFETIME / 3) <= now && now < saved.expires => {
                self.renew_ticket(session, &saved).await
            }
            _ => Ok(()),
        }
    }

    async fn renew_certificate(&self, session: &Session, key_pem: &[u8]) -> Result<(), BorrowError> {
        let local = |error: &dyn std::fmt::Display| BorrowError::Profile {
            path: self.profiles.folder(&self.alias).display().to_string(),
            why: error.to_string(),
        };
        let csr = request_for(key_pem).map_err(|error| local(&error))?;
        let RenewedCertificate { certificate } = self.ask(session, &Request::RenewCertificate(csr)).await?;
        let certificate = certificate.into();
        let device = SubjectKey::of_key(key_pem).map_err(|error| local(&error))?.device();
        let ca = self.profiles.ca(&self.alias)?;
        check_renewed(&ca, &certificate, &self.user, device, UnixTime::now()).map_err(|error| local(&error))?;
        self.profiles.save_certificate(&self.alias, &self.user, &certificate)
    }

    /// One that would end no later is not kept: the login itself is nearly over.
    async fn renew_ticket(&self, session: &Session, old: &SavedTicket) -> Result<(), BorrowError> {
        let issued: IssuedTicket = self.ask(session, &Request::RenewTicket).await?;
        if issued.expires > old.expires.0 {
            let saved = SavedTicket {
                ticket: Ticket::from_bytes(issued.secret),
                expires: UnixTime(issued.expires),
                user: self.user.clone(),
                lender: self.lender.clone(),
            };
            self.profiles.save_ticket(&self.alias, &saved)?;
        }
        Ok(())
    }

    async fn ask<A: for<'a> minicbor::Decode<'a, ()>>(
        &self,
        session: &Session,
        request: &Request,
    ) -> Result<A, BorrowError> {
        let host = self.alias.as_str();
        let stream = session.open(message::encode_prefixed(request)).map_err(|error| BorrowError::open(host, error))?;
        let answer = stream.read_message("answer").await;
        match answer.map_err(|error| BorrowError::answer(host, request.name(), error))? {
            Answer::Granted(granted) => Ok(granted),
            Answer::Refused(refusal) => Err(BorrowError::refused(host, request.name(), &refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{BufReader, duplex};

    use super::*;
    use crate::{
        borrow::draft::Lender,
        proto::mux::{Config, Role},
        trust::{authority::Authority, request::new_key},
    };

    const DAY: Duration = Duration::from_secs(86_400);

    /// Of a device whose certificate ends in so long.
    fn renewed(folder: &std::path::Path, left: Duration) -> Renewed {
        let profiles = Profiles::at(&folder.join("config"), &folder.join("state"));
        let authority = Authority::create(UnixTime::now()).unwrap();
        let (alias, lender, user): (_, LenderName, UserName) =
            ("lab".parse().unwrap(), "lab".parse().unwrap(), "ana".parse().unwrap());
        let key_pem = new_key().unwrap();
        let key = SubjectKey::of_key(key_pem.as_bytes()).unwrap();
        let (ca_key, addresses) = (authority.public_key(), ["lab.example:2278".to_owned()]);
        let of = Lender { name: &lender, addresses: &addresses, ca_key: &ca_key };
        let draft = profiles.draft(&alias, &of, &user, key.device(), key_pem.as_bytes()).unwrap();
        let made = UnixTime::now().plus(left).minus(LEAF_LIFETIME);
        draft.finish(&authority.issue_client(&user, &key, made).unwrap(), authority.cert_der()).unwrap();
        let ca = authority.cert_der().clone();
        Renewed { profiles, alias, lender, user, ca }
    }

    #[tokio::test]
    async fn a_lender_that_does_not_answer_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let renewed = renewed(folder.path(), DAY);
        let (near, _far) = duplex(64 * 1024);
        let session = Session::start(BufReader::new(near), Role::Borrower, Config::default());
        assert_eq!(renewed.pause_after(&session).await, PAUSE);
    }

    /// Its certificate is due, and the session's lender has no say in it.
    #[tokio::test]
    async fn what_lies_in_the_place_of_a_host_that_is_another_lender_by_now_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut renewed = renewed(folder.path(), DAY);
        renewed.ca = Authority::create(UnixTime::now()).unwrap().cert_der().clone();
        let (near, _far) = duplex(64 * 1024);
        let session = Session::start(BufReader::new(near), Role::Borrower, Config::default());
        assert_eq!(renewed.pause_after(&session).await, CLOCK_STEP, "it is asked nothing");
    }

    #[test]
    fn a_certificate_that_ends_within_two_weeks_is_worth_a_warning() {
        for (left, days) in
            [(20 * DAY, None), (13 * DAY + DAY / 2, Some(13)), (DAY / 2, Some(0)), (Duration::ZERO, Some(0))]
        {
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(renewed(folder.path(), left).days_left(UnixTime::now()), days);
        }
    }
}
