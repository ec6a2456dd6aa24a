//! Says on stderr how the connection to a lender stands, for commands that outlive it.

use std::{collections::HashSet, time::Instant};

use super::report::warn;
use crate::{Borrower, Connection};

/// Different reasons of one outage that are told; a lender that changes its words each time must not fill the screen.
const REASONS_MAX: usize = 8;

/// Tells each loss and each return, until it is dropped.
pub async fn tell(borrower: &Borrower) {
    let (mut connection, host) = (borrower.connection(), borrower.host());
    let (mut lost, mut told) = (None, HashSet::new());
    loop {
        let now = connection.borrow_and_update().clone();
        match (now, lost) {
            (Connection::Down { why }, since) => {
                lost = since.or_else(|| Some(Instant::now()));
                if told.len() < REASONS_MAX && told.insert(why.clone()) {
                    warn(&format!("capuchin: {host}: reconnecting… ({why})"));
                }
            }
            (Connection::Up, Some(since)) => {
                warn(&format!("capuchin: {host}: back after {:.1} s", since.elapsed().as_secs_f32()));
                lost = None;
                told.clear();
            }
            _ => {}
        }
        if connection.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
