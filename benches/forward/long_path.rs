//! A long path: what is written at one end comes out of the other a while later, and not faster than the link.
//!
//! In user space, because few kernels at hand have netem. It ends TCP on both sides, so that what is measured is the
//! tunnel's own credit and round trips, and not a kernel's slow start.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// There and back.
pub const ROUND_TRIP: Duration = Duration::from_millis(50);
/// 1 Gbit/s.
const BYTES_PER_SECOND: f64 = 125e6;
/// Read at once, in bytes.
const BLOCK_BYTES: usize = 64 * 1024;
/// Blocks on their way at once; a link of this rate and delay has 50 full ones.
const BLOCKS_MAX: usize = 4096;

/// Where the near end of a long path to `far` is.
pub fn long_path(far: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let near = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for left in listener.incoming().map_while(Result::ok) {
            let Ok(right) = TcpStream::connect(far) else { continue };
            for socket in [&left, &right] {
                socket.set_nodelay(true).expect("nodelay");
            }
            let clones = (left.try_clone().expect("a descriptor"), right.try_clone().expect("a descriptor"));
            carry(left, clones.1);
            carry(right, clones.0);
        }
    });
    near
}

/// One direction.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    let (block_tx, block_rx) = mpsc::sync_channel::<(Instant, Vec<u8>)>(BLOCKS_MAX);
    thread::spawn(move || {
        let mut block = vec![0; BLOCK_BYTES];
        let mut link_free = Instant::now();
        while let Ok(length) = from.read(&mut block)
            && length > 0
        {
            link_free = link_free.max(Instant::now()) + Duration::from_secs_f64(length as f64 / BYTES_PER_SECOND);
            if block_tx.send((link_free + ROUND_TRIP / 2, block[..length].to_vec())).is_err() {
                return;
            }
            sleep_until(link_free);
        }
    });
    thread::spawn(move || {
        for (due, block) in block_rx {
            sleep_until(due);
            if to.write_all(&block).is_err() {
                return;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}
