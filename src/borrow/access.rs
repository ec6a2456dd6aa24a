//! How a session with a host is made, and made again: with the profile and its ticket, or at the door of this machine.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::{
    BorrowError,
    door::Door,
    link::Route,
    login::{Credential, LoggedIn, log_in, log_in_again, patiently},
    overdue,
    profile::{Host, Profile, Profiles},
    renew::{Renewal, Renewed},
    share::Key,
};
use crate::{
    proto::{ErrorKind, IssuedTicket, LenderName, SessionId, UserName},
    session::Session,
    trust::{
        UnixTime,
        password::Password,
        ticket::{SavedTicket, Ticket, TicketFileError},
        tls::{ALPN, borrower_config},
    },
};

/// The way to a host.
pub(super) enum Access {
    /// A lender that this machine has joined.
    Joined {
        profiles: Profiles,
        /// As the user wrote it, for errors.
        host: String,
        parsed: Host,
        /// What the lender is known by, once there was a session: another one may have the name by now.
        ca: Option<CertificateDer<'static>>,
    },
    /// The lender of this machine.
    Door(Door),
}

/// A session that has just begun.
pub(super) struct Entered {
    pub(super) session: Session,
    pub(super) id: SessionId,
    pub(super) lender: LenderName,
    pub(super) user: UserName,
    /// What the lender is known by; not at the door.
    pub(super) ca: Option<CertificateDer<'static>>,
    /// Works until it is dropped.
    pub(super) renewal: Option<Renewal>,
    /// It is another program's, who keeps it and looks after what is renewed.
    pub(super) is_shared: bool,
}

impl Access {
    /// The way to `host`, with the profiles of the user who runs this program.
    pub(super) fn from_env(host: &str) -> Result<Self, BorrowError> {
        match Door::named(host)? {
            Some(door) => Ok(Self::Door(door)),
            None => Self::joined(&Profiles::from_env()?, host),
        }
    }

    /// The way to `host`, with the profiles of another place.
    pub(super) fn with(profiles: &Profiles, host: &str) -> Result<Self, BorrowError> {
        match Door::named(host)? {
            Some(door) => Ok(Self::Door(door)),
            None => Self::joined(profiles, host),
        }
    }

    fn joined(profiles: &Profiles, host: &str) -> Result<Self, BorrowError> {
        Ok(Self::Joined { profiles: profiles.clone(), host: host.to_owned(), parsed: host.parse()?, ca: None })
    }

    /// The same way, for nobody but this user, and to nobody but the lender that is known by `known`: what is settled of a host
    /// may change while a session lasts.
    pub(super) fn settled(mut self, user: &UserName, known: Option<CertificateDer<'static>>) -> Self {
        if let Self::Joined { parsed, ca, .. } = &mut self {
            (parsed.user, *ca) = (Some(user.clone()), known);
        }
        self
    }

