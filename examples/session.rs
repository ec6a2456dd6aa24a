//! Runs programs on another machine: `cargo run --example session -- lab`

use capuchin::{Borrower, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = std::env::args().nth(1).ok_or("which host?")?;
    let lender = Borrower::connect(&host).await?;

    // One that is run to its end, with what it said.
    let output = lender.command("uname").arg("-s").output().await?;
    print!("{} runs {}", lender.lender(), String::from_utf8_lossy(&output.stdout));

    // One that is spoken to while it runs.
    let mut sort = lender.command("sort").stdin(Stdio::Piped).stdout(Stdio::Piped).spawn().await?;
    let mut stdin = sort.stdin.take().ok_or("it was piped")?;
    stdin.write_all(b"tools\nmonkeys\nuse\n").await?;
    drop(stdin);
    let mut lines = BufReader::new(sort.stdout.take().ok_or("it was piped")?).lines();
    while let Some(line) = lines.next_line().await? {
        println!("sorted: {line}");
    }
    println!("sort {}", sort.wait().await?);

    // One that would run for ever: dropping its handle ends it, and whatever it started.
    drop(lender.command("sleep").arg("infinity").spawn().await?);
    Ok(())
}
