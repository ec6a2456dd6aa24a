//! Attempts that are given up before the lender has answered: it takes a storm of resets for an attack (`proto/mux/flood`), and
//! a program that closes thousands of sockets at once is none.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How many may be given up at once, and the time between any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) step: Duration,
}

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
        let Rate { burst, step } = self.rate;
        let due = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = Instant::now().checked_sub(step * burst);
            *due = earliest.map_or(*due, |earliest| earliest.max(*due)) + step;
            *due
        };
        tokio::time::sleep_until(due).await;
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
