//! What a program itself listens on, and where it may not.

use super::*;

#[test]
fn a_port_of_its_own_stays_inside_and_others_are_the_lenders() {
    let machine = Machine::start();
    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    let kept = here.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in here.incoming() {
            std::io::Write::write_all(&mut connection.unwrap(), b"kept here").unwrap();
        }
    });
    let program = format!(
        r#"
import errno, socket
def first(target):
    return socket.create_connection(target).recv(99)
kept = "{kept}".split(":")
print(first((kept[0], int(kept[1]))))
l = socket.create_server(("127.0.0.1", 0))
s = socket.create_connection(l.getsockname())
c, peer = l.accept()
c.sendall(b"own")
print(s.recv(9), peer == s.getsockname(), s.getpeername() == l.getsockname())
port = l.getsockname()[1]
c.close()
l.close()
print(errno.errorcode[socket.socket().connect_ex(("127.0.0.1", port))])
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
d.bind(("", 0))
print(d.getsockname()[0])
e = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
e.sendto(b"own", ("127.0.0.1", d.getsockname()[1]))
print(d.recvfrom(9)[0])
"#
    );
    for within in machine.borrowers() {
        let mut command = within.run_with(&["--no-netns", "--local", &kept], &["python3", "-c", &program]);
        let said = says(&mut command);
        assert_eq!(said, "b'kept here'\nb'own' True True\nECONNREFUSED\n0.0.0.0\nb'own'\n", "as {}", within.uid);
    }
}

#[test]
fn a_resolver_of_its_own_is_met_by_connections_as_by_datagrams() {
    let machine = Machine::start();
    // Not where this machine may have one.
    let program = r#"
import socket
place = ("127.98.76.54", 53)
listener = socket.create_server(place)
listener.settimeout(20)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(place)
asks = socket.create_connection(place)
asks.settimeout(20)
listener.accept()[0].sendall(b"own")
print(asks.recv(9))
asks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asks.sendto(b"own", place)
print(datagrams.recv(9))
"#;
    // Such a port is root's.
    for within in machine.borrowers().iter().filter(|within| within.uid == 0) {
        assert_eq!(says(&mut within.bare_python(program)), "b'own'\nb'own'\n");
    }
}

/// Has a port of each kind, which others may have, too.
const SHARED: &str = r#"
import socket, sys
held = [socket.socket(2, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
for s in held:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", held[0].getsockname()[1]))
held[0].listen()
print("has", held[0].getsockname()[1], flush=True)
sys.stdin.read()
"#;

#[test]
fn a_port_of_another_program_is_shared_by_none_and_one_of_its_own_is() {
    let machine = Machine::start();
    let program = r#"
import errno, socket, sys
def share(kind, port):
    s = socket.socket(2, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        s.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            s.listen()
        print("OK")
    except OSError as error:
        print(errno.errorcode[error.errno])
    return s
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    share(kind, int(sys.argv[1]))
    first = share(kind, 0)
    second = share(kind, first.getsockname()[1])
"#;
    for within in machine.borrowers() {
        let other = Daemon::spawn(within.beside("python3").args(["-c", SHARED]).stdin(Stdio::piped()));
        let port = other.wait_for_line("has ").split_off(4);
        let said = says(within.bare_python(program).arg(port));
        assert_eq!(said, "EADDRINUSE\nOK\nOK\n".repeat(2), "as {}", within.uid);
    }
}

#[test]
fn beyond_loopback_nobody_listens_and_the_person_hears_why() {
    let machine = Machine::start();
    let program = r#"
import errno, socket
for address in ("0.0.0.0", "10.77.0.1"):
    s = socket.socket()
    s.bind((address, 8000))
    try:
        s.listen()
    except OSError as error:
        print(address, s.getsockname(), errno.errorcode[error.errno])
    s.close()
"#;
    for within in machine.borrowers() {
        let output = run(&mut within.bare_python(program));
        assert_eq!(
            text(output.stdout),
            "0.0.0.0 ('0.0.0.0', 8000) EACCES\n10.77.0.1 ('10.77.0.1', 8000) EACCES\n",
            "as {}",
            within.uid
        );
        let said = text(output.stderr);
        assert_eq!(said.matches("under --no-netns a program listens on loopback alone").count(), 1, "{said}");
    }
    for within in machine.borrowers() {
        let mut published = within.run_with(&["--no-netns", "--publish", "8080:80"], &["true"]);
        assert!(fails(&mut published, 255).contains("cannot be used with"), "as {}", within.uid);
    }
}

#[test]
fn a_port_for_datagrams_hears_no_stranger_and_the_person_hears_that() {
    let machine = Machine::start();
    let program = r#"
import socket, sys
for address in ("127.0.0.1", 0), ("0.0.0.0", 0), *eval(sys.argv[1]):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.bind(address)
    # Whom it asks answers it.
    s.sendto(b"asked", ("10.77.0.1", 7000))
    print(s.recvfrom(9), s.getsockname()[0])
"#;
    let line = "under --no-netns a port for datagrams hears those alone whom the program has sent to";
    for within in machine.borrowers() {
        let answered = |address| format!("(b'asked', ('10.77.0.1', 7000)) {address}\n");
        let client = run(within.bare_python(program).arg("()"));
        assert_eq!(text(client.stdout), answered("127.0.0.1") + &answered("0.0.0.0"), "as {}", within.uid);
        assert!(!text(client.stderr).contains(line), "as {}", within.uid);
        let server = run(within.bare_python(program).arg("[('0.0.0.0', 8060), ('10.77.0.1', 8061)]"));
        let expected = [answered("127.0.0.1"), answered("0.0.0.0").repeat(2), answered("10.77.0.1")].concat();
        assert_eq!(text(server.stdout), expected, "as {}", within.uid);
        let said = text(server.stderr);
        assert_eq!(said.matches(line).count(), 1, "as {}: {said}", within.uid);
    }
}
