//! `capuchin forward … /udp`: each client has a socket of its own at the other side, and is answered from where it sent to.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use capuchin::{RemoteUdpForward, UdpForward};

use crate::{
    listen::session,
    pattern,
    remote::forward,
    support::{
        Daemon, Lab, PATIENCE, fails,
        named::NamedLab,
        ports::{ClosedUdpPort, ListedUdpSocket, PortRange},
        run, text, wait_until,
        wire::Wire,
    },
};

/// Alice may send to loopback and be reached there.
const UDP: &str = "[[allow]]\nwho = \"alice\"\nudp = [\"127.0.0.0/8:*\", \"[::1]:*\"]\n\
                   listen = [\"127.0.0.1:1024-65535/udp\", \"[::1]:1024-65535/udp\"]\n";

/// Sends everything back to where it came from, until the test ends.
fn echo(address: &str) -> SocketAddr {
    let server = UdpSocket::bind(address).unwrap();
    let address = server.local_addr().unwrap();
    echo_at(server);
    address
}

fn echo_at(server: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        // An error is that of an answer, to somebody who is gone.
        loop {
            if let Ok((length, from)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], from);
            }
        }
    });
}

/// A socket that sends to `address` and hears from it alone.
fn client(address: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    client.connect(address).unwrap();
    // What came before it was connected is for whoever had its port before.
    client.set_nonblocking(true).unwrap();
    while client.recv(&mut []).is_ok() {}
    client.set_nonblocking(false).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn round_trip(client: &UdpSocket, message: &[u8]) -> io::Result<()> {
    client.send(message)?;
    let mut buffer = vec![0; 65_535];
    let length = client.recv(&mut buffer)?;
    assert!(buffer[..length] == *message, "{length} bytes of another message");
    Ok(())
}

/// Sends until an answer comes: what is sent while nobody listens yet is lost.
fn comes_through(client: &UdpSocket) {
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let end = std::time::Instant::now() + PATIENCE;
    while let Err(error) = round_trip(client, b"anybody?") {
        assert!(std::time::Instant::now() < end, "nothing comes through: {error}");
    }
}

/// The address in what a forward has printed.
fn address(printed: &str) -> SocketAddr {
    printed.strip_suffix("/udp").unwrap_or_else(|| panic!("{printed} does not say /udp")).parse().unwrap()
}

fn dig(server: SocketAddr, name: &str) -> String {
    let mut dig = Command::new("dig");
    dig.args(["+short", "+tries=3", "+time=10", "-p", &server.port().to_string(), &format!("@{}", server.ip()), name]);
    text(run(&mut dig).stdout).trim().to_owned()
}

/// A resolver on both loopback addresses that knows db.test.
fn resolver() -> (Daemon, u16) {
    Daemon::at_a_free_port("started", |port| {
        let mut dnsmasq = Command::new("dnsmasq");
        dnsmasq.args([
            "--keep-in-foreground",
            "--log-facility=-",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
        ]);
        dnsmasq.args(["--pid-file=", "--bind-interfaces", "--listen-address=127.0.0.1,::1"]);
        dnsmasq.arg("--address=/db.test/10.1.2.3").arg(format!("--port={port}"));
        dnsmasq
    })
}

#[test]
fn dig_asks_a_resolver_of_the_other_side_over_both_families_and_both_ways() {
    let lab = Lab::start(UDP);
    let home = lab.join("alice");
    let (_resolver, port) = resolver();
    let ours = [format!("0:127.0.0.1:{port}/udp"), format!("[::1]:0:[::1]:{port}/udp")];
    let theirs = [format!("0:localhost:{port}/udp"), format!("[::1]:0:[::1]:{port}/udp")];
    let options = ["-L", &ours[0], "-L", &ours[1], "-R", &theirs[0], "-R", &theirs[1]];
    let (_forward, opened) = forward(&home, &options, 4);
    for opened in &opened {
        assert_eq!(dig(address(opened), "db.test"), "10.1.2.3", "{opened}");
    }
    lab.wait_for_audit("the decision", |line| {
        line["event"] == "udp-send" && line["verdict"] == "granted" && line["target"] == format!("127.0.0.1:{port}")
    });
    lab.wait_for_audit("the port", |line| {
        line["event"] == "udp-bind" && line["verdict"] == "granted" && line["target"] == "127.0.0.1:0/udp"
    });
}

#[test]
fn a_name_of_the_target_is_the_lenders_and_a_rule_for_it_is_enough() {
    let zone = serde_json::json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] });
    let named = NamedLab::start("[[allow]]\nwho = \"alice\"\nudp = [\"own.test:53\"]\n", &zone);
    let home = named.lab.join("alice");
    let (_forward, opened) = forward(&home, &["-L", "0:own.test:53/udp"], 1);
    for _ in 0..2 {
        assert_eq!(dig(address(&opened[0]), "www.test"), "10.77.0.1");
    }
}

