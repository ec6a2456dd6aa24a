//! Connections that are lent are asked after when they are quiet: one whose other end is gone without a word ends.

use std::net::SocketAddr;

use rustix::{
    net::{getpeername, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::{
    dial, echo, is_root_of_a_network,
    listen::session,
    origin,
    support::{Daemon, LOOPBACK},
};

/// Whether the kernel asks, after how many seconds, how many seconds apart, and how often, by the daemon's own socket to `peer`.
fn asked_after(daemon: &Daemon, peer: SocketAddr) -> (bool, u64, u64, u32) {
    let pid = Pid::from_raw(daemon.child.id().try_into().unwrap()).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).unwrap();
    let numbers = numbers.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap());
    let copies = numbers.filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok());
    let is_there = |socket: &std::os::fd::OwnedFd| {
        getpeername(socket).ok().flatten().is_some_and(|address| SocketAddr::try_from(address) == Ok(peer))
    };
    let socket = copies.into_iter().find(is_there).expect("the lender's socket");
    let seconds = |time: std::time::Duration| time.as_secs();
    (
        sockopt::socket_keepalive(&socket).unwrap(),
        seconds(sockopt::tcp_keepidle(&socket).unwrap()),
        seconds(sockopt::tcp_keepintvl(&socket).unwrap()),
        sockopt::tcp_keepcnt(&socket).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_quiet_is_asked_after_whoever_began_it() {
    if !is_root_of_a_network() {
        return;
    }
    let policy = format!("{LOOPBACK}listen = [\"127.0.0.1:1024-65535\", \"[::1]:1024-65535\"]\n");
    let (lab, _home, borrower) = session(&policy).await;
    let server = origin(echo);
    let _dialed = borrower.tcp_connect(server.to_string()).await.unwrap();
    assert_eq!(asked_after(&lab.daemon, server), (true, 60, 15, 4));
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let listener = borrower.tcp_listen(loopback).await.unwrap();
        let visitor = dial(listener.local_addr());
        let _accepted = listener.accept().await.unwrap();
        assert_eq!(asked_after(&lab.daemon, visitor.local_addr().unwrap()), (true, 60, 15, 4));
    }
}
