//! Who offers which service now: in memory alone, as a service ends with the session that offers it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Semaphore, mpsc};

use super::Visit;
use crate::proto::{Errno, ErrorKind, PENDING_MAX, Refusal};

/// The services of a lender, by name.
#[derive(Default)]
pub(in crate::lend) struct Services(Mutex<HashMap<String, Offer>>);

struct Offer {
    visit_tx: mpsc::Sender<Visit>,
    /// For those who are connected; `None`: for any number.
    places: Option<Arc<Semaphore>>,
}

/// A service that is offered, until this is dropped.
pub(in crate::lend) struct Offered {
    services: Arc<Services>,
    name: String,
    visit_rx: tokio::sync::Mutex<mpsc::Receiver<Visit>>,
}

impl Services {
    /// Takes a name.
    ///
    /// # Errors
    /// The refusal: somebody has it.
    pub(in crate::lend) fn offer(self: &Arc<Self>, name: &str, at_once: Option<u32>) -> Result<Offered, Refusal> {
        let mut offers = self.lock();
        if offers.contains_key(name) {
            let text = format!("service {name} is in use: another session offers it");
            let help = "help: choose another name, or end the other offer".to_owned();
            return Err(Refusal::new(ErrorKind::Target, text).with_errno(Some(Errno::EADDRINUSE)).with_notes([help]));
        }
        let (visit_tx, visit_rx) = mpsc::channel(PENDING_MAX);
        let most = |at_once| usize::try_from(at_once).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let places = at_once.map(|at_once| Arc::new(Semaphore::new(most(at_once))));
        offers.insert(name.to_owned(), Offer { visit_tx, places });
        Ok(Offered { services: self.clone(), name: name.to_owned(), visit_rx: visit_rx.into() })
    }

    /// Hands a visit to who offers `name`.
    ///
    /// # Errors
    /// The refusal: nobody offers it, or it is taken.
    pub(super) fn visit(&self, name: &str, mut visit: Visit) -> Result<(), Refusal> {
        let offers = self.lock();
        let Some(offer) = offers.get(name) else { return Err(nobody(name)) };
        if let Some(places) = &offer.places {
            visit.takes(places.clone().try_acquire_owned().map_err(|_| taken(name))?);
        }
        offer.visit_tx.try_send(visit).map_err(|_| taken(name))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Offer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offered {
    /// The next who connects. Dropping the future loses nobody.
    pub(in crate::lend) async fn accept(&self) -> Option<Visit> {
        let mut visit_rx = self.visit_rx.lock().await;
        loop {
            match visit_rx.recv().await {
                Some(visit) if visit.is_gone() => drop(visit),
                visit => return visit,
            }
        }
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.services.lock().remove(&self.name);
    }
}

pub(super) fn nobody(name: &str) -> Refusal {
    let text = format!("service {name}: nobody offers it now");
    Refusal::new(ErrorKind::Target, text).with_errno(Some(Errno::ECONNREFUSED))
}

fn taken(name: &str) -> Refusal {
    let text = format!("service {name} is taken: as many are connected as it takes at a time");
    Refusal::new(ErrorKind::Busy, text).with_errno(Some(Errno::EAGAIN))
}
