//! The lender's own certificate, renewed before it ends, and the TLS configurations that carry it.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ServerConfig, pki_types::CertificateDer};

use super::{LendError, LenderDir};
use crate::{
    proto::LenderName,
    trust::{
        UnixTime,
        authority::{Authority, LEAF_LIFETIME},
        identity::not_after,
        keyfile, pem,
        request::{SubjectKey, new_key},
        tls,
    },
};

/// The configurations of one server certificate.
#[derive(Clone)]
pub(super) struct Configs {
    pub(super) session: Arc<ServerConfig>,
    pub(super) join: Arc<ServerConfig>,
    pub(super) renewal: Arc<ServerConfig>,
    renew_at: UnixTime,
}

/// Keeps a good server certificate at hand.
pub(super) struct ServerIdentity {
    dir: LenderDir,
    name: LenderName,
    current: Mutex<Configs>,
}

impl ServerIdentity {
    pub(super) fn load(dir: &LenderDir, authority: &Authority, name: &LenderName) -> Result<Self, LendError> {
        let current = Mutex::new(read(dir, authority)?);
        let identity = Self { dir: dir.clone(), name: name.clone(), current };
        identity.configs(authority, UnixTime::now())?;
        Ok(identity)
    }

    /// The configurations to serve with; a certificate in its last third is replaced first.
    pub(super) fn configs(&self, authority: &Authority, now: UnixTime) -> Result<Configs, LendError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.renew_at {
            issue(&self.dir, authority, &self.name)?;
            *current = read(&self.dir, authority)?;
        }
        Ok(current.clone())
    }
}

/// Makes a server key and certificate and writes both.
pub(super) fn issue(dir: &LenderDir, authority: &Authority, name: &LenderName) -> Result<(), LendError> {
    let key = new_key()?;
    let subject = SubjectKey::of_key(key.as_bytes())?;
    let certificate = authority
        .issue_server(name, &subject, UnixTime::now())
        .map_err(|source| LendError::Authority { what: "signing the server certificate".to_owned(), source })?;
    keyfile::write(&dir.server_key(), key.as_bytes(), keyfile::SECRET_MODE)?;
    keyfile::write(&dir.server_crt(), pem::certificate_pem(&certificate).as_bytes(), keyfile::PUBLIC_MODE)?;
    Ok(())
}

fn read(dir: &LenderDir, authority: &Authority) -> Result<Configs, LendError> {
    let key = keyfile::read_secret(&dir.server_key())?;
    let chain = read_certificates(&dir.server_crt())?;
    let wrong = |problem: &str| LendError::Config { path: dir.server_crt(), problem: problem.to_owned() };
    let leaf =
        chain.first().ok_or_else(|| wrong("it holds no certificate; remove it with server.key and init again"))?;
    let ends = not_after(leaf)?;
    Ok(Configs {
        session: Arc::new(tls::lender_config(authority.cert_der(), chain.clone(), &key)?),
        renewal: Arc::new(tls::renewal_config(authority.cert_der(), chain.clone(), &key)?),
        join: Arc::new(tls::join_config(chain, &key)?),
        renew_at: ends.minus(LEAF_LIFETIME / 3),
    })
}

/// The CA of this lender, with its key.
pub(super) fn authority(dir: &LenderDir) -> Result<Authority, LendError> {
    let key = keyfile::read_secret(&dir.ca_key())?;
    let path = dir.ca_crt();
    let certificate = read_certificates(&path)?.into_iter().next().ok_or_else(|| LendError::Config {
        path: path.clone(),
        problem: "it holds no certificate; restore it from a backup".to_owned(),
    })?;
    Authority::load(&key, certificate)
        .map_err(|source| LendError::Authority { what: path.display().to_string(), source })
}

fn read_certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, LendError> {
    let bytes = keyfile::read_admin_file(path)?;
    pem::certificates(&bytes).map_err(|source| LendError::Pem { what: path.display().to_string(), source })
}
