//! Datagrams that wait for whoever sends them on, bounded in bytes: what there is no room for is lost, as on any full link.
//!
//! A channel that is bounded in messages would hold 64 times as much when they are the longest ones.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use tokio::time::Instant;

use crate::session::QUEUE_BYTES;

/// What a datagram takes beyond its content, in bytes, so that empty ones are bounded, too.
const EACH_BYTES: usize = 28;

/// A lane. Without a sender it ends behind what waits.
pub(super) fn lane<T>() -> (LaneSender<T>, LaneReceiver<T>) {
    let waiting = Waiting { queue: VecDeque::new(), bytes: 0, senders: 1, receiver: None, used: Instant::now() };
    let waiting = Arc::new(Mutex::new(waiting));
    (LaneSender(waiting.clone()), LaneReceiver(waiting))
}

struct Waiting<T> {
    queue: VecDeque<T>,
    bytes: usize,
    senders: usize,
    receiver: Option<Waker>,
    /// When anything went either way.
    used: Instant,
}

/// Puts datagrams in.
pub(super) struct LaneSender<T>(Arc<Mutex<Waiting<T>>>);

impl<T> LaneSender<T> {
    /// Puts in a datagram whose content has so many bytes, or loses it.
    pub(super) fn send(&self, datagram: T, bytes: usize) {
        let mut waiting = lock(&self.0);
        waiting.used = Instant::now();
        // The longest one fits where nothing waits.
        if waiting.bytes + bytes > QUEUE_BYTES {
            return;
        }
        waiting.bytes += bytes + EACH_BYTES;
        waiting.queue.push_back(datagram);
        let receiver = waiting.receiver.take();
        drop(waiting);
        receiver.into_iter().for_each(Waker::wake);
    }

    fn used(&self) -> Instant {
        lock(&self.0).used
    }
}

impl<T> Clone for LaneSender<T> {
    fn clone(&self) -> Self {
        lock(&self.0).senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for LaneSender<T> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.0);
        waiting.senders -= 1;
        let receiver = waiting.receiver.take();
        drop(waiting);
        receiver.into_iter().for_each(Waker::wake);
    }
}

/// Takes datagrams out.
pub(super) struct LaneReceiver<T>(Arc<Mutex<Waiting<T>>>);

impl<T> LaneReceiver<T> {
    /// Moves all that waits behind `taken`, which is at least one; `false` once none will come.
    ///
    /// # Cancellation
    /// Dropping the future loses none.
    pub(super) async fn take(&mut self, taken: &mut VecDeque<T>) -> bool {
        poll_fn(|cx| {
            let mut waiting = lock(&self.0);
            if waiting.queue.is_empty() {
                if waiting.senders == 0 {
                    return Poll::Ready(false);
                }
                waiting.receiver = Some(cx.waker().clone());
                return Poll::Pending;
            }
            waiting.bytes = 0;
            taken.append(&mut waiting.queue);
            Poll::Ready(true)
        })
        .await
    }

