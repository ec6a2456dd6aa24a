//! `-W`: stdin and stdout are one connection, as a program that starts us for its transport expects.
//!
//! Each half ends alone: the end of stdin ends ours, and the target's end closes stdout.

use std::io;

use tokio::io::{AsyncWriteExt, BufReader, stdout};

use crate::{
    Borrower, OwnedReadHalf, OwnedWriteHalf,
    cli::{
        exec::streams::Input,
        report::{Failure, of_stdin, of_stdout},
        runtime::no_threads,
    },
    proto::{ErrorKind, Target},
    session::{Ended, TakenBack},
    sys,
};

/// Moved at once, in bytes: what a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// Connects, and carries bytes until both directions have ended and the lender has what was sent.
pub async fn run(borrower: &Borrower, target: &Target) -> Result<(), Failure> {
    let (reader, writer) = borrower.tcp_connect_to(target).await?.into_split();
    let down = async { down(reader).await.map_err(|error| failure(target, error)) };
    tokio::try_join!(up(writer), down)?;
    // A target that has ended its half first still reads, and this process does not end before everything is on its way there.
    Ok(borrower.clone().close().await?)
}

/// Sends what stdin gives. A target that reads no more may still have something to say.
///
/// # Errors
/// Stdin cannot be read to its end, which the target is not told as one.
async fn up(mut writer: OwnedWriteHalf) -> Result<(), Failure> {
    let mut stdin = Input::open().map_err(|error| no_threads(&error.to_string()))?;
    while let Some(bytes) = stdin.read().await {
        let bytes = bytes.map_err(|error| {
            writer.reset();
            of_stdin(&error)
        })?;
        if writer.write_all(&bytes).await.is_err() {
            return Ok(());
        }
    }
    let _ = writer.shutdown().await;
    Ok(())
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
