//! The admin's commands beside a daemon that hangs, stops or has stopped.

use rustix::process::Signal;

use crate::support::{Daemon, LOOPBACK, Lab, capuchind};

#[test]
fn a_daemon_that_stops_makes_room_for_the_next() {
    let lab = Lab::start(LOOPBACK);
    // Hung, it has the store until it is killed.
    lab.daemon.signal(Signal::STOP);
    let next = Daemon::spawn(capuchind(lab.dir()).arg("serve"));
    lab.daemon.signal(Signal::TERM);
    lab.daemon.signal(Signal::CONT);
    next.wait_for_line("listens on");
}
