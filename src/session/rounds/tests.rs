use std::{future::poll_fn, sync::atomic::AtomicU64, task::ready};

use tokio::sync::mpsc;

use super::*;

/// Does something that takes budget again and again, and says how often it did.
fn busy(count: &Arc<AtomicU64>) -> impl Future<Output = ()> + Send + use<> {
    let count = count.clone();
    async move {
        loop {
            coop::consume_budget().await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// As a driver does: one thing for each turn.
fn driver(count: &Arc<AtomicU64>) -> impl Future<Output = ()> + Send + Unpin + use<> {
    let count = count.clone();
    poll_fn(move |cx| {
        ready!(coop::poll_proceed(cx)).made_progress();
        count.fetch_add(1, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

#[tokio::test]
async fn who_never_waits_leaves_the_others_their_turns() {
    let roster = Roster::default();
    let counts: [Arc<AtomicU64>; 4] = Default::default();
    let [driven, flood, other_flood, quiet] = &counts;
    for member in [flood, other_flood] {
        roster.enrol(Box::pin(busy(member)));
    }
    // One that does one thing at a time, and is woken from outside.
    let (turn_tx, mut turn_rx) = tokio::sync::mpsc::channel(1);
    let counted = quiet.clone();
    roster.enrol(Box::pin(async move {
        while turn_rx.recv().await.is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let task = tokio::spawn(Rounds::new(driver(driven), roster));
    for _ in 0..1000 {
        turn_tx.send(()).await.unwrap();
        tokio::task::yield_now().await;
    }
    task.abort();
    let [driven, flood, other_flood, quiet] = counts.map(|count| count.load(Ordering::Relaxed));
    assert!(quiet >= 999, "{quiet} turns of the quiet one");
    assert!(flood > 1000 && other_flood > 1000, "{flood} and {other_flood} of the floods");
    assert!(flood < 2 * other_flood && other_flood < 2 * flood, "{flood} and {other_flood} of the floods");
    let turns = (flood + other_flood) / 128;
    assert!(driven >= turns / 2, "{driven} turns of the driver in {turns} or more of the task");
}

/// What happened, in order.
type Notes = Arc<Mutex<Vec<&'static str>>>;

fn note(notes: &Notes, what: &'static str) {
    notes.lock().unwrap().push(what);
}

/// Notes each of its turns, and wakes whoever is told once it is awake; it waits for the next wake-up in between.
fn noting(notes: &Notes, what: &'static str) -> impl Future<Output = ()> + Send + Unpin + use<> {
    let notes = notes.clone();
    poll_fn(move |_| {
        note(&notes, what);
        Poll::Pending
    })
}

/// Polls the task once, as the runtime does: with a budget of its own.
async fn turn<D: Future<Output = ()> + Unpin>(rounds: &mut Rounds<D>) -> Poll<()> {
    tokio::task::yield_now().await;
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *rounds).poll(cx))).await
}

/// Wakes the member or the driver whose waker this is, from outside.
#[derive(Clone, Default)]
struct Bell(Arc<Mutex<Option<Waker>>>);

impl Bell {
    fn ring(&self) {
        self.0.lock().unwrap().as_ref().unwrap().wake_by_ref();
    }

    fn hangs_at<F: Future<Output = ()> + Send + Unpin>(
        &self,
        mut whose: F,
    ) -> impl Future<Output = ()> + Send + Unpin + use<F> {
        let bell = self.clone();
        poll_fn(move |cx| {
            *bell.0.lock().unwrap() = Some(cx.waker().clone());
            Pin::new(&mut whose).poll(cx)
        })
    }
}

#[tokio::test]
async fn members_have_their_turns_in_the_order_in_which_they_were_woken_and_the_driver_the_last() {
    let (notes, roster) = (Notes::default(), Roster::default());
    let [one, two, three, driver]: [Bell; 4] = Default::default();
    for (bell, name) in [(&one, "one"), (&two, "two"), (&three, "three")] {
        roster.enrol(Box::pin(bell.hangs_at(noting(&notes, name))));
    }
    let mut rounds = Rounds::new(driver.hangs_at(noting(&notes, "driver")), roster);
    assert!(turn(&mut rounds).await.is_pending());
    assert_eq!(std::mem::take(&mut *notes.lock().unwrap()), ["one", "two", "three", "driver"]);
    for bell in [&driver, &three, &one, &three] {
        bell.ring();
    }
    assert!(turn(&mut rounds).await.is_pending());
    assert_eq!(
        std::mem::take(&mut *notes.lock().unwrap()),
        ["three", "one", "driver"],
        "each once, and two not at all"
    );
    assert!(turn(&mut rounds).await.is_pending());
    assert!(notes.lock().unwrap().is_empty(), "nobody was woken");
}

#[tokio::test]
async fn who_is_woken_by_another_member_is_polled_in_the_next_round_before_the_task_ends_its_turn() {
    let (notes, roster) = (Notes::default(), Roster::default());
    let (second, driver) = (Bell::default(), Bell::default());
    roster.enrol(Box::pin(second.hangs_at(noting(&notes, "second"))));
    let (rings, noted) = ([second.clone(), driver.clone()], notes.clone());
    let mut first = true;
    roster.enrol(Box::pin(poll_fn(move |cx| {
        note(&noted, "first");
        if std::mem::take(&mut first) {
            rings[0].ring();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })));
    let mut rounds = Rounds::new(driver.hangs_at(noting(&notes, "driver")), roster);
    assert!(turn(&mut rounds).await.is_pending());
    // The driver has nothing to do in the second round: nobody woke it.
    assert_eq!(*notes.lock().unwrap(), ["second", "first", "driver", "second", "first"]);
}

#[tokio::test]
async fn behind_one_who_used_up_the_budget_the_driver_is_next_and_then_those_who_had_no_turn() {
    let (notes, roster) = (Notes::default(), Roster::default());
    let noted = notes.clone();
    roster.enrol(Box::pin(async move {
        loop {
            note(&noted, "flood");
            while coop::has_budget_remaining() {
                coop::consume_budget().await;
            }
            coop::consume_budget().await;
        }
    }));
    for name in ["one", "two"] {
        roster.enrol(Box::pin(noting(&notes, name)));
    }
    let mut rounds = Rounds::new(noting(&notes, "driver"), roster);
    assert!(turn(&mut rounds).await.is_pending());
    assert_eq!(std::mem::take(&mut *notes.lock().unwrap()), ["flood"]);
    assert!(turn(&mut rounds).await.is_pending());
    assert_eq!(*notes.lock().unwrap(), ["driver", "one", "two", "flood"], "the flood has woken itself, behind them");
}

#[tokio::test]
async fn members_that_wake_one_another_for_ever_without_a_budget_leave_the_worker_to_others() {
    let roster = Roster::default();
    let turns = Arc::new(AtomicU64::new(0));
    for _ in 0..2 {
        let turns = turns.clone();
        roster.enrol(Box::pin(poll_fn(move |cx| {
            turns.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::Pending
        })));
    }
    let mut rounds = Rounds::new(std::future::pending(), roster);
    assert!(turn(&mut rounds).await.is_pending());
    assert_eq!(turns.load(Ordering::Relaxed), 2 * ROUNDS_MAX as u64, "then somebody else is asked");
    let task = tokio::spawn(rounds);
    // On this runtime there is one worker, which both need.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert!(turns.load(Ordering::Relaxed) > 2 * ROUNDS_MAX as u64);
    task.abort();
}

#[tokio::test]
async fn who_enrols_others_without_an_end_keeps_neither_them_nor_the_driver_from_their_turns() {
    let (roster, joined, driven) = (Roster::default(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (to, count) = (roster.clone(), joined.clone());
    roster.enrol(Box::pin(poll_fn(move |cx| {
        let count = count.clone();
        to.enrol(Box::pin(async move { _ = count.fetch_add(1, Ordering::Relaxed) }));
        cx.waker().wake_by_ref();
        Poll::Pending
    })));
    let mut rounds = Rounds::new(driver(&driven), roster);
    for _ in 0..100 {
        assert!(turn(&mut rounds).await.is_pending());
    }
    let [joined, driven] = [joined, driven].map(|count| count.load(Ordering::Relaxed));
    assert!(joined >= 100 * (ROUNDS_MAX as u64 - 1) && driven >= 100, "{joined} joined, {driven} turns of the driver");
    assert!(rounds.members.len() <= 3, "whose seats are used again: {}", rounds.members.len());
}

#[tokio::test]
async fn members_go_on_without_a_driver_and_the_task_ends_with_the_last_of_them() {
    let roster = Roster::default();
    let (go_tx, mut go_rx) = mpsc::channel::<()>(1);
    roster.enrol(Box::pin(async move { _ = go_rx.recv().await }));
    let task = tokio::spawn(Rounds::new(std::future::ready(()), roster.clone()));
    tokio::task::yield_now().await;
    assert!(!task.is_finished());
    go_tx.send(()).await.unwrap();
    task.await.unwrap();
    // Who comes then has a task of its own.
    let (done_tx, done_rx) = tokio::sync::oneshot::channel();
    roster.enrol(Box::pin(async move { _ = done_tx.send(()) }));
    done_rx.await.unwrap();
}
