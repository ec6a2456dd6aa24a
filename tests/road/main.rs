//! One borrowed TCP socket, end to end: real daemons, real commands, loopback.

#[path = "../support/mod.rs"]
mod support;

mod asks_the_admin;
mod closes;
mod comes_back;
mod dies;
mod doctor;
mod door;
mod forwards;
mod keepalive;
mod library;
mod limits;
mod listen;
mod profile;
mod proxy;
mod refused;
mod remote;
mod services;
mod settings;
mod shared;
mod shared_raw;
mod status;
mod stdio;
mod udp;
mod udp_forwards;
mod unix;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use support::{PATIENCE, run, text};

/// Serves each connection to a port of its own on loopback with `serve`, until the test ends.
fn origin(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(socket));
        }
    });
    address
}

/// Sends everything back, and ends when its peer does.
fn echo(mut socket: TcpStream) {
    let mut reader = socket.try_clone().unwrap();
    let _ = std::io::copy(&mut reader, &mut socket);
    let _ = socket.shutdown(Shutdown::Write);
}

fn dial(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// Whether this test runs as root of a network of its own, where it may do to sockets what the kernel lets nobody else do; if not,
/// runs it once more, there.
fn is_root_of_a_network() -> bool {
    const THERE: &str = "TEST_OF_ITS_OWN_NETWORK";
    if std::env::var_os(THERE).is_some() {
        return true;
    }
    // The thread of a test has its name.
    let (thread, mut again) = (thread::current(), Command::new("unshare"));
    let test = thread.name().unwrap();
    let script = "ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture";
    again.args(["--map-root-user", "--net", "sh", "-c", script]).arg(std::env::current_exe().unwrap()).arg(test);
    let output = run(again.env(THERE, "1"));
    assert!(text(output.stdout).contains("1 passed"), "{test} is none");
    false
}

/// One message there and back.
fn round_trip(mut socket: &TcpStream, message: &[u8]) -> std::io::Result<()> {
    socket.write_all(message)?;
    let mut answer = vec![0; message.len()];
    socket.read_exact(&mut answer)?;
    assert_eq!(answer, message);
    Ok(())
}

/// Bytes that repeat nowhere near.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    std::iter::repeat_with(|| next().to_le_bytes()).flatten().take(length).collect()
}
