//! At the gate: what looks like something else, and leads where no rule leads.

use std::net::{SocketAddr, TcpListener};

use capuchin::proto::{
    Answer, Ask, ErrorKind, Frame, Kind, Refusal, Request, Target, TcpConnected, TcpListen, UdpBind, UnixListen,
    message,
};
use serde_json::Value;

use crate::support::{
    Daemon, Home, Lab, capuchind,
    peer::{Peer, frame},
};

/// Sends one request on a session of its own, and gives the answer.
async fn ask(lab: &Lab, home: &Home, request: &Request) -> Answer<TcpConnected> {
    let mut peer = Peer::logged_in(lab.address, home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, false, &message::encode_prefixed(request))).await;
    loop {
        if let Frame::Data { payload, .. } = peer.hear().await.expect("an answer") {
            return message::decode("answer", &payload[4..]).unwrap();
        }
    }
}

fn connect(host: &str, port: u16) -> Request {
    Request::TcpConnect(Target { host: host.into(), port })
}

fn udp_listen(address: &str) -> Request {
    Request::UdpBind(UdpBind { address: address.parse().unwrap(), listen: true, v6_only: false })
}

fn planned(name: &'static str, kind: &str, target: &str) -> Request {
    Request::Planned { name, ask: Ask { kind: kind.into(), target: target.into() } }
}

fn tcp_listen(address: &str) -> Request {
    let address = address.parse().unwrap();
    Request::TcpListen(TcpListen { address, backlog: Some(1), v6_only: false, reuse_address: true })
}

/// The policy refuses it, as EACCES, and the audit says so.
async fn refused(lab: &Lab, home: &Home, request: &Request, why: &str) -> Refusal {
    let refusal = match ask(lab, home, request).await {
        Answer::Refused(refusal) => refusal,
        Answer::Granted(connected) => panic!("{request:?} reached {connected:?}"),
    };
    let kind_and_errno = (refusal.kind(), refusal.errno().map(|errno| errno.0));
    assert_eq!(kind_and_errno, (ErrorKind::Policy, Some(13)), "{request:?}: {}", refusal.text());
    assert!(refusal.text().contains(why), "{request:?}: {}", refusal.text());
    let told = |line: &Value| line["event"] == request.name() && line["why"] == refusal.text();
    let line = lab.wait_for_audit(refusal.text(), told);
    assert_eq!((&line["verdict"], &line["user"]), (&"refused".into(), &"alice".into()));
    refusal
}

/// A listener that nobody but the honest may reach.
struct Origin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    /// The next honest request is served; so far nothing was.
    async fn still_serves(&self, lab: &Lab, home: &Home) {
        assert_eq!(self.listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was dialled");
        match ask(lab, home, &connect("127.0.0.1", self.address.port())).await {
            Answer::Granted(connected) => assert_eq!(connected.peer.0, self.address),
            Answer::Refused(refusal) => panic!("{}", refusal.text()),
        }
    }
}

/// Alice may reach every name, and this one port of loopback.
fn broad(origin: &Origin) -> String {
    format!("[[allow]]\nwho = \"alice\"\nconnect = [\"*:*\", \"127.0.0.1:{}\"]\n", origin.address.port())
}