    /// Ready once none will come any more, whatever waits.
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[cfg(feature = "run")]
    pub(super) async fn over(&mut self) {
        poll_fn(|cx| {
            let mut waiting = lock(&self.0);
            if waiting.senders == 0 {
                return Poll::Ready(());
            }
            waiting.receiver = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// All that waits.
    pub(super) fn take_now(&mut self) -> VecDeque<T> {
        let mut waiting = lock(&self.0);
        waiting.bytes = 0;
        std::mem::take(&mut waiting.queue)
    }

    /// What waits, in bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        lock(&self.0).bytes
    }

    /// Something went the other way, so that the lane is not quiet.
    pub(super) fn note_use(&self) {
        lock(&self.0).used = Instant::now();
    }

    /// When anything went either way.
    pub(super) fn used(&self) -> Instant {
        lock(&self.0).used
    }
}

/// The lanes of many, each by its key; their number is bounded, and the one that was quiet for longest goes first.
pub(super) struct Lanes<K, T> {
    table: HashMap<K, (Number, LaneSender<T>)>,
    next: u64,
    /// Those that somebody serves still, in the table or not.
    served: usize,
    most: usize,
}

/// Tells a lane from a later one of the same key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Number(u64);

impl<K: Copy + Eq + Hash, T> Lanes<K, T> {
    /// Has so many lanes at most, and as many again that are about to end.
    pub(super) fn new(most: usize) -> Self {
        Self { table: HashMap::new(), next: 0, served: 0, most }
    }

    /// Puts a datagram into the lane of `key`. Where there was none, whoever gets the new one serves it, until [`Self::end`].
    pub(super) fn send(&mut self, key: K, datagram: T, bytes: usize) -> Option<(Number, LaneReceiver<T>)> {
        if let Some((_, sender)) = self.table.get(&key) {
            sender.send(datagram, bytes);
            return None;
        }
        if self.served >= 2 * self.most {
            return None;
        }
        if self.table.len() >= self.most
            && let Some(quietest) = self.table.iter().min_by_key(|(_, (_, sender))| sender.used()).map(|(key, _)| *key)
        {
            self.table.remove(&quietest);
        }
        let (sender, receiver) = lane();
        sender.send(datagram, bytes);
        let number = Number(self.next);
        self.next += 1;
        self.served += 1;
        self.table.insert(key, (number, sender));
        Some((number, receiver))
    }

    /// Nobody serves it any more.
    pub(super) fn end(&mut self, key: K, number: Number) {
        self.served -= 1;
        if self.table.get(&key).is_some_and(|(current, _)| *current == number) {
            self.table.remove(&key);
        }
    }

    /// Lets every lane end behind what waits in it.
    #[cfg(feature = "run")]
    pub(super) fn end_all(&mut self) {
        self.table.clear();
    }
}

fn lock<T>(waiting: &Mutex<Waiting<T>>) -> MutexGuard<'_, Waiting<T>> {
    // Every change under the lock is complete by itself.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_and_comes_out_in_order() {
        let (sender, mut receiver) = lane();
        for number in 0..1000 {
            sender.send(number, 1200);
        }
        drop(sender);
        let mut taken = VecDeque::new();
        assert!(receiver.take(&mut taken).await);
        let count = taken.len();
        assert!((50..=54).contains(&count) && taken.into_iter().eq(0..count), "{count} of 1,200 bytes in 64 KiB");
        assert!(!receiver.take(&mut VecDeque::new()).await, "nobody sends any more");
        let (sender, mut receiver) = lane();
        for _ in 0..100_000 {
            sender.send((), 0);
        }
        assert!(receiver.take_now().len() < 3000, "empty ones are bounded, too");
        sender.send((), crate::proto::DATAGRAM_BYTES_MAX);
        assert_eq!(receiver.take_now().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lane_that_was_quiet_for_longest_makes_room() {
        let mut lanes = Lanes::new(3);
        let step = || tokio::time::advance(Duration::from_secs(1));
        let mut served = Vec::new();
        for key in 0..3 {
            served.push(lanes.send(key, key, 1).unwrap());
            step().await;
        }
        // The first was sent to again, something came back by the second.
        assert!(lanes.send(0, 10, 1).is_none());
        served[1].1.note_use();
        step().await;
        let (number, _receiver) = lanes.send(3, 3, 1).unwrap();
        assert_eq!(served[2].1.take_now(), [2]);
        assert!(!served[2].1.take(&mut VecDeque::new()).await, "it has ended");
        assert_eq!(served[0].1.take_now(), [0, 10]);
        // A lane that follows another of its key is not ended with it.
        let (_again, mut receiver) = lanes.send(2, 4, 1).unwrap();
        lanes.end(2, served[2].0);
        assert!(lanes.send(2, 5, 1).is_none());
        assert_eq!(receiver.take_now(), [4, 5]);
        lanes.end(3, number);
        assert!(lanes.send(3, 6, 1).is_some());
    }

    #[tokio::test]
    async fn those_that_are_about_to_end_are_bounded_too() {
        let mut lanes = Lanes::new(4);
        let served: Vec<_> = (0..100).filter_map(|key| lanes.send(key, (), 0)).collect();
        assert_eq!(served.len(), 8);
    }
}
