//! Where a target is that this machine resolves: asked for once by all who want to go there, and good for a while.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::proto::Target;

/// How long an answer is good.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// How long a failure is: so often at most the system is asked again, however many want to know.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// The addresses of one target.
pub(super) struct TargetAddresses {
    target: Target,
    /// The last answer, and until when it is good.
    known: Mutex<Option<(Instant, Answer)>>,
}

type Answer = Result<Arc<[SocketAddr]>, Failure>;

#[derive(Clone)]
struct Failure {
    kind: io::ErrorKind,
    text: String,
}

impl TargetAddresses {
    pub(super) fn new(target: Target) -> Self {
        Self { target, known: Mutex::default() }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Those of now. One asks at a time, on a thread that may wait, and the others wait for what it hears.
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn now(&self) -> io::Result<Arc<[SocketAddr]>> {
        let mut known = self.known.lock().await;
        let answer = match &*known {
            Some((until, answer)) if Instant::now() < *until => answer.clone(),
            _ => {
                let asked = tokio::net::lookup_host((self.target.host.as_str(), self.target.port)).await;
                let answer = asked.map(Iterator::collect);
                let answer = answer.map_err(|error| Failure { kind: error.kind(), text: error.to_string() });
                let good_for = if answer.is_ok() { KNOWN_FOR } else { FAILED_FOR };
                *known = Some((Instant::now() + good_for, answer.clone()));
                answer
            }
        };
        answer.map_err(|Failure { kind, text }| io::Error::new(kind, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_shared_and_asked_for_again_when_it_is_old() {
        let addresses = TargetAddresses::new("localhost:53".parse().unwrap());
        let (one, other) = tokio::join!(addresses.now(), addresses.now());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(Arc::ptr_eq(&one, &other) && one.iter().all(|address| address.ip().is_loopback()));
        tokio::time::advance(KNOWN_FOR - Duration::from_millis(1)).await;
        assert!(Arc::ptr_eq(&one, &addresses.now().await.unwrap()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!Arc::ptr_eq(&one, &addresses.now().await.unwrap()), "it is asked again");
    }
}