/// A lender whose machine knows these names, and asks nobody else for them.
fn lab_with_hosts(policy: &str, hosts: &str) -> Lab {
    let mut lab = Lab::start(policy);
    lab.daemon.kill();
    let folder = lab.folder;
    let file = folder.path().join("hosts");
    std::fs::write(&file, hosts).unwrap();
    let mut serve = capuchind(folder.path());
    let program = serve.get_program().to_owned();
    serve = std::process::Command::new("unshare");
    serve.args([
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"",
        "sh",
    ]);
    serve.arg(&file).arg(program).arg("serve").env("CAPUCHIND_DIR", folder.path());
    let daemon = Daemon::spawn(&mut serve);
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    Lab { folder, daemon, address }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_40_a_folder_whose_name_begins_alike() {
    let origin = Origin::start();
    let lab = Lab::start(&(broad(&origin) + "read = [\"/srv/data\"]\nwrite = [\"/srv/data\"]\n"));
    let home = lab.join("alice");
    for kind in ["read", "write"] {
        for path in ["/srv/data2", "/srv/data2/x", "/srv"] {
            let refusal = refused(&lab, &home, &planned("files", kind, path), "no rule allows it").await;
            let send = format!("capuchind allow alice {kind} {path} --for 1h");
            assert_eq!(refusal.notes().last().unwrap().trim_start(), send);
        }
        let Answer::Refused(refusal) = ask(&lab, &home, &planned("files", kind, "/srv/data/x")).await else {
            panic!("nothing serves files")
        };
        assert_eq!(refusal.kind(), ErrorKind::Target, "{}", refusal.text());
        assert!(refusal.text().ends_with("is allowed, but not offered by this lender"), "{}", refusal.text());
    }
    let line = lab.wait_for_audit("not offered", |line| line["why"] == "not offered by this lender");
    assert!(line["rule"].as_str().unwrap().contains("read = \"/srv/data\""), "{line}");
    origin.still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_42_the_metadata_service() {
    let origin = Origin::start();
    let lab = Lab::start(&broad(&origin));
    let home = lab.join("alice");
    let refusal = refused(&lab, &home, &connect("169.254.169.254", 80), "cloud metadata").await;
    assert_eq!(
        refusal.notes().last().unwrap().trim_start(),
        "capuchind allow alice connect 169.254.169.254:80 --for 1h"
    );
    refused(&lab, &home, &connect("fd00:ec2::254", 80), "cloud metadata").await;
    origin.still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_44_mixed_answers() {
    let origin = Origin::start();
    let port = origin.address.port();
    let hosts = "127.0.0.1 localhost\n169.254.169.254 mixed.internal bad.internal\n::1 mixed.internal\n\
                 127.0.0.1 mixed.internal\n127.0.0.2 bad.internal\n";
    let lab = lab_with_hosts(&broad(&origin), hosts);
    let home = lab.join("alice");
    // IPv6 comes first in every answer; who dialled it would meet this listener. A machine without it has none.
    let other = TcpListener::bind(("::1", port)).inspect(|it| it.set_nonblocking(true).unwrap());
    refused(&lab, &home, &connect("bad.internal", port), "which a rule must name by its address").await;
    match ask(&lab, &home, &connect("mixed.internal", port)).await {
        Answer::Granted(connected) => assert_eq!(connected.peer.0, origin.address),
        Answer::Refused(refusal) => panic!("{}", refusal.text()),
    }
    if let Ok(other) = other {
        assert_eq!(other.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "::1 was dialled");
    }
    origin.listener.accept().unwrap();
    origin.still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_45_v4_mapped_addresses() {
    let origin = Origin::start();
    let lab = Lab::start(&broad(&origin));
    let home = lab.join("alice");
    for host in ["::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::169.254.169.254"] {
        refused(&lab, &home, &connect(host, 80), "cloud metadata").await;
    }
    refused(&lab, &home, &connect("::ffff:127.0.0.1", 22), "loopback").await;
    origin.still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_46_numbers_that_resolvers_read_as_loopback() {
    let origin = Origin::start();
    let lab = Lab::start(&broad(&origin));
    let home = lab.join("alice");
    for host in ["2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "0177.1", "127.1", "0", "１２７.0.0.1"] {
        refused(&lab, &home, &connect(host, origin.address.port()), "neither a name nor an address").await;
    }
    origin.still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_46_the_unspecified_address_past_a_deny_of_loopback() {
    let origin = Origin::start();
    let deny = "[[deny]]\nwho = \"alice\"\nconnect = [\"127.0.0.0/8:*\", \"[::1]:*\"]\n";
    let lab = Lab::start(&format!("[[allow]]\nwho = \"alice\"\nconnect = [\"0.0.0.0:*\", \"[::]:*\"]\n{deny}"));
    let home = lab.join("alice");
    for host in ["0.0.0.0", "::", "::ffff:0.0.0.0", "127.0.0.1"] {
        refused(&lab, &home, &connect(host, origin.address.port()), "a rule denies it").await;
    }
    assert_eq!(origin.listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was dialled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_47_addresses_inside_addresses() {
    let origin = Origin::start();
    let lab = Lab::start(&(broad(&origin) + "[[deny]]\nwho = \"alice\"\nconnect = \"10.0.0.0/8:*\"\n"));
    let home = lab.join("alice");
    for host in [
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "2001:0:102:304::5601:5601",
        "2001:db8::5efe:169.254.169.254",
        "::ffff:0:169.254.169.254",
    ] {
        refused(&lab, &home, &connect(host, 80), "cloud metadata").await;
    }
    for host in ["64:ff9b::10.0.0.1", "2002:a00:1::1", "::ffff:10.0.0.1"] {
        refused(&lab, &home, &connect(host, 80), "a rule denies it").await;
    }
    origin.still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_48_another_spelling_of_a_denied_name() {
    let origin = Origin::start();
    let policy =
        broad(&origin) + "[[deny]]\nwho = \"alice\"\nconnect = [\"secret.internal:*\", \"bücher.example:*\"]\n";
    let lab = lab_with_hosts(&policy, "127.0.0.1 localhost secret.internal xn--bcher-kva.example\n");
    let home = lab.join("alice");
    for host in [
        "secret.internal",
        "SECRET.Internal",
        "secret.internal.",
        "ｓｅｃｒｅｔ。internal",
        "BÜCHER.example",
        "xn--bcher-kva.example.",
    ] {
        refused(&lab, &home, &connect(host, origin.address.port()), "a rule denies it").await;
    }
    origin.still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_49_the_lenders_own_port_sockets_and_files() {
    let origin = Origin::start();
    let rules = "read = [\"/\"]\nwrite = [\"/\"]\nunix = [\"/\"]\nunix_listen = [\"/\"]\nlisten = [\"*:*\"]\n";
    let policy = broad(&origin).replace("\"*:*\",", "\"*:*\", \"127.0.0.0/8:*\",") + rules;
    let lab = lab_with_hosts(&policy, "127.0.0.1 localhost itself.internal\n");
    let home = lab.join("alice");
    let port = lab.address.port();
    for host in ["127.0.0.1", "localhost", "itself.internal", "0.0.0.0", "::ffff:127.0.0.1"] {
        refused(&lab, &home, &connect(host, port), "is the lender's own listener").await;
    }
    refused(&lab, &home, &tcp_listen(&format!("0.0.0.0:{port}")), "the lender itself listens").await;
    let own = |file: &str| lab.dir().join(file).display().to_string();
    let path = |file: &str| own(file).into_bytes();
    for request in [
        planned("files", "read", &own("ca.key")),
        planned("files", "write", &own("policy.toml")),
        Request::UnixConnect(path("admin.sock")),
        Request::UnixListen(UnixListen { path: path("x.sock"), backlog: Some(1) }),
    ] {
        let refusal = refused(&lab, &home, &request, "never lent").await;
        assert!(refusal.notes().last().unwrap().contains("capuchind check alice"), "{:?}", refusal.notes());
    }
    origin.still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_50_ports_that_must_be_spelled_out() {
    let origin = Origin::start();
    let rules = "listen = [\"127.0.0.1:9000-9099\", \"127.0.0.2:*\", \"0.0.0.0/0:9500\"]\n";
    let lab = Lab::start(&(broad(&origin) + rules));
    let home = lab.join("alice");
    for target in
        ["127.0.0.1:80", "0.0.0.0:9500", "[::]:9500", "0.0.0.0:9000", "127.0.0.1:9100", "[::1]:9000", "0.0.0.0:0"]
    {
        refused(&lab, &home, &tcp_listen(target), "no rule allows it").await;
        refused(&lab, &home, &udp_listen(target), "no rule allows it").await;
    }
    for listen in [tcp_listen("127.0.0.2:80"), udp_listen("127.0.0.2:80")] {
        refused(&lab, &home, &listen, "ports below 1024 are no part of `*`").await;
    }
    origin.still_serves(&lab, &home).await;
}
