//! Judges a password: not while its device is locked out, and each guess counts before its hash is done.
//!
//! Only ever called for a device whose certificate has verified: argon2 runs for no stranger.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use zeroize::Zeroizing;

use super::{Lender, login::kind_of, stranger::No};
use crate::{
    proto::{DeviceId, ErrorKind, UserName},
    trust::{
        identity::Identity,
        lockout::{Blocked, Lockout},
        password::{Password, PasswordError},
    },
};

/// Gives the epoch under which the password was right.
pub(super) async fn check_password(
    lender: &Lender,
    password: Zeroizing<Vec<u8>>,
    identity: &Identity,
) -> Result<u64, No> {
    let no = |error: &dyn std::error::Error| No::refused(ErrorKind::Login, error);
    let shared = &lender.shared;
    let password = Password::new(password.to_vec()).map_err(|error| no(&error))?;
    let user = identity.user.clone();
    let stored = lender.look(move |store| store.password_of(&user)).await;
    let stored = stored.map_err(|error| No::refused(kind_of(&error, ErrorKind::Login), error))?;
    let guess = Guess::begin(&shared.lockout, identity)?;
    match shared.passwords.verify(password, stored.phc).await {
        Ok(true) => {
            guess.end(Lockout::succeeded);
            Ok(stored.epoch)
        }
        Ok(false) => Err(No::wrong(ErrorKind::Login, "wrong password")),
        Err(error) => {
            guess.end(Lockout::withdraw);
            let kind = if matches!(error, PasswordError::Busy) { ErrorKind::Busy } else { ErrorKind::Login };
            Err(No::refused(kind, error))
        }
    }
}

/// A password that is being judged. Dropped, it was wrong: who does not wait for the verdict gains no guess.
struct Guess<'a> {
    lockout: &'a Mutex<Lockout>,
    identity: &'a Identity,
    ended: bool,
}

impl<'a> Guess<'a> {
    fn begin(lockout: &'a Mutex<Lockout>, identity: &'a Identity) -> Result<Self, No> {
        let mut table = lockout.lock().unwrap_or_else(PoisonError::into_inner);
        match table.begin(&identity.user, identity.device, Instant::now()) {
            Ok(()) => Ok(Self { lockout, identity, ended: false }),
            Err(Blocked::Locked(wait)) => {
                let text = format!("too many wrong passwords: try again in {} s", wait.as_secs() + 1);
                Err(No::refused(ErrorKind::Login, text))
            }
            Err(Blocked::Judging) => {
                let text = "too many logins of this device at once: try again in a moment";
                Err(No::refused(ErrorKind::Busy, text))
            }
        }
    }

    fn end(mut self, how: impl FnOnce(&mut Lockout, &UserName, DeviceId)) {
        self.ended = true;
        how(
            &mut self.lockout.lock().unwrap_or_else(PoisonError::into_inner),
            &self.identity.user,
            self.identity.device,
        );
    }
}

impl Drop for Guess<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let mut lockout = self.lockout.lock().unwrap_or_else(PoisonError::into_inner);
            lockout.failed(&self.identity.user, self.identity.device, Instant::now());
        }
    }
}
