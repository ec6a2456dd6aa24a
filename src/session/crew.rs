//! Futures that run in the task of a session, beside its driver: a `tokio::task::JoinSet` for those who move its bytes.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use super::{Session, Stream, rounds::Roster};

/// A member gave nothing: it panicked, and the others, and the session, go on; or the task of its session is gone with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("it panicked, or its session did")]
pub struct Panicked;

/// Futures that belong together, each in the task of a session.
///
/// They must not compute for long and never block: the whole session would wait.
///
/// # Cancellation
/// Dropping the crew drops its members, at their next turn.
pub struct Crew<T> {
    /// Of the sessions that have members.
    rosters: Vec<Roster>,
    list: List<T>,
}

/// Shared by a crew and its members.
type List<T> = Arc<Mutex<Entries<T>>>;

struct Entries<T> {
    /// Members that have not ended.
    count: usize,
    /// What those gave that have ended, until it is asked for.
    ended: VecDeque<Result<T, Panicked>>,
    /// Nobody asks any more.
    dismissed: bool,
    /// Who asks.
    asking: Option<Waker>,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { count: 0, ended: VecDeque::new(), dismissed: false, asking: None }
    }
}

impl Session {
    /// Runs `future` in the task of this session; when that is over, in a task that runs what is left of it. As with
    /// `tokio::spawn`, nobody need wait for its end; what holds for members of a [`Crew`] holds for it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        enrol(self.roster(), &List::default(), future);
    }
}

impl<T: Send + 'static> Crew<T> {
    /// A crew without members.
    pub fn new() -> Self {
        Self { rosters: Vec::new(), list: List::default() }
    }

    /// Runs `future` in the task of `session`; when that is over, in a task that runs what is left of it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(&mut self, session: &Session, future: impl Future<Output = T> + Send + 'static) {
        self.enrol(session.roster(), future);
    }

    /// As [`Self::spawn`], in the session of `stream`, which the future has.
    ///
    /// # Panics
    /// As [`Self::spawn`].
    pub fn spawn_with<F>(&mut self, stream: Stream, future: impl FnOnce(Stream) -> F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let shared = stream.shared.clone();
        self.enrol(&shared.roster, future(stream));
    }

    fn enrol(&mut self, roster: &Roster, future: impl Future<Output = T> + Send + 'static) {
        if !self.rosters.contains(roster) {
            self.rosters.retain(Roster::is_used);
            self.rosters.push(roster.clone());
        }
        enrol(roster, &self.list, future);
    }

    /// What the next member gives that ends; `None` when there is none left. Dropping the future loses nothing.
    pub async fn join_next(&mut self) -> Option<Result<T, Panicked>> {
        poll_fn(|cx| {
            let mut entries = lock(&self.list);
            match entries.ended.pop_front() {
                Some(result) => Poll::Ready(Some(result)),
                None if entries.count == 0 => Poll::Ready(None),
                None => {
                    entries.asking = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Drops all members, and waits until they are gone.
    pub async fn shutdown(&mut self) {
        self.dismiss();
        while self.join_next().await.is_some() {}
        lock(&self.list).dismissed = false;
    }
}

impl<T> Crew<T> {
    fn dismiss(&self) {
        let mut entries = lock(&self.list);
        entries.dismissed = true;
        let any = entries.count > 0;
        drop(entries);
        if any {
            self.rosters.iter().for_each(Roster::wake_everybody);
        }
    }
}

impl<T: Send + 'static> Default for Crew<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for Crew<T> {
    fn drop(&mut self) {
        self.dismiss();
    }
}

fn enrol<T: Send + 'static>(roster: &Roster, list: &List<T>, future: impl Future<Output = T> + Send + 'static) {
    lock(list).count += 1;
    let entry = Entry { list: list.clone(), result: None };
    roster.enrol(Box::pin(Member { future: Some(Box::pin(future)), entry }));
}

/// Runs until it has ended or its crew is dismissed.
struct Member<T, F> {
    future: Option<Pin<Box<F>>>,
    entry: Entry<T>,
}

/// Tells the crew when it is dropped, whatever became of its member.
struct Entry<T> {
    list: List<T>,
    result: Option<Result<T, Panicked>>,
}

impl<T, F: Future<Output = T>> Future for Member<T, F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(future) = this.future.as_mut().filter(|_| !lock(&this.entry.list).dismissed) else {
            return Poll::Ready(());
        };
        let result = match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(value)) => Ok(value),
            Err(_) => Err(Panicked),
        };
        // What it held is given back before anybody hears that it has ended.
        this.future = None;
        this.entry.result = Some(result);
        Poll::Ready(())
    }
}

