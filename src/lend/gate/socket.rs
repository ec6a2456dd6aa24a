//! Unix sockets, judged by where the links of their paths lead.
//!
//! # Security
//! The daemon follows links that the borrower could not, root's daemon all there are, and in `/proc` a link tells what a process
//! has open. So a refusal says of the path that was asked for what it would say if no link were there, and the log has the
//! rest; and for whom no rule lends a socket nothing is looked at.

use super::{Verdict, log, refusal};
use crate::{
    lend::{
        Lender,
        borrower::Borrower,
        own_user::{self, Actor},
        real_path::{Last, real_path},
    },
    policy::{self, Facts, Granted, Kind, LenderPath, Principal, Reason, Request, UnixConnect, UnixListen},
    proto::{Errno, ErrorKind, Refusal},
};

/// Asks to connect to the Unix socket that `path` leads to.
pub(in crate::lend) async fn unix_connect(
    borrower: &Borrower,
    path: &[u8],
) -> Result<(Granted<UnixConnect>, Actor), Refusal> {
    let request = |path| UnixConnect { path };
    unix(borrower, "unix-connect", Kind::Unix, path, request).await
}

/// Asks to create a Unix socket at `path`.
pub(in crate::lend) async fn unix_listen(
    borrower: &Borrower,
    path: &[u8],
) -> Result<(Granted<UnixListen>, Actor), Refusal> {
    let request = |path| UnixListen { path };
    unix(borrower, "unix-listen", Kind::UnixListen, path, request).await
}

/// What is refused.
pub(super) struct Refused {
    /// To the borrower, by the path that was asked for alone.
    pub(super) told: Refusal,
    /// To who may know where it leads: the admin, and the log.
    pub(super) known: Refusal,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { told: refusal.clone(), known: refusal }
    }
}

/// Judges where `path` leads. The second value is why that way could not be gone to its end, where it could not.
pub(super) async fn judge<R: Request>(
    lender: &Lender,
    who: &Principal,
    (kind, path): (Kind, &LenderPath),
    request: impl Fn(LenderPath) -> R,
) -> Result<(Granted<R>, Option<rustix::io::Errno>), Refused> {
    let facts = Facts { own_folders: lender.own_folders(), ..Facts::default() };
    let decide = |path: &LenderPath| policy::decide(&lender.policy(), who, request(path.clone()), &facts);
    if !lender.policy().allows_some(&who.user, kind)
        && let Err(no) = decide(path)
    {
        return Err(refusal(&no).into());
    }
    let last = if kind == Kind::UnixListen { Last::Kept } else { Last::Followed };
    let asked = path.clone();
    let walked = lender.shared.look_ups.run(&who.user, move || real_path(&asked, last)).await;
    let (real, stopped) = walked.map_err(|why| why.refusal(&format!("{kind} {path}")))?;
    let no = match decide(&real) {
        Ok(grant) => match decide(path) {
            // As of programs: a deny of either name denies, wherever the other leads by now.
            Err(no) if no.reason == Reason::Denied => return Err(refusal(&no).into()),
            _ => return Ok((grant, stopped)),
        },
        Err(no) => no,
    };
    let told = match decide(path) {
        Err(by_name) => refusal(&by_name),
        Ok(_) => refusal(&policy::Refusal::led_elsewhere(&lender.policy(), &who.user, kind, path)),
    };
    Err(Refused { told, known: refusal(&no) })
}

/// Judges where a path leads, and says as whom it is gone; that it leads nowhere is told only to who may know.
async fn unix<R: Request>(
    borrower: &Borrower,
    event: &'static str,
    kind: Kind,
    path: &[u8],
    request: impl Fn(LenderPath) -> R,
) -> Result<(Granted<R>, Actor), Refusal> {
    let asked = String::from_utf8_lossy(path).into_owned();
    let decision = match LenderPath::parse(path) {
        Ok(path) => match judge(&borrower.lender, &borrower.principal, (kind, &path), request).await {
            Ok((grant, stopped)) => act(borrower, grant, (kind, &asked), stopped).await.map_err(Refused::from),
            Err(refused) => Err(refused),
        },
        Err(error) => Err(Refusal::new(ErrorKind::Usage, error.to_string()).with_errno(Some(Errno::EINVAL)).into()),
    };
    let verdict = match &decision {
        Ok((grant, _)) => Verdict::of(Ok(grant)),
        Err(Refused { known, .. }) => Verdict::of::<R>(Err(known)),
    };
    log(borrower, event, &asked, verdict).await;
    decision.map_err(|Refused { told, .. }| told)
}

/// As whom what was granted is done.
async fn act<R>(
    borrower: &Borrower,
    grant: Granted<R>,
    (kind, asked): (Kind, &str),
    stopped: Option<rustix::io::Errno>,
) -> Result<(Granted<R>, Actor), Refusal> {
    let wanted = format!("{kind} {asked}");
    let actor = own_user::actor(&borrower.lender, &borrower.principal.user, &wanted).await?;
    match (stopped, &actor) {
        (None, _) => Ok((grant, actor)),
        // What root saw on the way is not his to know; the system tells him what he may.
        (Some(_), Actor::Other(_)) => Ok((grant, actor)),
        (Some(errno), Actor::Daemon) => {
            Err(Refusal::new(ErrorKind::Target, format!("{asked}: {errno}")).with_errno(Errno::of(&errno.into())))
        }
    }
}
