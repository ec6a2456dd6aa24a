//! Asks the lender's resolvers: over UDP, and over TCP what does not fit.
//!
//! # Security
//! Each try has an id and a source port of its own, both random, takes datagrams from the one resolver only, and only an
//! answer to its very question.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    lend::shares::Shares,
    proto::{
        UserName,
        dns::{ANSWER_BYTES_MAX, Question, Reply},
        wildcard_like,
    },
};

/// For one question, all resolvers and tries together: the default of the C library for one of them.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Times that a silent resolver is asked: datagrams get lost.
const ROUNDS: u32 = 2;
/// Questions at once, of all sessions: each holds a socket.
const PLACES: usize = 256;
/// Of those, for one user, with all of his sessions.
const PLACES_OF_USER: usize = 64;

/// The places for questions of a lender.
pub(in crate::lend) fn places() -> Shares {
    Shares::new(PLACES, PLACES_OF_USER)
}

/// The first answer, in the order of `resolvers`; a failure only where none knows better, and `None` where none says anything.
/// `write` gives the query for an id; the question takes one of the `places`, for `user`.
///
/// # Cancellation
/// The question is given up.
pub(super) async fn ask(
    places: &Shares,
    user: &UserName,
    resolvers: &[SocketAddr],
    question: &Question,
    write: impl Fn(u16) -> Option<Vec<u8>>,
) -> Option<Reply> {
    let _place = timeout(ANSWER_MAX, places.take(user)).await.ok()?;
    let tries = ROUNDS * u32::try_from(resolvers.len()).ok().filter(|count| *count > 0)?;
    let mut failure = None;
    let mut asked = resolvers.to_vec();
    for _ in 0..ROUNDS {
        let mut silent = Vec::new();
        for resolver in asked {
            match timeout(ANSWER_MAX / tries, exchange(resolver, question, &write)).await {
                Ok(Ok(reply)) if reply.is_failure() => failure = Some(reply),
                Ok(Ok(reply)) => return Some(reply),
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver"),
                Err(_) => silent.push(resolver),
            }
        }
        asked = silent;
    }
    failure
}

async fn exchange(
    resolver: SocketAddr,
    question: &Question,
    write: &impl Fn(u16) -> Option<Vec<u8>>,
) -> io::Result<Reply> {
    let query = || {
        let id = u16::from_be_bytes(crate::trust::random());
        write(id).map(|query| (id, query)).ok_or(io::ErrorKind::InvalidInput)
    };
    let (id, sent) = query()?;
    let reply = over_udp(resolver, id, &sent, question).await?;
    if !reply.is_truncated() {
        return Ok(reply);
    }
    let (id, sent) = query()?;
    over_tcp(resolver, id, &sent, question).await
}

async fn over_udp(resolver: SocketAddr, id: u16, query: &[u8], question: &Question) -> io::Result<Reply> {
    let socket = UdpSocket::bind(wildcard_like(resolver.ip())).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let datagram = buffer.get(..length).unwrap_or_default().to_vec();
        if let Some(reply) = Reply::decode(datagram, id, question) {
            return Ok(reply);
        }
        tracing::debug!(%resolver, length, "a datagram that answers something else");
    }
}

async fn over_tcp(resolver: SocketAddr, id: u16, query: &[u8], question: &Question) -> io::Result<Reply> {
    let mut socket = TcpStream::connect(resolver).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    socket.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; socket.read_u16().await?.into()];
    socket.read_exact(&mut answer).await?;
    Reply::decode(answer, id, question).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
