//! Several futures in one task: the driver of a session, and those who move bytes for it.
//!
//! A wake-up from one task to another goes through the scheduler, and often to another worker on a core that has to be
//! woken first: it cost a bulk forward more than its encryption. Between members of one task it costs a flag.
//!
//! ```text
//!   poll ─▶ round: members that were woken, each once ─▶ driver, if anybody woke it ─▶ round … until nobody is awake
//! ```
//! The driver comes last, so that what several members have written leaves together. A session is so one task, and one
//! session uses one core; many sessions use all of them.
//!
//! tokio gives a task a budget for each of its turns, and without it no socket is ready for anybody. One member that never
//! waits, such as one whose socket is flooded, may use up all of it: then the next turn begins with the driver, and goes on with
//! those members who had none.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::task::coop;

/// Rounds before the other tasks of the worker, and the sockets, have their turn: a round moves a batch for each member.
const ROUNDS_MAX: usize = 16;
/// In place of a member's number: the driver.
const DRIVER: usize = usize::MAX;

/// Lets the driver send what was written, and the other members have their turn, before who calls it goes on: what it has to
/// do next is nothing that the peer should wait for.
pub async fn let_driver_send() {
    let mut had_its_turn = false;
    poll_fn(|cx| {
        if mem::replace(&mut had_its_turn, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What runs beside a driver.
pub(super) type Member = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where members are enrolled, from any thread.
#[derive(Clone, Default)]
pub(super) struct Roster(Arc<Mutex<Board>>);

impl PartialEq for Roster {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[derive(Default)]
struct Board {
    /// Members that were woken, each once.
    woken: Vec<usize>,
    enrolled: Vec<Member>,
    /// All members have their turn, whoever was woken.
    everybody: bool,
    /// Of the task, while nobody is awake in it.
    task: Option<Waker>,
    /// The last round is over.
    closed: bool,
}

impl Roster {
    /// Runs `member` in the task, or in a new one when that has ended already.
    ///
    /// # Panics
    /// Outside of a tokio runtime, when the task has ended.
    pub(super) fn enrol(&self, member: Member) {
        let mut board = self.board();
        board.enrolled.push(member);
        let ended = mem::take(&mut board.closed);
        let task = board.task.take();
        drop(board);
        if ended {
            tokio::spawn(Rounds::new(std::future::ready(()), self.clone()));
        }
        task.into_iter().for_each(Waker::wake);
    }

    /// Gives every member a turn, so that each sees that it is dismissed.
    pub(super) fn wake_everybody(&self) {
        let mut board = self.board();
        board.everybody = true;
        let task = board.task.take();
        drop(board);
        task.into_iter().for_each(Waker::wake);
    }

    /// Whether anybody but the caller may still run members of it, or add some.
    pub(super) fn is_used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Every change under the lock is complete by itself.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a session.
pub(super) struct Rounds<D> {
    driver: Option<D>,
    driver_alarm: Arc<Alarm>,
    driver_waker: Waker,
    members: Vec<Option<Seat>>,
    free: Vec<usize>,
    /// Who has a turn in this round, or had none in the last one.
    turn: VecDeque<usize>,
    roster: Roster,
    /// The last turn of the task was over before the driver's.
    driver_waits: bool,
    /// The last round is over, and the roster may be another task's.
    over: bool,
}

struct Seat {
    member: Member,
    alarm: Arc<Alarm>,
    waker: Waker,
}

/// Wakes one member. One that outlives its member wakes whoever has its seat then, which costs a poll.
struct Alarm {
    index: usize,
    rung: AtomicBool,
    roster: Roster,
}

impl Alarm {
    fn new(index: usize, roster: &Roster) -> (Arc<Self>, Waker) {
        let alarm = Arc::new(Self { index, rung: AtomicBool::new(true), roster: roster.clone() });
        (alarm.clone(), Waker::from(alarm))
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut board = self.roster.board();
        if self.index != DRIVER {
            board.woken.push(self.index);
        }
        let task = board.task.take();
        drop(board);
        task.into_iter().for_each(Waker::wake);
    }
}

impl<D: Future<Output = ()> + Unpin> Rounds<D> {
    pub(super) fn new(driver: D, roster: Roster) -> Self {
        let (driver_alarm, driver_waker) = Alarm::new(DRIVER, &roster);
        let (members, free, turn) = (Vec::new(), Vec::new(), VecDeque::new());
        let (driver, driver_waits, over) = (Some(driver), false, false);
        Self { driver, driver_alarm, driver_waker, members, free, turn, roster, driver_waits, over }
    }

    /// Whether there is a round to do. If not, whoever is woken next wakes the task, or the task is over.
    fn gather(&mut self, cx: &Context<'_>) -> bool {
        let roster = self.roster.clone();
        let mut board = roster.board();
        board.task = None;
        // Behind those who had no turn.
        self.turn.extend(board.woken.drain(..));
        if mem::take(&mut board.everybody) {
            self.turn = (0..self.members.len()).collect();
        }
        for member in board.enrolled.drain(..) {
            let index = self.free.pop().unwrap_or(self.members.len());
            let (alarm, waker) = Alarm::new(index, &roster);
            let seat = Some(Seat { member, alarm, waker });
            match self.members.get_mut(index) {
                Some(empty) => *empty = seat,
                None => self.members.push(seat),
            }
            self.turn.push_back(index);
        }
        let idle = self.turn.is_empty() && (self.driver.is_none() || !self.driver_alarm.rung.load(Ordering::Acquire));
        if idle && self.driver.is_none() && self.free.len() == self.members.len() {
            (self.over, board.closed) = (true, true);
        } else if idle {
            board.task = Some(cx.waker().clone());
        }
        !idle
    }

    /// Gives a turn to whoever is awake, until the budget is used up; `false` then.
    fn round(&mut self) -> bool {
        while let Some(index) = self.turn.pop_front() {
            self.poll_member(index);
            // Without it nothing is ready for the next one.
            if !coop::has_budget_remaining() {
                return false;
            }
        }
        self.poll_driver();
        coop::has_budget_remaining()
    }

    fn poll_member(&mut self, index: usize) {
        let Some(place) = self.members.get_mut(index) else { return };
        let Some(Seat { member, alarm, waker }) = place else { return };
        // Before it looks: what happens while it does must wake it again.
        alarm.rung.swap(false, Ordering::AcqRel);
        if member.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
            *place = None;
            self.free.push(index);
        }
    }

    fn poll_driver(&mut self) {
        if self.driver_alarm.rung.swap(false, Ordering::AcqRel)
            && let Some(driver) = &mut self.driver
            && Pin::new(driver).poll(&mut Context::from_waker(&self.driver_waker)).is_ready()
        {
            self.driver = None;
        }
    }
}

impl<D: Future<Output = ()> + Unpin> Future for Rounds<D> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if mem::take(&mut this.driver_waits) {
            this.poll_driver();
        }
        for _ in 0..ROUNDS_MAX {
            if !this.gather(cx) {
                return if this.over { Poll::Ready(()) } else { Poll::Pending };
            }
            if !this.round() {
                this.driver_waits = true;
                break;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<D> Drop for Rounds<D> {
    /// A task that is dropped takes along whoever was about to join it.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut board = self.roster.board();
        board.closed = true;
        let late = mem::take(&mut board.enrolled);
        drop(board);
        drop(late);
    }
}

#[cfg(test)]
mod tests;
