//! Room for programs. Each takes it from its start until nothing of it is left: also while it is being ended, and, detached,
//! for as long as it lives.

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    lend::{
        borrower::Borrower,
        shares::{Share, Shares},
    },
    proto::{Errno, ErrorKind, Refusal},
};

/// Programs of one session at once: each costs two processes and up to four descriptors.
pub(super) const PROGRAMS_MAX: usize = 128;
/// Programs of one user at once, over all sessions and those that are over: who comes back must not get room again for
/// what is not gone.
const PROGRAMS_OF_USER_MAX: usize = 512;
/// Descriptors of a program's streams at the lender; its supervisor is one more.
const STREAMS: u32 = 3;

/// The places of all users for programs, and for other processes that are theirs: a user is bounded, and they are as many as
/// the admin has made.
pub(in crate::lend) fn places() -> Shares {
    Shares::new(Semaphore::MAX_PERMITS, PROGRAMS_OF_USER_MAX)
}

/// Room for a program with its streams.
pub(super) struct Place {
    pub(super) program: ProgramPlace,
    /// Goes back when its streams are closed.
    pub(super) streams: OwnedSemaphorePermit,
}

/// Room for a program and its supervisor; goes back when nothing of them is left.
pub(super) struct ProgramPlace {
    _of_session: OwnedSemaphorePermit,
    _of_user: Share,
    _supervisor: OwnedSemaphorePermit,
}

impl Place {
    /// Room for one more.
    ///
    /// # Errors
    /// The refusal: what there is too much of.
    pub(super) fn take(borrower: &Borrower) -> Result<Self, Refusal> {
        let shared = &borrower.lender.shared;
        let busy = |text: String| Refusal::new(ErrorKind::Busy, text).with_errno(Some(Errno::EAGAIN));
        let so_many = |many: usize, of: &str| {
            busy(format!(
                "{many} programs of one {of} run already, those included that are being ended or are detached"
            ))
        };
        let of_session = borrower.programs.place().ok_or_else(|| so_many(PROGRAMS_MAX, "session"))?;
        let of_user = shared.programs.try_take(&borrower.principal.user);
        let of_user = of_user.ok_or_else(|| so_many(PROGRAMS_OF_USER_MAX, "user"))?;
        let descriptors = |count| {
            let taken = shared.sockets.clone().try_acquire_many_owned(count);
            taken.map_err(|_| busy("the lender has opened as many streams of programs as it can".to_owned()))
        };
        let program = ProgramPlace { _of_session: of_session, _of_user: of_user, _supervisor: descriptors(1)? };
        Ok(Self { program, streams: descriptors(STREAMS)? })
    }
}
