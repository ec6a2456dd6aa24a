//! A local proxy whose connections are made by the lender: the library's side of `capuchin forward -D`.
//!
//! ```text
//!   first byte   5  SOCKS5 (RFC 1928), without authentication
//!                4  SOCKS4 and 4a
//!           letter  HTTP/1: CONNECT, and requests with an absolute URL, one a connection
//! ```
//! Names are resolved by the lender. What the lender answers becomes the reply of the protocol that was spoken.
//!
//! # Security
//! Whoever reaches the port borrows as this user, as with `ssh -D`: it is loopback unless the user says otherwise. Until a
//! client has said where to, it is bounded in bytes, in time, and in number.

mod http;
mod outcome;
mod socks;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, Interest},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use self::outcome::Outcome;
use super::{
    BorrowError, Borrower,
    endpoint::Endpoint,
    forward::still_lent,
    local::{LocalListener, LocalSocket},
    tcp::connect,
};
use crate::{
    proto::{Errno, ErrorKind, Refusal, Target, TcpConnected},
    session::{Meter, close_gently, relay},
};

/// From the connection to the end of what says where to.
const GREETING_MAX: Duration = Duration::from_secs(20);
/// All of it, in bytes: what web servers take of a request's head.
const GREETING_BYTES_MAX: usize = 16 * 1024;
/// Clients that have not said where to yet.
const GREETINGS_MAX: usize = 1024;
/// How long a client that sends no more, or more than there is room for, is taken to wait for its connection: one that is
/// closed looks the same.
const ENDED_MAX: Duration = Duration::from_secs(30);
/// A client that does not read its reply.
const REPLY_MAX: Duration = Duration::from_secs(20);

/// A bound local port that speaks SOCKS and HTTP, and is not served yet.
pub struct Proxy {
    listener: LocalListener,
    local: Endpoint,
    borrower: Borrower,
}

impl Proxy {
    /// Binds a local port; port 0 picks one.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// let proxy = capuchin::Proxy::bind(&lab, "127.0.0.1:0".parse()?).await?;
    /// println!("set ALL_PROXY to socks5h://{}", proxy.local());
    /// let serving = tokio::spawn(proxy.serve(|failure| eprintln!("{failure}")));
    /// // Aborting it closes the port and every connection.
    /// serving.abort();
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn bind(borrower: &Borrower, local: SocketAddr) -> Result<Self, BorrowError> {
        let (listener, local) = LocalListener::bind(&local.into()).await?;
        Ok(Self { listener, local, borrower: borrower.clone() })
    }

    /// What programs connect to, with the port that was picked.
    pub fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Serves clients until the session is over, and says why it is. `failed` hears of each connection that the lender did
    /// not make.
    ///
    /// # Cancellation
    /// Dropping the future closes the port and every connection.
    pub async fn serve(self, failed: impl FnMut(&BorrowError)) -> BorrowError {
        let Self { listener, borrower, .. } = self;
        let places = Arc::new(Semaphore::new(GREETINGS_MAX));
        let carry = |socket| {
            let (borrower, places) = (borrower.clone(), places.clone());
            async move {
                // A proxy is bound to TCP alone, and its places are never closed.
                let (LocalSocket::Tcp(socket), Ok(place)) = (socket, places.acquire_owned().await) else {
                    return Ok(());
                };
                Client { borrower, socket }.serve(place).await
            }
        };
        listener.serve(&borrower, carry, failed).await
    }
}

/// What a client said.
enum Word {
    /// More bytes are needed.
    More,
    /// Say this, and hear on.
    Say(Vec<u8>),
    /// Connect.
    Connect(Wish),
    /// Say this, and end.
    End(Vec<u8>),
}

/// Where a client wants to go.
struct Wish {
    target: Target,
    speech: Speech,
    /// What goes to the target first.
    first: Bytes,
}

/// What is spoken, for the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Socks5,
    Socks4,
    HttpConnect,
    /// The target's own answer is the reply.
    HttpRequest,
}

impl Speech {
    fn yes(self, connected: &TcpConnected) -> Vec<u8> {
        match self {
            Self::Socks5 => socks::reply5(socks::GRANTED, connected.local.0),
            Self::Socks4 => socks::reply4(true),
            Self::HttpConnect => http::ESTABLISHED.to_vec(),
            Self::HttpRequest => Vec::new(),
        }
    }

    fn no(self, outcome: Outcome) -> Vec<u8> {
        match self {
            Self::Socks5 => socks::reply5(outcome.socks5(), SocketAddr::from(([0, 0, 0, 0], 0))),
            Self::Socks4 => socks::reply4(false),
            Self::HttpConnect | Self::HttpRequest => http::failure(outcome.http()),
        }
    }
}

