//! The mux against raw TLS 1.3, in one run: `cargo bench --bench mux`. Prints the rows of DESIGN.md §9 as ratios.
//!
//! Each side has a runtime of its own with two workers, as the two binaries have. Rounds of both contenders alternate
//! and the medians are compared, because absolute times mean nothing on a shared machine.
//!
//! Raw TLS has a socket as the machine makes it. Where that paces, as with BBR, a part of what is won is the session's
//! socket, which does not on loopback; `unshare -n` and `sysctl net.ipv4.tcp_congestion_control=reno` leave that out.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use capuchin::{
    proto::mux,
    session::{Crew, READ_BYTES, Session, Stream, TLS_BUFFER_BYTES, socket_options},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

mod process;
#[path = "../support/mod.rs"]
mod support;
mod tls;

use process::{cpu_seconds, resident_bytes};
use support::{is_asked_for, median, row};
use tls::Tls;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BULK_BYTES: usize = 512 * 1024 * 1024;
const ROUNDS: usize = 7;

/// Both contenders, ready to be asked.
struct Bench {
    lender: Runtime,
    borrower: Runtime,
    tls: Tls,
}

/// What a connection or stream is asked to do, by its first byte.
const SINK: u8 = b'U';
const ECHO: u8 = b'E';

fn main() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime of 2 workers")
    };
    let bench = Bench { lender: runtime(), borrower: runtime(), tls: Tls::new() };
    let raw = bench.serve_raw();
    let session = bench.session();
    for (streams, name, wanted) in [(1, "one bulk stream", 0.85), (8, "8 bulk streams", 0.80)] {
        if is_asked_for(name) {
            bench.bulk(raw, &session, streams, name, wanted);
        }
    }
    if is_asked_for("ping") {
        bench.ping(raw, &session);
    }
    if is_asked_for("open") {
        bench.opens(raw, &session);
    }
    if is_asked_for("idle") {
        bench.idle(&session);
    }
}

impl Bench {
    fn serve_raw(&self) -> std::net::SocketAddr {
        let acceptor = self.tls.acceptor();
        self.lender.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
            let address = listener.local_addr().expect("its address");
            tokio::spawn(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        socket.set_nodelay(true).expect("nodelay");
                        if let Ok(connection) = acceptor.accept(socket).await {
                            serve(connection).await;
                        }
                    });
                }
            });
            address
        })
    }

    async fn raw(&self, address: std::net::SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
        let socket = TcpStream::connect(address).await.expect("loopback");
        socket.set_nodelay(true).expect("nodelay");
        self.tls.connector().connect(Tls::name(), socket).await.expect("a handshake")
    }

    /// One session between the two runtimes, on a connection of its own whose socket is as in the two binaries.
    fn session(&self) -> Session {
        let acceptor = self.tls.acceptor();
        let (address_tx, address_rx) = std::sync::mpsc::channel();
        self.lender.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
            address_tx.send(listener.local_addr().expect("its address")).expect("the bench waits");
            let (socket, _) = listener.accept().await.expect("the bench connects");
            socket_options(&socket);
            let mut connection =
                acceptor.accept(BufReader::with_capacity(READ_BYTES, socket)).await.expect("a handshake");
            connection.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
            let session = Session::start(connection, mux::Role::Lender, mux::Config::default());
            while let Some(stream) = session.accept().await {
                session.spawn(serve(stream));
            }
        });
        let address = address_rx.recv().expect("the lender's address");
        self.borrower.block_on(async {
            let socket = TcpStream::connect(address).await.expect("loopback");
            socket_options(&socket);
            let socket = BufReader::with_capacity(READ_BYTES, socket);
            let mut connection = self.tls.connector().connect(Tls::name(), socket).await.expect("a handshake");
            connection.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
            Session::start(connection, mux::Role::Borrower, mux::Config::default())
        })
    }

    fn bulk(&self, raw: std::net::SocketAddr, session: &Session, streams: usize, name: &str, wanted: f64) {
        let each = BULK_BYTES / streams;
        let (mut speeds, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let theirs = self.measure(|| async {
                let mut all = Vec::new();
                for _ in 0..streams {
                    all.push(push(self.raw(raw).await, each));
                }
                together(all).await;
            });
            // Who moves bytes runs in the session's task, as in the two binaries.
            let ours = self.measure(|| async {
                let mut crew = Crew::new();
                for _ in 0..streams {
                    crew.spawn(session, push(open(session, b""), each));
                }
                while let Some(pushed) = crew.join_next().await {
                    pushed.expect("a push");
                }
            });
            speeds.push(theirs.0 / ours.0);
            costs.push(ours.1 / theirs.1);
        }
        row(name, "raw TLS", median(&mut speeds), wanted, true);
        if streams == 1 {
            row(&format!("{name}, CPU"), "raw TLS", median(&mut costs), 1.15, false);
        }
    }

    /// Wall and CPU seconds of both ends.
    fn measure<F: Future<Output = ()>>(&self, work: impl FnOnce() -> F) -> (f64, f64) {
        let (wall, cpu) = (Instant::now(), cpu_seconds());
        self.borrower.block_on(work());
        (wall.elapsed().as_secs_f64(), cpu_seconds() - cpu)
    }

    fn ping(&self, raw: std::net::SocketAddr, session: &Session) {
        let (mut idle, mut loaded) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (quiet, base, busy) = self.borrower.block_on(async {
                let mut theirs = self.raw(raw).await;
                theirs.write_all(&[ECHO]).await.expect("a command");
                let base = tokio::spawn(pings(theirs, 3000)).await.expect("pings");
                let quiet = tokio::spawn(pings(open(session, &[ECHO]), 3000)).await.expect("pings");
                let load = tokio::spawn(push(open(session, b""), BULK_BYTES * 2));
                let busy = tokio::spawn(pings(open(session, &[ECHO]), 1000)).await.expect("pings");
                load.abort();
                let _ = load.await;
                (quiet, base, busy)
            });
            idle.push(quiet / base);
            loaded.push(busy / base);
        }
        row("ping p50, idle", "raw TLS ping", median(&mut idle), 1.15, false);
        row("ping p50, under bulk", "raw TLS ping", median(&mut loaded), 3.0, false);
    }

    fn opens(&self, raw: std::net::SocketAddr, session: &Session) {
        let (mut sequential, mut parallel) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let theirs = self.rate(1, 200, || async { echo_once(self.raw(raw).await, true).await });
            let ours = self.rate(1, 4000, || async { echo_once(open(session, &[ECHO, 0]), false).await });
            sequential.push(ours / theirs);
            let theirs = self.rate(64, 10, || async { echo_once(self.raw(raw).await, true).await });
            let ours = self.rate(64, 300, || async { echo_once(open(session, &[ECHO, 0]), false).await });
            parallel.push(ours / theirs);
        }
        row("open+echo+close, sequential", "fresh TCP + mutual TLS", median(&mut sequential), 3.5, true);
        row("open+echo+close, 64 at once", "fresh TCP + mutual TLS", median(&mut parallel), 10.0, true);
    }

    /// Operations a second with `lanes` at once, `each` of them one after the other.
    fn rate<F: Future<Output = ()>>(&self, lanes: usize, each: usize, once: impl Fn() -> F) -> f64 {
        let began = Instant::now();
        self.borrower.block_on(async {
            let lane = async || {
                for _ in 0..each {
                    once().await;
                }
            };
            together((0..lanes).map(|_| lane()).collect()).await;
        });
        (lanes * each) as f64 / began.elapsed().as_secs_f64()
    }

    fn idle(&self, session: &Session) {
        const STREAMS: usize = 2000;
        self.borrower.block_on(async {
            let before = resident_bytes();
            let mut held = Vec::new();
            for _ in 0..STREAMS {
                let mut stream = open(session, &[ECHO, 0]);
                stream.read_exact(&mut [0]).await.expect("an echo");
                held.push(stream);
            }
            tokio::time::sleep(Duration::from_millis(200)).await; // every frame acknowledged and let go
            let each = (resident_bytes() - before) as f64 / STREAMS as f64 / 1024.0;
            row("idle mux stream, both ends, KiB", "-", each, 4.0, false);
        });
    }
}

