//! The lender's answer to what was asked for on a stream.

use super::{BorrowError, Borrower, connect::first_message, give_up::Attempt, present::Present};
use crate::{
    proto::{Answer, Request, Reset},
    session::Stream,
};

/// Resets the stream when dropped.
pub(super) struct Unanswered<'a>(pub(super) &'a Stream);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.reset(Reset::Cancelled);
    }
}

/// Asks for what the lender takes its time to grant, as a connection: the stream, and what is granted; `target` is what was asked
/// for, as its user calls it.
///
/// # Errors
/// As [`granted`].
///
/// # Cancellation
/// Dropping the future before the answer makes the lender give up: at once, unless very many are dropped.
pub(super) async fn ask<A>(borrower: &Borrower, request: &Request, target: &str) -> Result<(Stream, A), BorrowError>
where
    A: for<'b> minicbor::Decode<'b, ()>,
{
    let Present { session, give_ups, .. } = borrower.shared().present();
    let opened = session.open(first_message(request)?).map_err(|error| BorrowError::open(borrower.host(), error));
    let answer = Attempt::new(opened?, session, give_ups).answer().await;
    let (stream, answer) = answer.map_err(|error| BorrowError::answer(borrower.host(), target, error))?;
    Ok((stream, grant_of(answer, borrower.host(), target)?))
}

/// What the lender `host` grants on `stream`; `target` is what was asked for, as its user calls it.
///
/// # Errors
/// The refusal, or that there is no answer.
///
/// # Cancellation
/// Dropping the future before the answer resets the stream, so that the lender gives up.
pub(super) async fn granted<A>(stream: &Stream, host: &str, target: &str) -> Result<A, BorrowError>
where
    A: for<'b> minicbor::Decode<'b, ()>,
{
    let unanswered = Unanswered(stream);
    let answer = stream.read_message("answer").await.map_err(|error| BorrowError::answer(host, target, error))?;
    std::mem::forget(unanswered);
    grant_of(answer, host, target)
}

fn grant_of<A>(answer: Answer<A>, host: &str, target: &str) -> Result<A, BorrowError> {
    match answer {
        Answer::Granted(granted) => Ok(granted),
        Answer::Refused(refusal) => Err(BorrowError::refused(host, target, &refusal)),
    }
}
