//! What the lender's network says of the way to a target: to programs that ask for it, and by silence.

use crate::{
    connects::probed,
    machine::Machine,
    support::{run, text},
};

const POLICY: &str = r#"
[[allow]]
who = ["alice"]
connect = ["10.78.0.9:*", "203.0.0.0/16:*", "[fd79::/16]:*"]
udp = ["203.0.0.0/16:*", "[fd79::/16]:*"]
"#;

/// Ways that seem to be there, and of parts of them the network says otherwise.
const WAYS: &str = "ip route add unreachable 203.0.114.0/24; ip route add throw 203.0.115.0/24
    ip -6 address add fd79::1/128 dev near nodad; ip -6 route add fd79::/16 dev near
    ip -6 route add unreachable fd79:1::/32; ip -6 route add throw fd79:2::/32";

/// Sends by a socket that asks for such errors (IP_RECVERR, IPV6_RECVERR), and before by one that does not.
const SOFT: &str = r#"
import errno, socket
for family, host in ((2, "203.0.114.5"), (2, "203.0.115.5"), (10, "fd79:1::5"), (10, "fd79:2::5")):
    silent, told = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    told.setsockopt(*((0, 11, 1) if family == 2 else (41, 25, 1)))
    told.settimeout(30)
    for s in (silent, told):
        s.connect((host, 7000))
        s.send(b"x")
    try:
        print(host, told.recv(9))
    except OSError as error:
        print(host, errno.errorcode.get(error.errno, error), end=" ")
    silent.setblocking(False)
    try:
        print(silent.recv(9))
    except OSError as error:
        print(errno.errorcode[error.errno])
"#;

#[test]
fn who_asks_for_soft_errors_of_datagrams_hears_them_and_who_does_not_hears_nothing() {
    let machine = Machine::with_names(POLICY, &serde_json::json!({}), WAYS);
    for within in machine.everybody() {
        let said = run(&mut within.python(SOFT));
        let expected = "203.0.114.5 EHOSTUNREACH EAGAIN\n203.0.115.5 ENETUNREACH EAGAIN\n\
            fd79:1::5 EHOSTUNREACH EAGAIN\nfd79:2::5 ENETUNREACH EAGAIN\n";
        assert_eq!(text(said.stdout), expected, "as {}: {}", within.who(), text(said.stderr));
    }
}

#[test]
fn connect_fails_as_the_lenders_network_says_over_both_families() {
    let machine = Machine::with_names(POLICY, &serde_json::json!({}), WAYS);
    let cases = [
        ("203.0.114.5:80", "EHOSTUNREACH", ""),
        ("203.0.115.5:80", "ENETUNREACH", ""),
        ("fd79:1::5:80", "EHOSTUNREACH", ""),
        ("fd79:2::5:80", "ENETUNREACH", ""),
        ("::ffff:203.0.114.5:80", "EHOSTUNREACH", ""),
        ("::ffff:203.0.115.5:80", "ENETUNREACH", ""),
    ];
    let (probe, expected) = probed(&cases);
    for within in machine.everybody() {
        let said = run(&mut within.run(&probe));
        assert_eq!(text(said.stdout), expected, "as {}: {}", within.who(), text(said.stderr));
    }
}

/// One SYN, and one more (TCP_SYNCNT): then the program's own kernel gives up.
const SILENCE: &str = r#"
import errno, select, socket
for waits in (True, False):
    s = socket.socket()
    s.setsockopt(socket.IPPROTO_TCP, 7, 1)
    s.setblocking(waits)
    error = s.connect_ex(("10.78.0.9", 80))
    if not waits and error == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(s, select.POLLOUT)
        poll.poll()
        error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    print(errno.errorcode[error])
"#;

#[test]
fn a_host_that_never_answers_is_a_time_out() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let said = run(&mut within.python(SILENCE));
        assert_eq!(text(said.stdout), "ETIMEDOUT\nETIMEDOUT\n", "as {}", within.who());
    }
}

/// The kernel's own way to an address of IPv6 comes later, from a work queue, and takes with it what was begun by another. It
/// has the metric 0.
#[test]
fn the_way_to_the_machines_own_addresses_of_ipv6_does_not_wait_for_the_kernel() {
    let machine = Machine::start();
    let own = format!("{:032x} 80 ", u128::from("fd77::1".parse::<std::net::Ipv6Addr>().unwrap()));
    for within in machine.everybody() {
        let routes = text(run(&mut within.run(&["cat", "/proc/net/ipv6_route"])).stdout);
        let ours = routes.lines().filter(|line| line.starts_with(&own) && line.split_whitespace().last() == Some("lo"));
        let metrics: Vec<_> = ours.filter_map(|line| line.split_whitespace().nth(5)).collect();
        // That of who names none (IP6_RT_PRIO_USER), in place before the program was.
        assert!(metrics.contains(&"00000400"), "as {}: {routes}", within.who());
    }
}
