//! What the benches share: medians and rows, and processes.

pub mod processes;

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    thread,
};

/// A server that sends for as long as it is let.
#[allow(dead_code, reason = "each bench uses its own part")]
pub fn pour() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let pour = move || while socket.write_all(&[7; 16 * 1024]).is_ok() {};
            thread::Builder::new().stack_size(64 * 1024).spawn(pour).expect("a thread");
        }
    });
    address
}

#[allow(dead_code, reason = "each bench uses its own part")]
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a ratio beside the one asked for, and gives whether it is reached.
///
/// Ratios between programs are for whoever reads them: another machine, or a neighbour on it, moves them. A bound that users
/// are promised is not: the bench of one ends with a failure where it is missed.
pub fn row(what: &str, against: &str, reached: f64, wanted: f64, at_least: bool) -> bool {
    let met = if at_least { reached >= wanted } else { reached <= wanted };
    let sign = if at_least { "at least" } else { "at most" };
    println!(
        "{what:34} against {against:24} {reached:7.2}   {sign} {wanted:<5} {}",
        if met { "met" } else { "MISSED" }
    );
    met
}

/// Whether this row is wanted: all are, unless words behind `--` say which.
#[allow(dead_code, reason = "each bench uses its own part")]
pub fn is_asked_for(what: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| what.contains(&word))
}

/// The 99th of 100 values, or of as many as there are; the median and the largest go to stderr.
#[allow(dead_code, reason = "each bench uses its own part")]
pub fn p99(values: &mut [f64]) -> f64 {
    let median = median(values);
    eprintln!("median {median:.3}, largest {:.3}", values[values.len() - 1]);
    values[(values.len() * 99).div_ceil(100) - 1]
}