#[test]
fn many_clients_have_their_own_sockets_and_their_own_answers() {
    let lab = Lab::start(UDP);
    let home = lab.join("alice");
    let server = echo("127.0.0.1:0");
    // Every address of this machine is asked, one after the other.
    let (_forward, opened) = forward(
        &home,
        &[
            "-L",
            &format!("0.0.0.0:0:{server}/udp"),
            "-L",
            &format!("*:0:{server}/udp"),
            "-R",
            &format!("0:{server}/udp"),
        ],
        3,
    );
    for (opened, asked) in opened.iter().zip(["127.7.7.7", "127.7.7.7", "127.0.0.1"]) {
        let asked = SocketAddr::new(asked.parse().unwrap(), address(opened).port());
        let clients: Vec<UdpSocket> = (0..50).map(|_| client(asked)).collect();
        for (number, client) in clients.iter().enumerate() {
            round_trip(client, &pattern(number * 1300, number as u64)).unwrap();
        }
        for (number, client) in clients.iter().enumerate().rev() {
            round_trip(client, &pattern(100, number as u64)).unwrap();
        }
    }
    let sockets = lab.audit().into_iter().filter(|line| line["event"] == "udp-send").count();
    assert_eq!(sockets, 100, "of the lender, for the clients of -L");
}

#[test]
fn a_server_that_is_down_is_told_once_and_heard_when_it_is_up() {
    let lab = Lab::start(UDP);
    let home = lab.join("alice");
    let ports = [(); 2].map(|()| ClosedUdpPort::at("127.0.0.1"));
    let [there, here] = ports.each_ref().map(|port| port.address);
    let (forward, opened) = forward(&home, &["-L", &format!("0:{there}/udp"), "-R", &format!("0:{here}/udp")], 2);
    let (ours, theirs) = (client(address(&opened[0])), client(address(&opened[1])));
    for client in [&ours, &theirs] {
        for _ in 0..5 {
            client.send(b"anybody?").unwrap();
        }
    }
    let mut told = [forward.wait_for_line("refused"), forward.wait_for_line("refused")];
    told.sort();
    assert_eq!(
        told,
        [
            format!("capuchin: cannot send to {here}/udp: Connection refused (os error 111)"),
            format!("capuchin: lab could not connect to {there}/udp: Connection refused (os error 111)"),
        ]
    );
    ports.into_iter().for_each(|port| echo_at(port.open()));
    comes_through(&ours);
    comes_through(&theirs);
}

#[test]
fn what_the_policy_refuses_ends_the_command_and_opens_nothing() {
    let lab = Lab::start(UDP);
    let home = lab.join("alice");
    let keeps = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = keeps.local_addr().unwrap();
    for (options, kind, says) in [
        (["-L", "0:10.0.0.1:53/udp"], "error[policy]", "udp 10.0.0.1:53 is refused"),
        (["-R", "127.0.0.1:53:127.0.0.1:5353/udp"], "error[policy]", "127.0.0.1:53/udp is refused"),
        (["-R", "*:5353:127.0.0.1:5353/udp"], "error[policy]", "is refused"),
        (["-R", &format!("{taken}:127.0.0.1:5353/udp")], "error[target]", "Address already in use"),
        (["-L", &format!("{taken}:127.0.0.1:5353/udp")], "error[local]", "Address already in use"),
        (["-L", "/run/socket:127.0.0.1:53/udp"], "error[usage]", "from a port to a port"),
    ] {
        let said = fails(home.capuchin().args(["forward", "lab"]).args(options), 255);
        assert!(said.starts_with(kind) && said.contains(says), "{options:?}: {said}");
    }
}

#[test]
fn ports_are_kept_over_a_lender_that_was_restarted() {
    let lab = Lab::start(UDP);
    let (wire, home) = Wire::between("alice", &lab);
    let server = echo("127.0.0.1:0");
    let (forward, opened) = forward(&home, &["-L", &format!("0:{server}/udp"), "-R", &format!("0:{server}/udp")], 2);
    let clients = [client(address(&opened[0])), client(address(&opened[1]))];
    clients.iter().for_each(|client| round_trip(client, b"before").unwrap());
    wire.cut();
    let lab = lab.restart();
    wire.mend(lab.address);
    forward.wait_for_line("back after");
    clients.iter().for_each(comes_through);
}