fn open(session: &Session, first: &[u8]) -> Stream {
    let first = if first.is_empty() { &[SINK][..] } else { first };
    session.open(bytes::Bytes::copy_from_slice(first)).expect("a stream")
}

/// Polls all of them in one task, as a caller with many connections does.
async fn together<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    std::future::poll_fn(|cx| {
        for slot in &mut futures {
            if slot.as_mut().is_some_and(|future| future.as_mut().poll(cx).is_ready()) {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

async fn push<C: AsyncRead + AsyncWrite + Unpin + IsRaw>(mut connection: C, bytes: usize) {
    if C::RAW {
        connection.write_all(&[SINK]).await.expect("a command");
    }
    let block = vec![7_u8; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let piece = &block[..left.min(block.len())];
        connection.write_all(piece).await.expect("the peer reads");
        left -= piece.len();
    }
    connection.shutdown().await.expect("an end");
    assert_eq!(connection.read_u64().await.expect("a count"), bytes as u64);
}

async fn pings<C: AsyncRead + AsyncWrite + Unpin>(mut connection: C, count: usize) -> f64 {
    let mut times = Vec::with_capacity(count);
    let mut buffer = [7; 64];
    // What opened the stream may echo a byte of its own; 64-byte messages keep their borders here.
    for _ in 0..count {
        let began = Instant::now();
        connection.write_all(&[7; 64]).await.expect("the peer reads");
        // Without it tokio-rustls may keep the record when the task's budget is spent, and both wait for ever.
        connection.flush().await.expect("the peer reads");
        connection.read_exact(&mut buffer).await.expect("an echo");
        times.push(began.elapsed().as_secs_f64());
    }
    median(&mut times)
}

async fn echo_once<C: AsyncRead + AsyncWrite + Unpin>(mut connection: C, raw: bool) {
    if raw {
        connection.write_all(&[ECHO, 0]).await.expect("a command");
        // As in `pings`.
        connection.flush().await.expect("a command");
    }
    assert_eq!(connection.read_u8().await.expect("an echo"), 0);
}

/// Does what the first byte says.
async fn serve<C: AsyncRead + AsyncWrite + Unpin>(mut connection: C) {
    let Ok(command) = connection.read_u8().await else { return };
    let mut buffer = vec![0; if command == ECHO { 256 } else { 64 * 1024 }];
    let mut total = 0_u64;
    while let Ok(length) = connection.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        total += length as u64;
        if command == ECHO && connection.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    if command == SINK {
        let _ = connection.write_u64(total).await;
    }
    let _ = connection.shutdown().await;
}

trait IsRaw {
    const RAW: bool;
}

impl IsRaw for Stream {
    const RAW: bool = false;
}

impl IsRaw for tokio_rustls::client::TlsStream<TcpStream> {
    const RAW: bool = true;
}
