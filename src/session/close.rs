//! The end of a connection whose last words must arrive.

use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

/// How long the peer may take to read the last words and close.
const MOMENT: Duration = Duration::from_secs(2);

/// Says `last_words`, closes our side, and reads until the peer closes its own or two seconds are over: closing a socket
/// that has unread bytes would reset it, and the peer might never read what was said last.
pub async fn close_gently<C: AsyncBufRead + AsyncWrite + Unpin>(connection: &mut C, last_words: &[u8]) {
    // Whatever fails now, there is nobody left to tell.
    let _ = tokio::time::timeout(MOMENT, async {
        connection.write_all(last_words).await?;
        connection.shutdown().await?;
        loop {
            match connection.fill_buf().await?.len() {
                0 => return Ok::<_, std::io::Error>(()),
                length => connection.consume(length),
            }
        }
    })
    .await;
}
