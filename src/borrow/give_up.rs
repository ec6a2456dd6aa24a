//! Attempts that are given up before the lender has answered: it takes a storm of resets for an attack (`proto/mux/flood`), and
//! a program that closes thousands of sockets at once is none.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use crate::{
    proto::Reset,
    session::{Session, Stream},
};

/// How many may be given up at once, and the time between any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) step: Duration,
}

/// What a session may give up; its lender bears 1,000 at once and 100 a second.
pub(super) const GIVEN_UP: Rate = Rate { burst: 800, step: Duration::from_millis(12) };

/// Lets attempts be given up at a rate that everybody who shares it keeps to together.
pub(super) struct GiveUps {
    rate: Rate,
    /// When the next attempt may be given up, less what may be given up at once.
    due: Mutex<Instant>,
}

impl GiveUps {
    pub(super) fn new(rate: Rate) -> Self {
        let now = Instant::now();
        Self { rate, due: Mutex::new(now.checked_sub(rate.step * rate.burst).unwrap_or(now)) }
    }

    /// Ready once one more attempt may be given up.
    ///
    /// # Cancellation
    /// It counts as given up.
    pub(super) async fn next(&self) {
        tokio::time::sleep_until(self.turn()).await;
    }

    /// Counts one more, and says from when on it may be given up.
    fn turn(&self) -> Instant {
        let Rate { burst, step } = self.rate;
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = Instant::now().checked_sub(step * burst);
        *due = earliest.map_or(*due, |earliest| earliest.max(*due)) + step;
        *due
    }
}

/// An attempt on a session that the lender has not answered; dropped before it has, it is given up when it has its turn.
pub(super) struct Attempt {
    /// Until it is answered.
    stream: Option<Stream>,
    session: Session,
    give_ups: Arc<GiveUps>,
}

impl Attempt {
    pub(super) fn new(stream: Stream, session: Session, give_ups: Arc<GiveUps>) -> Self {
        Self { stream: Some(stream), session, give_ups }
    }

    /// Waits for the lender's answer.
    pub(super) async fn answer<A>(mut self) -> io::Result<(Stream, A)>
    where
        A: for<'b> minicbor::Decode<'b, ()>,
    {
        let stream = self.stream.as_ref().expect("it is taken below, once");
        let answer = stream.read_message("answer").await?;
        Ok((self.stream.take().expect("it was there just now"), answer))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        let turn = self.give_ups.turn();
        // Without a runtime nobody can wait, and after the end of the session nobody counts.
        if turn <= Instant::now() || stream.over().is_some() || Handle::try_current().is_err() {
            return stream.reset(Reset::Cancelled);
        }
        self.session.spawn(async move {
            tokio::time::sleep_until(turn).await;
            stream.reset(Reset::Cancelled);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_the_rest_step_by_step() {
        let (began, step) = (Instant::now(), Duration::from_millis(10));
        let give_ups = GiveUps::new(Rate { burst: 100, step });
        for _ in 0..100 {
            give_ups.next().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..50 {
            give_ups.next().await;
        }
        let took = began.elapsed().as_millis();
        assert!((490..=510).contains(&took), "{took} ms");
    }
}
