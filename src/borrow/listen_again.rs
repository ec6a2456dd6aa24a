//! The same listener on the session that follows one that was lost.

use std::time::Duration;

use super::{BorrowError, Borrower};
use crate::proto::ErrorKind;

/// Before a port is asked for again that cannot be had for the moment.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// Listens as `listen` does, as soon as there is a session again. `failed` hears of each failure on the way.
///
/// # Errors
/// The session cannot be made again, or the lender refuses to listen there.
pub(super) async fn listen_again<L, F>(
    borrower: &Borrower,
    listen: impl Fn() -> F,
    failed: &mut impl FnMut(&BorrowError),
) -> Result<L, BorrowError>
where
    F: Future<Output = Result<L, BorrowError>>,
{
    let mut connection = borrower.connection();
    loop {
        // Before it is asked for, so that a change meanwhile is seen.
        connection.mark_unchanged();
        match listen().await {
            Err(BorrowError::Ended { .. }) => tokio::select! {
                _ = connection.changed() => {}
                end = borrower.ended() => return Err(end),
            },
            // Somebody else has the port for the moment, or all places of the lender.
            Err(error) if matches!(error, BorrowError::Listen { .. }) || error.kind() == ErrorKind::Busy => {
                failed(&error);
                tokio::time::sleep(LISTEN_PAUSE).await;
            }
            listened => return listened,
        }
    }
}