#[test]
fn a_range_is_a_forward_for_each_port() {
    let lab = Lab::start(&UDP.replace("127.0.0.1:1024", &format!("{}:1024", PortRange::IP)));
    let home = lab.join("alice");
    let ports = PortRange::new(30, UdpSocket::bind);
    let (ip, there) = (PortRange::IP, ports.first);
    // The server of each port says which one it is.
    for port in there..there + 10 {
        let server = UdpSocket::bind((ip, port)).unwrap();
        thread::spawn(move || {
            while let Ok((_, from)) = server.recv_from(&mut [0; 64]) {
                let _ = server.send_to(&port.to_be_bytes(), from);
            }
        });
    }
    let range = |first: u16| format!("{first}-{}", first + 9);
    let servers = range(there);
    let options = [10, 20].map(|offset| format!("{ip}:{}:{ip}:{servers}/udp", range(there + offset)));
    let (_forward, opened) = forward(&home, &["-L", &options[0], "-R", &options[1]], 20);
    assert_eq!(opened.len(), 20);
    for (index, port) in (there + 10..there + 30).enumerate() {
        let client = client((ip, port).into());
        client.send(b"who?").unwrap();
        let mut said = [0; 2];
        client.recv(&mut said).unwrap();
        assert_eq!(u16::from_be_bytes(said), there + index as u16 % 10);
    }
}

#[test]
fn a_port_that_the_lender_takes_back_ends_the_command() {
    let lab = Lab::start(UDP);
    let home = lab.join("alice");
    let server = echo("127.0.0.1:0");
    let (mut forward, opened) = forward(&home, &["-R", &format!("0:{server}/udp")], 1);
    round_trip(&client(address(&opened[0])), b"before").unwrap();
    let lent = ListedUdpSocket::at(address(&opened[0]));
    std::fs::write(lab.dir().join("policy.toml"), "[[allow]]\nwho = \"alice\"\nconnect = \"127.0.0.1:1\"\n").unwrap();
    forward.wait_for_line("was taken back: its policy does not allow it any more");
    assert_eq!(forward.wait().code(), Some(255));
    assert!(!lent.is_open());
}

#[test]
fn a_killed_forward_leaves_no_port_and_others_go_on() {
    let lab = Lab::start(UDP);
    let (home, another) = (lab.join("alice"), lab.join("alice"));
    let server = format!("0:{}/udp", echo("127.0.0.1:0"));
    let (mut dying, its) = forward(&home, &["-R", &server], 1);
    let (_staying, others) = forward(&another, &["-R", &server], 1);
    let stays = client(address(&others[0]));
    for client in [&client(address(&its[0])), &stays] {
        round_trip(client, b"before").unwrap();
    }
    let lent = ListedUdpSocket::at(address(&its[0]));
    dying.kill();
    wait_until("its port is closed", || !lent.is_open());
    let target = address(&its[0]).to_string();
    lab.wait_for_audit("its end", |line| line["event"] == "udp-closed" && line["target"] == target);
    round_trip(&stays, b"still here").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_quiet_is_forgotten_and_known_anew_when_it_sends() {
    let (lab, _home, borrower) = session(UDP).await;
    let server = echo("127.0.0.1:0");
    let quiet = Duration::from_millis(50);
    let target: capuchin::proto::Target = server.to_string().parse().unwrap();
    let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let forward = UdpForward::bind(&borrower, loopback, target.clone()).await.unwrap().forget_after(quiet);
    let local = forward.local();
    let remote = RemoteUdpForward::bind(&borrower, loopback, target).await.unwrap().forget_after(quiet);
    let there = remote.remote();
    let _serving = [tokio::spawn(forward.serve(|_| {})), tokio::spawn(remote.serve(|_| {}))];
    let asking = tokio::task::spawn_blocking(move || {
        let (ours, theirs) = (client(local), client(there));
        for number in 1..=3 {
            comes_through(&ours);
            comes_through(&theirs);
            lab.wait_for_audit("the end of its socket", |_| {
                let closed = |line: &serde_json::Value| line["event"] == "udp-closed";
                lab.audit().into_iter().filter(closed).count() >= number
            });
        }
    });
    asking.await.unwrap();
}

/// Sockets of the lender stay bounded, and nobody is left out: who was quiet for longest makes room.
#[test]
fn more_clients_than_there_are_places_are_served() {
    let lab = Lab::start(UDP);
    let home = lab.join("alice");
    let server = echo("127.0.0.1:0");
    let (_forward, opened) = forward(&home, &["-L", &format!("0:{server}/udp")], 1);
    let (raised, mut clients) = (rustix::process::getrlimit(rustix::process::Resource::Nofile), Vec::new());
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: raised.maximum, ..raised },
    )
    .unwrap();
    for number in 0..1200_u32 {
        let client = client(address(&opened[0]));
        round_trip(&client, &number.to_be_bytes()).unwrap();
        clients.push(client);
    }
    lab.wait_for_audit("the ends of those that made room", |_| {
        lab.audit().into_iter().filter(|line| line["event"] == "udp-closed").count() == 1200 - 1024
    });
    round_trip(&clients[0], b"still known").unwrap();
}
