//! Signals by number, as they come over the wire.

use rustix::process::Signal;

/// The largest signal number of Linux: SIGRTMAX.
pub(super) const SIGNAL_MAX: i32 = 64;

/// A signal by Linux's number, real-time ones too; `None` for a number that is none.
pub fn signal(number: u8) -> Option<Signal> {
    let number = i32::from(number);
    // SAFETY: every number from 1 to SIGRTMAX is a signal, and it is only sent: nothing here is made to handle it.
    (1..=SIGNAL_MAX).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_linux_is_a_signal_and_no_other() {
        assert_eq!(signal(9), Some(Signal::KILL));
        assert_eq!(signal(64).map(Signal::as_raw), Some(64));
        assert!([0, 65, 255].into_iter().all(|number| signal(number).is_none()));
    }
}
