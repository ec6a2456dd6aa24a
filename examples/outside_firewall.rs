//! A server that is reachable at the lender, whatever firewall stands before this machine: only its listening socket is
//! borrowed. `cargo run --example outside_firewall -- lab 0.0.0.0:8080`, and `curl http://lab:8080/` from anywhere.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(host), Some(address)) = (args.next(), args.next()) else {
        return Err("usage: outside_firewall HOST ADDRESS:PORT".into());
    };
    let lender = capuchin::Borrower::connect(&host).await?;
    let listener = lender.tcp_listen(&address).await?;
    println!("listening at {host}, on {}", listener.local_addr());
    loop {
        // The visitor's own address: nobody stands in between.
        let (stream, visitor) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(stream, visitor).await {
                eprintln!("{visitor}: {error}");
            }
        });
    }
}

/// Answers one request.
async fn serve(stream: capuchin::TcpStream, visitor: std::net::SocketAddr) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let first = lines.next_line().await?.unwrap_or_default();
    // The rest of the head; a visitor that sends no end of it keeps only itself waiting.
    while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    eprintln!("{visitor}: {first:?}");
    let page = format!("hello {}, from behind the firewall\n", visitor.ip());
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len());
    writer.write_all((head + &page).as_bytes()).await
}
