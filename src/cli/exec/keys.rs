//! The keys of a terminal, on their way to a program: those that mean us are heard whether it takes the others or not.

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::{
    escape_keys::{EscapeKeys, Typed},
    streams::Input,
};
use crate::{ChildStdin, borrow::ProgramStream, session::let_driver_send};

/// What was typed, or pasted, and waits here for a program that does not take it, in bytes; nothing more is read then, nor
/// `~.` heard. As much as OpenSSH lets be under way on a channel.
const WAITING_BYTES_MAX: usize = 2 << 20;

/// What the keys of a terminal may do besides being typed.
pub struct Keys {
    typed: EscapeKeys,
    /// Asks to be suspended, and to be told when that is over.
    suspend_tx: mpsc::Sender<oneshot::Sender<()>>,
    /// What `~#` tells.
    held: String,
}

impl Keys {
    /// With the character that steers the session, a way to suspend it, and what it holds.
    pub fn new(escape: Option<u8>, suspend_tx: mpsc::Sender<oneshot::Sender<()>>, held: String) -> Self {
        Self { typed: EscapeKeys::new(escape), suspend_tx, held }
    }

    /// Feeds the program what is typed; `true` if the keys say that this is the end.
    pub async fn pass_on(mut self, stdin: ChildStdin, mut input: Input) -> bool {
        let (mut waiting, mut more) = (Waiting::default(), true);
        while more || !waiting.is_empty() {
            let (waits, has_room) = (!waiting.is_empty(), waiting.has_room());
            let bytes = tokio::select! {
                biased;
                () = waiting.write_to(&stdin), if waits => continue,
                bytes = input.read(), if more && has_room => bytes,
            };
            match bytes {
                Some(Ok(bytes)) => {
                    if self.take(&bytes, &mut waiting, &stdin).await {
                        return true;
                    }
                    let_driver_send().await;
                }
                // One that has gone.
                Some(Err(_)) | None => more = false,
            }
        }
        false
    }

    /// Takes what was typed; `true` if that is the end.
    async fn take(&mut self, bytes: &[u8], waiting: &mut Waiting, stdin: &ChildStdin) -> bool {
        for typed in self.typed.take(bytes) {
            match typed {
                Typed::Bytes(bytes) => {
                    waiting.behind.extend_from_slice(&bytes);
                    // What stands before a key for us is the program's before that key counts, where it can be.
                    let write = waiting.write_to(stdin);
                    tokio::select! {
                        biased;
                        () = write => {}
                        () = std::future::ready(()) => {}
                    }
                }
                Typed::End => {
                    tell(&self.typed.echo("."));
                    return true;
                }
                Typed::Help => tell(&(self.typed.echo("?") + &self.typed.help())),
                Typed::List => tell(&(self.typed.echo("#") + &self.held)),
                Typed::Suspend => {
                    tell(&self.typed.echo("^Z"));
                    let (done_tx, done_rx) = oneshot::channel();
                    if self.suspend_tx.send(done_tx).await.is_ok() {
                        let _ = done_rx.await;
                    }
                }
            }
        }
        false
    }
}

/// What the program is to read, in order.
#[derive(Default)]
struct Waiting {
    first: Bytes,
    behind: BytesMut,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.behind.is_empty()
    }

    fn has_room(&self) -> bool {
        self.first.len() + self.behind.len() < WAITING_BYTES_MAX
    }

    /// Writes what there is. Of a program that reads no more, nothing waits.
    ///
    /// # Cancellation
    /// What was not written still waits.
    async fn write_to(&mut self, stdin: &ChildStdin) {
        while !self.is_empty() {
            if self.first.is_empty() {
                self.first = self.behind.split().freeze();
            }
            if stdin.stream().write_rest(&mut self.first).await.is_err() {
                // `~.` still ends it.
                *self = Self::default();
            }
        }
    }
}

/// For the person at the keys, and not in what the program wrote.
fn tell(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
}
