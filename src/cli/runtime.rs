//! The runtime of a command: its threads, or the reason why it cannot have them.

use std::panic;

use super::{descriptors, report::Failure, told};
use crate::proto::ErrorKind;

/// Threads that move bytes: with two, a ping is answered while the other encrypts.
const WORKERS: usize = 2;

/// Runs a command on a runtime of its own, in a process that keeps its memory to itself.
pub fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    hide_memory()?;
    descriptors::check_limit()?;
    let runtime = start()?;
    // It counts as a thread for what blocks, as names that are looked up. tokio panics where the system gives no thread and
    // there is none of these; with one, work waits until the system gives threads again. It ends with the command.
    let (_held_tx, held_rx) = std::sync::mpsc::channel::<()>();
    or_end(|| drop(runtime.spawn_blocking(move || held_rx.recv())));
    // One more than that, or the first name would wait for ever.
    std::thread::Builder::new().spawn(|| ()).map_err(|error| no_threads(&error.to_string()))?;
    let result = runtime.block_on(command);
    // Nobody waits for a name that is still being looked up.
    runtime.shutdown_background();
    result
}

fn start() -> Result<tokio::runtime::Runtime, Failure> {
    let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    or_end(build).map_err(|error| Failure::new(ErrorKind::Local, format!("cannot start: {error}")))
}

/// Does what tokio answers with a panic where the system gives no thread: that ends the process, with the message and the
/// status of any other failure. To unwind would be to wait for those threads that there are.
fn or_end<T>(start: impl FnOnce() -> T) -> T {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(|panicked| {
        let said = panicked.payload().downcast_ref::<String>().map_or("", String::as_str);
        let failure = told(no_threads(said.rsplit_once("thread: ").map_or(said, |(_, why)| why)));
        failure.report();
        std::process::exit(failure.code.into());
    }));
    let started = start();
    panic::set_hook(usual);
    started
}

/// A thread was refused.
pub fn no_threads(why: &str) -> Failure {
    let note = "help: end other programs of this user, or raise the limit of processes and threads (ulimit -u; in a container \
                or a unit of systemd also pids.max, TasksMax)";
    let failure = Failure::new(ErrorKind::Local, format!("cannot start a thread on this machine: {why}"));
    Failure { notes: vec![note.to_owned()], ..failure }
}

/// Keys, passwords and tickets stay in this process: it leaves no core dump, and no other process of the same user attaches
/// to it or reads it (PR_SET_DUMPABLE, prctl(2)). A program that is started from here is as any other (execve(2)).
///
/// Not before a namespace is entered: the files in /proc of such a process are root's, and ids could not be mapped.
fn hide_memory() -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(|error| {
        Failure::new(ErrorKind::Local, format!("cannot keep this process's memory to itself: {error}"))
    })
}
