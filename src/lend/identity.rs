//! The lender's own certificate, renewed before it ends, and the TLS configurations that carry it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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

/// After a renewal that failed, for a certificate that is still good.
const TRY_AGAIN: Duration = Duration::from_secs(60 * 60);

/// The configurations of one server certificate.
#[derive(Clone)]
pub(super) struct Configs {
    pub(super) session: Arc<ServerConfig>,
    pub(super) join: Arc<ServerConfig>,
    pub(super) renewal: Arc<ServerConfig>,
    renew_at: UnixTime,
    ends: UnixTime,
}

impl Configs {
    /// Whether the certificate has ended.
    pub(super) fn is_over(&self, now: UnixTime) -> bool {
        now >= self.ends
    }

    /// Whether it is in its last third.
    pub(super) fn is_due(&self, now: UnixTime) -> bool {
        now >= self.renew_at
    }
}

/// Keeps a good server certificate at hand.
pub(super) struct ServerIdentity {
    dir: LenderDir,
    name: LenderName,
    current: Mutex<Configs>,
    /// Whose turn it is to renew it.
    pub(super) renewing: Arc<tokio::sync::Mutex<()>>,
}

impl ServerIdentity {
    pub(super) fn load(dir: &LenderDir, authority: &Authority, name: &LenderName) -> Result<Self, LendError> {
        let current = match read(dir, authority) {
            // A crash between the two files, or a hand that took one: it is signed by our own CA, and made anew.
            Err(error) if is_of_no_use(&error) => {
                tracing::warn!(%error, "the server certificate is made anew");
                issue(dir, authority, name)?;
                read(dir, authority)?
            }
            other => other?,
        };
        let current = Mutex::new(current);
        let identity = Self { dir: dir.clone(), name: name.clone(), current, renewing: Arc::default() };
        identity.renewed(authority, UnixTime::now())?;
        Ok(identity)
    }

    /// The configurations of now.
    pub(super) fn current(&self) -> Configs {
        self.lock().clone()
    }

    /// The configurations to serve with; a certificate that is due is replaced first, which waits for the disk. Where that
    /// fails, as on a full one, the old certificate goes on as long as it is good. One at a time: see `renewing`.
    ///
    /// # Errors
    /// It has ended, and there is no new one.
    pub(super) fn renewed(&self, authority: &Authority, now: UnixTime) -> Result<Configs, LendError> {
        if !self.lock().is_due(now) {
            return Ok(self.current());
        }
        let renewed = issue(&self.dir, authority, &self.name).and_then(|()| read(&self.dir, authority));
        let mut current = self.lock();
        match renewed {
            Ok(new) => *current = new,
            Err(error) if !current.is_over(now) => {
                tracing::warn!(%error, "cannot renew the server certificate");
                current.renew_at = now.plus(TRY_AGAIN).min(current.ends);
            }
            Err(error) => return Err(error),
        }
        Ok(current.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Configs> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the files hold no pair that can be used: what may not be read, or is open to others, is not such.
fn is_of_no_use(error: &LendError) -> bool {
    match error {
        LendError::File(error) => error.is_missing(),
        LendError::Config { .. } | LendError::Pem { .. } | LendError::Identity(_) | LendError::Tls(_) => true,
        _ => false,
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
    let leaf = chain.first().ok_or_else(|| wrong("it holds no certificate"))?;
    let ends = not_after(leaf)?;
    Ok(Configs {
        session: Arc::new(tls::lender_config(authority.cert_der(), chain.clone(), &key)?),
        renewal: Arc::new(tls::renewal_config(authority.cert_der(), chain.clone(), &key)?),
        join: Arc::new(tls::join_config(chain, &key)?),
        renew_at: ends.minus(LEAF_LIFETIME / 3),
        ends,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lend::{Setup, init, test_lender},
        trust::store::StoreError,
    };

    fn lender() -> (tempfile::TempDir, LenderDir, LenderName, Authority) {
        let folder = tempfile::tempdir().unwrap();
        let dir = LenderDir::single(folder.path().join("lab"));
        let name = init(&dir, Setup::default()).unwrap().name;
        let authority = authority(&dir).unwrap();
        (folder, dir, name, authority)
    }

    #[test]
    fn a_pair_that_a_crash_has_torn_is_made_anew() {
        let (_folder, dir, name, authority) = lender();
        let other = new_key().unwrap();
        keyfile::write(&dir.server_key(), other.as_bytes(), keyfile::SECRET_MODE).unwrap();
        assert!(matches!(read(&dir, &authority), Err(LendError::Tls(_))));
        ServerIdentity::load(&dir, &authority, &name).unwrap();
        std::fs::remove_file(dir.server_crt()).unwrap();
        ServerIdentity::load(&dir, &authority, &name).unwrap();
        read(&dir, &authority).unwrap();
    }

    #[test]
    fn a_good_certificate_goes_on_where_no_new_one_can_be_written() {
        let (_folder, dir, name, authority) = lender();
        let identity = ServerIdentity::load(&dir, &authority, &name).unwrap();
        let ends = identity.current().ends;
        // In its place stands what no file replaces.
        for path in [dir.server_key(), dir.server_crt()] {
            std::fs::remove_file(&path).unwrap();
            std::fs::create_dir_all(path.join("in the way")).unwrap();
        }
        let last = ends.minus(Duration::from_secs(1));
        assert_eq!(identity.renewed(&authority, last).unwrap().ends, ends);
        assert!(identity.renewed(&authority, ends).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_renewal_before_the_certificate_has_ended() {
        let (_folder, _, lender) = test_lender::lender();
        let identity = &lender.shared.identity;
        let ends = identity.current().ends;
        // As while the disk hangs.
        let turn = identity.renewing.clone().try_lock_owned().unwrap();
        identity.lock().renew_at = UnixTime(0);
        assert_eq!(lender.configs().await.unwrap().ends, ends);
        identity.lock().ends = UnixTime(1);
        let hangs = lender.configs().await.err();
        assert!(matches!(hangs, Some(LendError::Store(StoreError::Hangs))), "{hangs:?}");
        drop(turn);
        assert!(!lender.configs().await.unwrap().is_due(UnixTime::now()));
    }

    #[tokio::test]
    async fn a_certificate_that_is_due_is_renewed_beside_whoever_comes() {
        let (_folder, _, lender) = test_lender::lender();
        let identity = &lender.shared.identity;
        identity.lock().renew_at = UnixTime(0);
        assert!(lender.configs().await.unwrap().is_due(UnixTime::now()));
        // Its turn is over.
        drop(identity.renewing.lock().await);
        assert!(!lender.configs().await.unwrap().is_due(UnixTime::now()));
    }

    #[test]
    fn a_lender_whose_settings_are_lost_keeps_its_ca() {
        let (_folder, dir, _, _) = lender();
        let before = std::fs::read(dir.ca_key()).unwrap();
        std::fs::remove_file(dir.lender_toml()).unwrap();
        init(&dir, Setup::default()).unwrap();
        assert_eq!(std::fs::read(dir.ca_key()).unwrap(), before);
    }
}
