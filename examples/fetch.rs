//! Fetches a page from a web server that only a lender can reach: `cargo run --example fetch -- lab intranet:80`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(host), Some(target)) = (args.next(), args.next()) else {
        return Err("usage: fetch HOST TARGET:PORT".into());
    };
    let lender = capuchin::Borrower::connect(&host).await?;
    let mut web = lender.tcp_connect(&target).await?;
    eprintln!("connected to {} from {}, as {}", web.peer_addr(), web.local_addr(), lender.user());
    web.write_all(format!("GET / HTTP/1.0\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
    let mut page = String::new();
    web.read_to_string(&mut page).await?;
    print!("{page}");
    Ok(())
}
