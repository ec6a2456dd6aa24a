//! A lender's first day: folders, CA, server certificate, settings and policy.

use crate::{
    policy,
    proto::{LenderName, UserName},
    trust::{UnixTime, authority::Authority, keyfile, pem},
};

use super::{LendError, LenderConfig, LenderDir, Listen, admission, config::check_all_advertised, identity};

/// What a new lender is told.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Default: the machine's host name.
    pub name: Option<LenderName>,
    /// Default: every address, port [`DEFAULT_PORT`](crate::proto::DEFAULT_PORT).
    pub listen: Option<Listen>,
    /// Default: found out from `listen`.
    pub advertise: Vec<String>,
    /// Whom the first policy lets do everything that the daemon's own user could; `None`: nobody anything.
    pub owner: Option<UserName>,
}

/// Makes a lender in `dir`. policy.toml and the CA are made only where there is none.
///
/// # Errors
/// If there is a lender already, or a folder cannot be made safe.
pub fn init(dir: &LenderDir, setup: Setup) -> Result<LenderConfig, LendError> {
    if dir.lender_toml().exists() {
        return Err(LendError::Exists(dir.config().to_owned()));
    }
    // Of no file yet: it is the caller who says it.
    check_all_advertised(&setup.advertise).map_err(LendError::usage)?;
    let config = LenderConfig {
        name: match setup.name {
            Some(name) => name,
            None => host_label(),
        },
        listen: setup
            .listen
            .unwrap_or(Listen::Address((std::net::Ipv6Addr::UNSPECIFIED, crate::proto::DEFAULT_PORT).into())),
        advertise: setup.advertise,
        per_source: admission::PER_SOURCE,
        penalties: true,
    };
    keyfile::create_dir(dir.config())?;
    keyfile::create_dir(dir.state())?;
    // Every device that has joined trusts the CA, and no other can take its place.
    let authority = if dir.ca_key().exists() && dir.ca_crt().exists() {
        identity::authority(dir)?
    } else {
        let authority = Authority::create(UnixTime::now())
            .map_err(|source| LendError::Authority { what: "making the CA".to_owned(), source })?;
        keyfile::write(&dir.ca_key(), authority.key_pem().as_bytes(), keyfile::SECRET_MODE)?;
        keyfile::write(&dir.ca_crt(), pem::certificate_pem(authority.cert_der()).as_bytes(), keyfile::PUBLIC_MODE)?;
        authority
    };
    identity::issue(dir, &authority, &config.name)?;
    if !dir.policy_toml().exists() {
        let text = match &setup.owner {
            Some(owner) => policy::for_owner(owner, rustix::process::geteuid().is_root()),
            None => policy::starter().to_owned(),
        };
        keyfile::write(&dir.policy_toml(), text.as_bytes(), keyfile::PUBLIC_MODE)?;
    }
    // Last: a lender without it is begun again, one with it is whole.
    keyfile::write(&dir.lender_toml(), config.to_toml().as_bytes(), keyfile::PUBLIC_MODE)?;
    Ok(config)
}

fn host_label() -> LenderName {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().to_lowercase();
    let label = host.split('.').next().unwrap_or_default();
    let safe: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    safe.trim_matches('-').parse().unwrap_or_else(|_| "lender".parse().expect("a DNS label"))
}
