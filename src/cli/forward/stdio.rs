//! `-W`: stdin and stdout are one connection, as a program that starts us for its transport expects.
//!
//! Each half ends alone: the end of stdin ends ours, and the target's end closes stdout.

use std::io;

use tokio::io::{AsyncWriteExt, BufReader, copy_buf, stdin, stdout};

use crate::{
    Borrower, OwnedReadHalf, OwnedWriteHalf,
    cli::report::{Failure, of_stdout},
    proto::{ErrorKind, Target},
    session::{Ended, TakenBack},
    sys,
};

/// Moved at once, in bytes: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// Connects, and carries bytes until both directions have ended.
pub async fn run(borrower: &Borrower, target: &Target) -> Result<(), Failure> {
    let (reader, writer) = borrower.tcp_connect_to(target).await?.into_split();
    let down = async { down(reader).await.map_err(|error| failure(target, error)) };
    let up = async {
        // A target that reads no more may still have something to say.
        let _ = up(writer).await;
        Ok(())
    };
    tokio::try_join!(up, down).map(drop)
}

async fn up(mut writer: OwnedWriteHalf) -> io::Result<()> {
    copy_buf(&mut BufReader::with_capacity(CHUNK_BYTES, stdin()), &mut writer).await?;
    writer.shutdown().await
}

/// Which end failed.
enum Broken {
    Stream(io::Error),
    Stdout(io::Error),
}

async fn down(reader: OwnedReadHalf) -> Result<(), Broken> {
    use tokio::io::AsyncBufReadExt;
    let (mut reader, mut stdout) = (BufReader::with_capacity(CHUNK_BYTES, reader), stdout());
    loop {
        let bytes = reader.fill_buf().await.map_err(Broken::Stream)?;
        if bytes.is_empty() {
            return sys::close_stdout().map_err(Broken::Stdout);
        }
        let length = bytes.len();
        stdout.write_all(bytes).await.map_err(Broken::Stdout)?;
        stdout.flush().await.map_err(Broken::Stdout)?;
        reader.consume(length);
    }
}

fn failure(target: &Target, broken: Broken) -> Failure {
    match broken {
        Broken::Stdout(error) => of_stdout(&error),
        Broken::Stream(error) => {
            let inner = error.get_ref();
            let ended = inner.and_then(|inner| inner.downcast_ref::<Ended>()).map(|ended| ended.kind);
            let kind = ended.or(TakenBack::of(&error).map(|taken| taken.0)).unwrap_or(ErrorKind::Target);
            Failure::new(kind, format!("the connection to {target} failed: {error}"))
        }
    }
}
