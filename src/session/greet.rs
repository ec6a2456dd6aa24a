//! The exchange before the first stream: one message a frame, small frames only, and a deadline over all of it.

use std::time::Duration;

use bytes::BytesMut;
use minicbor::{Decode, Encode};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

use super::{Ended, close_gently};
use crate::proto::{Frame, FrameReader, HANDSHAKE_BYTES_MAX, Header, Kind, ProtocolError, StreamId, message};

/// A connection on which greeting, login or join are spoken.
pub struct Greeter<C> {
    connection: C,
    reader: FrameReader,
}

/// Why the exchange ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GreetError {
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The peer sent something else than the message that was due.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The peer ended it, and said why.
    #[error(transparent)]
    Ended(Ended),
    /// The message that was due did not come in time.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
}

impl<C: AsyncBufRead + AsyncWrite + Unpin> Greeter<C> {
    /// Begins on a connection whose TLS handshake is over.
    pub fn new(connection: C) -> Self {
        Self { connection, reader: FrameReader::with_payload_max(HANDSHAKE_BYTES_MAX) }
    }

    /// The connection, to look at.
    pub fn connection(&self) -> &C {
        &self.connection
    }

    /// The connection, for the session that follows; nothing that belongs to it has been read.
    pub fn into_inner(self) -> C {
        self.connection
    }

    /// Sends messages, each in a frame of its own, together.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send<M: Encode<()>>(&mut self, messages: &[M]) -> Result<(), GreetError> {
        let mut out = BytesMut::new();
        for body in messages.iter().map(message::encode) {
            put_frame(&mut out, Kind::Data, &body);
        }
        self.connection.write_all(&out).await?;
        Ok(self.connection.flush().await?)
    }

    /// The peer's next message, within `deadline`; `what` names it in errors.
    ///
    /// # Errors
    /// See [`GreetError`].
    pub async fn receive<M>(&mut self, what: &'static str, deadline: Duration) -> Result<M, GreetError>
    where
        M: for<'b> Decode<'b, ()>,
    {
        let received = tokio::time::timeout(deadline, self.receive_frame(what));
        match received.await.unwrap_or(Err(GreetError::Late(deadline)))? {
            Frame::Data { stream: StreamId::SESSION, payload, .. } => Ok(message::decode(what, &payload)?),
            Frame::Goaway(goaway) => {
                Err(GreetError::Ended(Ended { kind: goaway.kind, text: goaway.text, by_peer: true }))
            }
            Frame::Data { stream, .. } => {
                let got = format!("stream {stream}; log in first");
                Err(ProtocolError::Unexpected { expected: what, got }.into())
            }
            other => Err(ProtocolError::Unexpected { expected: what, got: format!("{other:?}") }.into()),
        }
    }

    /// Ends the connection with a word about why; the peer gets a moment to read it.
    pub async fn farewell(mut self, ended: &Ended) {
        let goaway = crate::proto::Goaway { kind: ended.kind, text: ended.text.clone() };
        let mut last_words = BytesMut::new();
        put_frame(&mut last_words, Kind::Goaway, &goaway.encode());
        close_gently(&mut self.connection, &last_words).await;
    }

    async fn receive_frame(&mut self, what: &'static str) -> Result<Frame, GreetError> {
        loop {
            let bytes = self.connection.fill_buf().await?;
            if bytes.is_empty() {
                let error =
                    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("it closed before its {what}"));
                return Err(error.into());
            }
            let (taken, frame) = self.reader.read(bytes)?;
            self.connection.consume(taken);
            if let Some(frame) = frame {
                return Ok(frame);
            }
        }
    }
}

/// Writes a frame of the session itself. What is said here is far shorter than a frame may be.
fn put_frame(out: &mut BytesMut, kind: Kind, body: &[u8]) {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let header = Header { stream: StreamId::SESSION, kind, syn: false, fin: false, length };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(body);
}
