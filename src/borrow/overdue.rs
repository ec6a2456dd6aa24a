//! A certificate of our own that has ended: the password and the same key renew it for a while, on a connection of its own.

use std::sync::Arc;

use super::{
    BorrowError,
    link::{Link, LinkError, Route},
    login::{log_in_again, patiently, receive, refused, unexpected},
    profile::{Credentials, Profile, Profiles},
};
use crate::{
    proto::{FromBorrower, FromLender, LenderName, Renewal, UserName},
    session::Greeter,
    trust::{
        UnixTime,
        identity::not_after,
        issued::check_renewed,
        overdue::RENEWABLE,
        password::Password,
        request::SubjectKey,
        tls::{RENEWAL_ALPN, renewal_client_config},
    },
};

/// When the certificate ended, if it has; one that cannot be read is for the lender to judge.
pub(super) fn ended(own: &Credentials) -> Option<UnixTime> {
    let end = own.chain.first().and_then(|certificate| not_after(certificate).ok())?;
    (end <= UnixTime::now()).then_some(end)
}

/// What a login without the password is told.
pub(super) fn refusal(host: &str, lender: &LenderName, end: UnixTime) -> BorrowError {
    let text = said(host, end);
    match is_renewable(end) {
        true => BorrowError::Login { text, notes: vec![format!("the password renews it: capuchin login {host}")] },
        false => BorrowError::Identity { text, notes: vec![join_again(lender)] },
    }
}

/// Gets the next certificate for the same key, and keeps it.
pub(super) async fn renew(
    profiles: &Profiles,
    profile: &Profile,
    user: &UserName,
    host: &str,
    own: Credentials,
    end: UnixTime,
    password: &Password,
) -> Result<(), BorrowError> {
    if !is_renewable(end) {
        return Err(BorrowError::Identity { text: said(host, end), notes: vec![join_again(&profile.lender)] });
    }
    let broken = |why: String| BorrowError::Profile {
        path: profiles.folder(&profile.alias).join(user.as_str()).display().to_string(),
        why,
    };
    let device = SubjectKey::of_key(&own.key_pem).map_err(|error| broken(error.to_string()))?.device();
    let config = renewal_client_config(&own.ca, own.chain, &own.key_pem).map_err(|error| broken(error.to_string()))?;
    let route = Route {
        alias: host,
        lender: &profile.lender,
        addresses: &profile.addresses,
        config: Arc::new(config),
        alpn: RENEWAL_ALPN,
    };
    let attempt = || async { ask(&route, route.reach().await?, password).await };
    let certificate = patiently(&route, attempt).await?.into();
    check_renewed(&own.ca, &certificate, user, device, UnixTime::now()).map_err(|error| {
        let text = format!("{host} renewed the certificate with one that cannot be kept: {error}");
        BorrowError::Identity { text, notes: vec![join_again(&profile.lender)] }
    })?;
    profiles.save_certificate(&profile.alias, user, &certificate)
}

async fn ask(route: &Route<'_>, link: Link, password: &Password) -> Result<Vec<u8>, LinkError> {
    let mut greeter = Greeter::new(link);
    let message = FromBorrower::Renewal(Renewal { password: password.as_bytes().to_vec() });
    // What the lender said before it hung up says more than the failure to write.
    let _ = greeter.send(&[message]).await;
    match receive(route, &mut greeter, "renewed certificate").await? {
        FromLender::Renewed(renewed) => Ok(renewed.certificate),
        FromLender::Refusal(refusal) => {
            Err(LinkError::Failed(refused(route, Some(log_in_again(route.alias)), &refusal)))
        }
        other => Err(unexpected(route, "renewed certificate", &other)),
    }
}

fn is_renewable(end: UnixTime) -> bool {
    UnixTime::now() <= end.plus(RENEWABLE)
}

fn said(host: &str, end: UnixTime) -> String {
    let days = UnixTime::now().0.saturating_sub(end.0) / 86_400;
    format!("the certificate of this device at {host} ended {days} days ago")
}

fn join_again(lender: &LenderName) -> String {
    let days = RENEWABLE.as_secs() / 86_400;
    format!(
        "it can be renewed for {days} days; now join again: on {lender} run `capuchind invite USER`, here `capuchin join`"
    )
}