/// Reads on where the last word ended.
enum Hearing {
    Unknown,
    Socks5Request,
}

impl Hearing {
    /// Takes what is whole from `heard`.
    fn next(&mut self, heard: &mut BytesMut) -> Word {
        match (&self, heard.first()) {
            (_, None) => Word::More,
            (Self::Socks5Request, _) => socks::request5(heard),
            (Self::Unknown, Some(5)) => match socks::methods5(heard) {
                Word::Say(reply) => {
                    *self = Self::Socks5Request;
                    Word::Say(reply)
                }
                other => other,
            },
            (Self::Unknown, Some(4)) => socks::request4(heard),
            (Self::Unknown, Some(b'A'..=b'Z')) => http::request(heard),
            (Self::Unknown, Some(_)) => Word::End(Vec::new()),
        }
    }
}

struct Client {
    borrower: Borrower,
    socket: TcpStream,
}

impl Client {
    async fn serve(mut self, place: OwnedSemaphorePermit) -> Result<(), BorrowError> {
        let mut heard = BytesMut::new();
        // One that says nothing, or nonsense, is nobody's failure.
        let Ok(Some(wish)) = timeout(GREETING_MAX, self.hear(&mut heard)).await else { return Ok(()) };
        drop(place);
        let Wish { target, speech, first } = wish;
        let opened = tokio::select! {
            opened = Box::pin(connect(&self.borrower, &target)) => opened,
            waited = waits(&mut self.socket, &mut heard) => match waited {
                Waited::Gone => return Ok(()),
                Waited::Enough => Err(too_late(&self.borrower, &target)),
            },
        };
        let (stream, connected) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.end(&speech.no(Outcome::of(&error))).await;
                return Err(error);
            }
        };
        if !self.say(&speech.yes(&connected)).await {
            return Ok(());
        }
        for bytes in [first, heard.freeze()] {
            // A stream that takes no more says why in the relay.
            let _ = stream.write_all_bytes(bytes).await;
        }
        Box::pin(relay(self.socket, &stream, &Meter::default())).await;
        still_lent(&stream, &self.borrower, &target)
    }

    /// Hears where it wants to go; `None` when it does not say. What it sent behind that stays in `heard`.
    async fn hear(&mut self, heard: &mut BytesMut) -> Option<Wish> {
        let mut hearing = Hearing::Unknown;
        loop {
            match hearing.next(heard) {
                Word::Connect(wish) => return Some(wish),
                Word::Say(reply) => self.socket.write_all(&reply).await.ok()?,
                Word::End(reply) => {
                    self.end(&reply).await;
                    return None;
                }
                Word::More if heard.len() >= GREETING_BYTES_MAX => {
                    self.end(&http::failure(http::TOO_LONG)).await;
                    return None;
                }
                Word::More => {
                    let room = GREETING_BYTES_MAX - heard.len();
                    if (&mut self.socket).take(room as u64).read_buf(heard).await.ok()? == 0 {
                        return None;
                    }
                }
            }
        }
    }

    /// Says its last words, so that they arrive.
    async fn end(&mut self, reply: &[u8]) {
        close_gently(&mut BufReader::new(&mut self.socket), reply).await;
    }

    /// `false` when it does not take it.
    async fn say(&mut self, reply: &[u8]) -> bool {
        matches!(timeout(REPLY_MAX, self.socket.write_all(reply)).await, Ok(Ok(())))
    }
}

/// How it ended that a client waited to be connected.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    /// It has gone.
    Gone,
    /// It may be there or not, and that for [`ENDED_MAX`].
    Enough,
}

/// What a client sends that waits to be connected goes behind `heard`. The end of that is no end of the client, who may wait
/// for the answer: whether it reads on is not to be seen before something is written to it, nor, once there is no room, whether
/// its end has come.
async fn waits(socket: &mut TcpStream, heard: &mut BytesMut) -> Waited {
    loop {
        let room = GREETING_BYTES_MAX.saturating_sub(heard.len());
        match (&mut *socket).take(room as u64).read_buf(heard).await {
            Ok(0) => break,
            Err(_) => return Waited::Gone,
            Ok(_) => {}
        }
    }
    timeout(ENDED_MAX, socket.ready(Interest::ERROR)).await.map_or(Waited::Enough, |_| Waited::Gone)
}

fn too_late(borrower: &Borrower, target: &Target) -> BorrowError {
    let text = format!("it did not answer within {} s, and the client sends no more", ENDED_MAX.as_secs());
    let refusal = Refusal::new(ErrorKind::Target, text).with_errno(Some(Errno::ETIMEDOUT));
    BorrowError::refused(borrower.host(), &target.to_string(), &refusal)
}

#[cfg(test)]
mod tests;