impl<T, F> Unpin for Member<T, F> {}

impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        let mut entries = lock(&self.list);
        entries.count -= 1;
        if !entries.dismissed {
            entries.ended.push_back(self.result.take().unwrap_or(Err(Panicked)));
        }
        let asking = entries.asking.take();
        drop(entries);
        asking.into_iter().for_each(Waker::wake);
    }
}

/// Every change under the lock is complete by itself.
fn lock<T>(list: &List<T>) -> MutexGuard<'_, Entries<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;
    use crate::session::rounds::Rounds;

    /// A session's task whose driver never ends.
    fn task() -> (Roster, tokio::task::JoinHandle<()>) {
        let roster = Roster::default();
        (roster.clone(), tokio::spawn(Rounds::new(std::future::pending(), roster)))
    }

    #[tokio::test]
    async fn members_wake_one_another_and_give_what_they_end_with() {
        let (roster, _task) = task();
        let mut crew = Crew::new();
        let (one_tx, mut one_rx) = mpsc::channel(1);
        let (two_tx, mut two_rx) = mpsc::channel(1);
        crew.enrol(&roster, async move {
            for number in 0..1000 {
                one_tx.send(number).await.unwrap();
                assert_eq!(two_rx.recv().await, Some(number));
            }
            "asks"
        });
        crew.enrol(&roster, async move {
            while let Some(number) = one_rx.recv().await {
                two_tx.send(number).await.unwrap();
            }
            "answers"
        });
        let mut ended = [crew.join_next().await.unwrap(), crew.join_next().await.unwrap()];
        ended.sort();
        assert_eq!((ended, crew.join_next().await), ([Ok("answers"), Ok("asks")], None));
    }

    #[tokio::test]
    async fn a_member_that_panics_takes_nobody_along() {
        let (roster, _task) = task();
        let mut crew = Crew::new();
        crew.enrol(&roster, async { panic!("on purpose") });
        assert_eq!(crew.join_next().await, Some(Err(Panicked)));
        crew.enrol(&roster, async { 7 });
        assert_eq!(crew.join_next().await, Some(Ok(7)));
    }

    /// Counts how many are alive.
    struct Alive(Arc<AtomicUsize>);

    impl Alive {
        fn new(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, Ordering::SeqCst);
            Self(count.clone())
        }
    }

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn a_crew_that_is_shut_down_has_dropped_its_own_members_and_no_others() {
        let (roster, task) = task();
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut ours, mut theirs) = (Crew::new(), Crew::new());
        for crew in [&mut ours, &mut theirs] {
            let alive = Alive::new(&alive);
            crew.enrol(&roster, async move {
                std::future::pending::<()>().await;
                drop(alive);
            });
        }
        ours.shutdown().await;
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        // The task takes along who is left.
        task.abort();
        assert_eq!((theirs.join_next().await, theirs.join_next().await), (Some(Err(Panicked)), None));
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn after_the_end_of_the_task_members_run_by_themselves() {
        let roster = Roster::default();
        tokio::spawn(Rounds::new(std::future::ready(()), roster.clone())).await.unwrap();
        let mut crew = Crew::new();
        crew.enrol(&roster, async { 7 });
        assert_eq!(crew.join_next().await, Some(Ok(7)));
        crew.enrol(&roster, std::future::pending());
        crew.shutdown().await;
        assert_eq!(crew.join_next().await, None);
    }
}
