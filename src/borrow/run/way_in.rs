//! How a held SYN reaches our listener once the lender has connected, and which connection it has become there.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{doors::PerFamily, hold::send, packet::Syn, tun::Translations};

/// The two ends of a connection: the program's, and where it connects to.
pub type Ends = (SocketAddr, SocketAddr);

/// The way in to our listener.
pub enum WayIn {
    /// By these sockets, whose mark the packet filter knows: the listener has the very connection.
    Marked(PerFamily),
    /// With other ports.
    Translated(Arc<Translator>),
}

/// Translations that several have a part in.
pub struct Translator(Mutex<Translations>);

/// A connection that our listener has accepted. Dropped when its socket is closed.
pub struct Accepted {
    /// Its ends, as the program has them.
    pub ends: Ends,
    translated: Option<(Arc<Translator>, u64)>,
}

impl WayIn {
    /// Lets `syn` in. `own` sends to sockets of the network.
    pub fn let_in(&self, syn: &Syn, own: &PerFamily) {
        match self {
            Self::Marked(held) => send(held, syn.to.ip(), &syn.again()),
            Self::Translated(translator) => {
                let ports = translator.table().begin((syn.from, syn.to), Instant::now());
                // Without room, the kernel sends it once more, later.
                if let Some((source, destination)) = ports {
                    send(own, syn.to.ip(), &syn.again_between(source, destination));
                }
            }
        }
    }

    /// The connection is not ours any more: the program itself is met by it.
    pub fn leave(&self, ends: Ends) {
        if let Self::Translated(translator) = self {
            translator.table().forget(ends);
        }
    }

    /// Which connection was accepted, `from` and `to` as the listener has them.
    pub fn accepted(&self, from: SocketAddr, to: SocketAddr) -> Option<Accepted> {
        match self {
            Self::Marked(_) => Some(Accepted { ends: (from, to), translated: None }),
            Self::Translated(translator) => {
                let (ends, number) = translator.table().accepted(from, to)?;
                Some(Accepted { ends, translated: Some((translator.clone(), number)) })
            }
        }
    }
}

impl Translator {
    /// For a listener at this port of every address.
    pub fn new(listener: u16) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Translations::new(listener))))
    }

    /// The table.
    pub fn table(&self) -> MutexGuard<'_, Translations> {
        // Every change under the lock is complete by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some((translator, number)) = &self.translated {
            translator.table().release(self.ends, *number, Instant::now());
        }
    }
}
