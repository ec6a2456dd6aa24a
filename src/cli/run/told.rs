//! What the person is told of while the program runs: each refusal once, each cut when it comes.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{BorrowError, proto::ErrorKind};

/// Refused targets that are told, each once: more are a program that tries everything.
const REFUSALS_MAX: usize = 64;
/// Far ends that are told of one cut.
const CUTS_MAX: usize = 64;
/// What one change at the lender takes back ends within this time; the same line behind it is another cut.
const CUT: Duration = Duration::from_secs(1);

/// What has been told so far.
#[derive(Default)]
pub struct Told {
    refusals: HashSet<String>,
    cuts: HashMap<String, Instant>,
}

impl Told {
    /// Whether this line about `error` is to be told now.
    pub fn is_news(&mut self, error: &BorrowError, line: &str, now: Instant) -> bool {
        if is_cut(error) {
            self.cuts.retain(|_, told| now.duration_since(*told) < CUT);
            let is_news = self.cuts.len() < CUTS_MAX && !self.cuts.contains_key(line);
            if is_news {
                self.cuts.insert(line.to_owned(), now);
            }
            return is_news;
        }
        self.refusals.len() < REFUSALS_MAX && self.refusals.insert(line.to_owned())
    }
}

/// Whether it was lent before. A lender that refuses says why in notes; one that takes something back has said it all.
fn is_cut(error: &BorrowError) -> bool {
    matches!(error.kind(), ErrorKind::Policy | ErrorKind::Revoked) && error.notes().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind, notes: &[&str]) -> BorrowError {
        let (lender, reason) = ("lab".to_owned(), "db:1".to_owned());
        let notes = notes.iter().map(|&note| note.to_owned()).collect();
        BorrowError::Refused { lender, kind, reason, errno: None, notes, warnings: Vec::new() }
    }

    #[test]
    fn a_refusal_is_told_once_and_a_cut_each_time() {
        let (mut told, start) = (Told::default(), Instant::now());
        let refused = error(ErrorKind::Policy, &["help: ask"]);
        let mut are_news = |error: &BorrowError, seconds: &[f64]| {
            let at = |seconds: &f64| told.is_news(error, "line", start + Duration::from_secs_f64(*seconds));
            seconds.iter().map(at).collect::<Vec<_>>()
        };
        assert_eq!(are_news(&refused, &[0.0, 0.1, 99.0]), [true, false, false]);
        let cut = error(ErrorKind::Revoked, &[]);
        assert_eq!(are_news(&cut, &[0.0, 0.1, 0.9, 1.5, 1.6, 9.0]), [true, false, false, true, false, true]);
        assert_eq!(are_news(&error(ErrorKind::Policy, &[]), &[20.0, 20.1]), [true, false]);
    }

    #[test]
    fn many_cuts_leave_room_for_refusals_and_for_the_cuts_behind_them() {
        let (mut told, start) = (Told::default(), Instant::now());
        let (cut, refused) = (error(ErrorKind::Policy, &[]), error(ErrorKind::Policy, &["help: ask"]));
        let count = |told: &mut Told, error: &BorrowError, now: Instant| {
            (0..1000).filter(|number| told.is_news(error, &number.to_string(), now)).count()
        };
        assert_eq!(count(&mut told, &cut, start), CUTS_MAX);
        assert_eq!(count(&mut told, &refused, start), REFUSALS_MAX);
        assert_eq!(count(&mut told, &cut, start + CUT), CUTS_MAX);
        assert_eq!(count(&mut told, &refused, start + CUT), 0);
    }
}
