//! The lender's answer to what was asked for on a stream.

use super::BorrowError;
use crate::{
    proto::{Answer, Reset},
    session::Stream,
};

/// Resets the stream when dropped.
pub(super) struct Unanswered<'a>(pub(super) &'a Stream);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.0.reset(Reset::Cancelled);
    }
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
    match answer {
        Answer::Granted(granted) => Ok(granted),
        Answer::Refused(refusal) => Err(BorrowError::refused(host, target, &refusal)),
    }
}
