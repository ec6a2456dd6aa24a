//! What a connect costs in round trips: between borrower and lender stands a gate that lets nothing more go up once the first
//! answer comes down. What needs a second question is never answered. And in time, on a way that is long.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    sync::{Arc, Condvar, Mutex, mpsc},
    time::{Duration, Instant},
};

use crate::{
    machine::Machine,
    support::{PATIENCE, run, text},
};

/// Attempts, of which one must do with one round trip and one SYN: a ping or an acknowledgement of the session's own may be on
/// its way at the same time, and be taken for the question; and a busy machine may take the second after which a SYN comes again.
const ATTEMPTS: usize = 10;
/// For one attempt; it costs time where another is needed, and decides nothing.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

/// `Open --watch--> Watching --a question goes up--> Asked --its answer comes down--> Shut --open--> Open`
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Open,
    Watching,
    Asked,
    Shut,
}

struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// Stands before `lender`, and gives its own address.
    fn before(lender: SocketAddr) -> (Arc<Self>, SocketAddr) {
        let gate = Arc::new(Self { state: Mutex::new(State::Open), changed: Condvar::new() });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = gate.clone();
        std::thread::spawn(move || {
            for borrower in listener.incoming().map_while(Result::ok) {
                let lender = TcpStream::connect(lender).unwrap();
                for (from, to, is_up) in
                    [(borrower.try_clone().unwrap(), lender.try_clone().unwrap(), true), (lender, borrower, false)]
                {
                    to.set_nodelay(true).unwrap();
                    let gate = serving.clone();
                    std::thread::spawn(move || gate.carry(from, to, is_up));
                }
            }
        });
        (gate, address)
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
        self.changed.notify_all();
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, is_up: bool) {
        let mut piece = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            {
                let mut state = self.state.lock().unwrap();
                match (*state, is_up) {
                    (State::Watching, true) => *state = State::Asked,
                    (State::Asked, false) => *state = State::Shut,
                    (State::Shut, true) => drop(self.changed.wait_while(state, |state| *state == State::Shut).unwrap()),
                    _ => {}
                }
            }
            if to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

#[test]
fn a_connect_that_fails_at_the_lender_costs_one_round_trip() {
    let machine = Machine::start();
    let (gate, address) = Gate::before(machine.lab.address);
    // Connects again for each line, and says how it ended.
    let program = r#"
import errno, socket, struct, sys
print("ready", flush=True)
for line in sys.stdin:
    host, port = line.split()
    s = socket.socket()
    ended = errno.errorcode[s.connect_ex((host, int(port)))]
    # TCP_INFO's total of what was sent again: of a SYN that nobody answered, a second later.
    print(ended, struct.unpack_from("I", s.getsockopt(6, 11, 104), 100)[0], flush=True)
"#;
    for within in machine.anybody_in_each_network() {
        run(within.capuchin().args(["hosts", "set", "lab", &address.to_string()]));
        let mut child = within.python(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (line_tx, line_rx) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| line_tx.send(line))
        });
        assert_eq!(line_rx.recv_timeout(PATIENCE).unwrap(), "ready");
        for (target, errno) in
            [("10.77.0.1 9", "ECONNREFUSED"), ("203.0.113.5 80", "EHOSTUNREACH"), ("10.78.0.1 80", "EHOSTUNREACH")]
        {
            let mut attempt = || {
                gate.set(State::Watching);
                writeln!(stdin, "{target}").unwrap();
                let at_once = line_rx.recv_timeout(ATTEMPT_MAX);
                gate.set(State::Open);
                let ended = at_once.clone().or_else(|_| line_rx.recv_timeout(PATIENCE)).unwrap();
                let (ended, sent_again) = ended.split_once(' ').unwrap();
                assert_eq!(ended, errno, "{target} as {}", within.who());
                at_once.is_ok() && sent_again == "0"
            };
            assert!((0..ATTEMPTS).any(|_| attempt()), "{target} takes more than one round trip, as {}", within.who());
        }
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }
}

/// What a packet takes each way.
const WAY: Duration = Duration::from_millis(100);
/// What curl may take for a port that is closed, beside one round trip.
const MORE: Duration = Duration::from_millis(50);

/// A long way to `lender`, by its own address: as much as one likes is on it at the same time.
fn long_way(lender: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for borrower in listener.incoming().map_while(Result::ok) {
            let lender = TcpStream::connect(lender).unwrap();
            for (mut from, mut to) in [(borrower.try_clone().unwrap(), lender.try_clone().unwrap()), (lender, borrower)]
            {
                to.set_nodelay(true).unwrap();
                let (piece_tx, piece_rx) = mpsc::channel::<(Instant, Vec<u8>)>();
                std::thread::spawn(move || {
                    let mut piece = vec![0; 1 << 16];
                    while let Ok(length @ 1..) = from.read(&mut piece) {
                        let _ = piece_tx.send((Instant::now() + WAY, piece[..length].to_vec()));
                    }
                });
                std::thread::spawn(move || {
                    for (arrives, piece) in piece_rx {
                        std::thread::sleep(arrives.saturating_duration_since(Instant::now()));
                        if to.write_all(&piece).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    address
}

#[test]
fn curl_hears_of_a_closed_port_within_a_round_trip_and_a_little_more() {
    let machine = Machine::start();
    let address = long_way(machine.lab.address);
    let curl = "curl -s --noproxy '*' -w '%{exitcode} %{time_total}\\n' \"$0\"";
    // All by one program: how long it takes to start counts for nothing.
    let curls = format!("for attempt in $(seq {ATTEMPTS}); do {curl} || :; done");
    for within in machine.everybody() {
        run(within.capuchin().args(["hosts", "set", "lab", &address.to_string()]));
        for url in ["http://10.77.0.1:9/", "http://[fd77::1]:9/"] {
            let said = text(run(&mut within.run(&["sh", "-c", &curls, url])).stdout);
            let took = said.lines().map(|line| {
                let seconds = line.strip_prefix("7 ").unwrap_or_else(|| panic!("{url} as {}: {said}", within.who()));
                Duration::from_secs_f64(seconds.parse().unwrap())
            });
            // A machine may be busy, but a way is never shorter than it is.
            let best = took.min().unwrap();
            assert!((2 * WAY..2 * WAY + MORE).contains(&best), "{url} as {}: {said}", within.who());
        }
    }
}