    /// What the user calls the lender.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Joined { host, .. } => host,
            Self::Door(door) => door.host(),
        }
    }

    /// The port that the user insists on.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Joined { profiles, parsed, .. } => profiles.port_of(parsed),
            Self::Door(_) => None,
        }
    }

    /// What sessions that are the same to the user have in common.
    ///
    /// # Errors
    /// There is no such profile, or it is the door, where a session of one's own costs nothing.
    pub(super) fn key(&self) -> Result<Key, BorrowError> {
        match self {
            Self::Door(_) => {
                Err(BorrowError::usage("the lender of this machine is at hand: nothing is shared with it"))
            }
            Self::Joined { profiles, host, parsed, ca: known } => {
                let (profile, user) = profiles.find(parsed)?;
                let ca = profiles.ca(&profile.alias)?;
                check_known(host, &ca, known.as_ref())?;
                Ok(Key { alias: parsed.alias.clone(), port: self.port(), user, lender: profile.lender, ca })
            }
        }
    }

    /// Enters with what the last login left: its ticket, or nothing at the door. `replaces` is a session of before whose
    /// connection was lost.
    pub(super) async fn again(&self, replaces: Option<SessionId>) -> Result<Entered, BorrowError> {
        let (profiles, host, parsed, known) = match self {
            Self::Door(door) => return door.enter(replaces).await,
            Self::Joined { profiles, host, parsed, ca } => (profiles, host, parsed, ca.as_ref()),
        };
        let (profile, user) = profiles.find(parsed)?;
        let again = |text: String| BorrowError::Login { text, notes: vec![log_in_again(host)] };
        let saved = match profiles.ticket(&profile.alias, &user) {
            Err(TicketFileError::File(error)) if error.is_missing() => {
                Err(again(format!("{user} is not logged in at {}", profile.alias)))
            }
            Err(error @ TicketFileError::Malformed(_)) => Err(again(error.to_string())),
            Err(error) => return Err(error.into()),
            Ok(saved) if saved.expires <= UnixTime::now() || saved.user != user || saved.lender != profile.lender => {
                Err(again(format!("the last login at {} is over", profile.alias)))
            }
            Ok(saved) => Ok(saved),
        };
        let by_ticket = match saved {
            Ok(saved) => {
                let ticket = Credential::Ticket(&saved);
                enter(profiles, profile.clone(), user.clone(), (host, known), ticket, replaces).await
            }
            Err(error) => Err(error),
        };
        let Err(no_ticket @ BorrowError::Login { .. }) = by_ticket else { return by_ticket };
        // Perhaps the lender asks for no more than the certificate: then nobody need be there to log in.
        match enter(profiles, profile, user, (host, known), Credential::Certificate, replaces).await {
            Err(BorrowError::Login { .. } | BorrowError::Ended { kind: ErrorKind::Protocol, .. }) => Err(no_ticket),
            entered => entered,
        }
    }

    /// Enters with no more than the certificate, and keeps the ticket for [`Self::again`].
    pub(super) async fn by_certificate(&self) -> Result<Entered, BorrowError> {
        match self {
            Self::Door(door) => door.enter(None).await,
            Self::Joined { profiles, host, parsed, ca } => {
                let (profile, user) = profiles.find(parsed)?;
                enter(profiles, profile, user, (host, ca.as_ref()), Credential::Certificate, None).await
            }
        }
    }

    /// Enters with a password, which also renews a certificate that has ended, and keeps the ticket for [`Self::again`].
    pub(super) async fn by_password(&self, password: &Password) -> Result<Entered, BorrowError> {
        match self {
            Self::Door(_) => {
                Err(BorrowError::usage("the lender of this machine itself knows you: it takes no password"))
            }
            Self::Joined { profiles, host, parsed, ca } => {
                let (profile, user) = profiles.find(parsed)?;
                let own = profiles.credentials(&profile.alias, &user)?;
                if let Some(end) = overdue::ended(&own) {
                    overdue::renew(profiles, &profile, &user, host, own, end, password).await?;
                }
                enter(profiles, profile, user, (host, ca.as_ref()), Credential::Password(password), None).await
            }
        }
    }
}

async fn enter(
    profiles: &Profiles,
    profile: Profile,
    user: UserName,
    (host, known): (&str, Option<&CertificateDer<'static>>),
    credential: Credential<'_>,
    replaces: Option<SessionId>,
) -> Result<Entered, BorrowError> {
    let own = profiles.credentials(&profile.alias, &user)?;
    check_known(host, &own.ca, known)?;
    if let Some(end) = overdue::ended(&own) {
        return Err(overdue::refusal(host, &profile.lender, end));
    }
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
    let attempt = || async { log_in(&route, route.reach().await?, credential, replaces).await };
    let LoggedIn { session, id, ticket, addresses, local: _ } = patiently(&route, attempt).await?;
    profiles.learn_addresses(&profile, &addresses);
    if let Some(issued) = ticket {
        profiles.save_ticket(&profile.alias, &saved(&issued, &user, &profile.lender))?;
    }
    let renewed = Renewed {
        profiles: profiles.clone(),
        alias: profile.alias,
        lender: profile.lender.clone(),
        user: user.clone(),
        ca: own.ca.clone(),
    };
    let renewal = Some(renewed.keep(session.clone()).await);
    Ok(Entered { session, id, lender: profile.lender, user, ca: Some(own.ca), renewal, is_shared: false })
}

/// Whether the lender that a host is here by now is the one that is known from before.
fn check_known(host: &str, ca: &CertificateDer<'_>, known: Option<&CertificateDer<'_>>) -> Result<(), BorrowError> {
    match known.is_none_or(|known| known == ca) {
        true => Ok(()),
        false => Err(BorrowError::OtherLender { host: host.to_owned() }),
    }
}

fn saved(issued: &IssuedTicket, user: &UserName, lender: &LenderName) -> SavedTicket {
    SavedTicket {
        ticket: Ticket::from_bytes(issued.secret),
        expires: UnixTime(issued.expires),
        user: user.clone(),
        lender: lender.clone(),
    }
}
