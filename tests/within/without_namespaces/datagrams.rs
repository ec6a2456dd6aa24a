//! Datagrams, and whom they come from.

use super::*;

#[test]
fn a_time_to_receive_in_that_is_none_is_an_error_and_receives_nothing() {
    let machine = Machine::start();
    let program = r#"
import ctypes, errno, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"first", ("10.77.0.1", 7000))
print(s.recv(99))
s.sendto(b"second", ("10.77.0.1", 7000))
content = ctypes.create_string_buffer(9)
part = (ctypes.c_size_t * 2)(ctypes.addressof(content), 9)
header = ctypes.create_string_buffer(struct.pack("=QI4xQQQQi4xI4x", 0, 0, ctypes.addressof(part), 1, 0, 0, 0, 0), 64)
def receive(seconds, nanoseconds):
    time = ctypes.create_string_buffer(struct.pack("=qq", seconds, nanoseconds), 16)
    return libc.recvmmsg(s.fileno(), header, 1, 0, time)
for time in ((-1, 0), (-1, 10**9), (0, 10**9), (0, -1), (2**63 - 1, 2**32 - 1)):
    print(receive(*time), errno.errorcode[ctypes.get_errno()])
print(receive(60, 0), content.value)
print(receive(0, 1), errno.errorcode[ctypes.get_errno()])
"#;
    let expected = format!("b'first'\n{}1 b'second'\n-1 EAGAIN\n", "-1 EINVAL\n".repeat(5));
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(program)), expected, "as {}", within.uid);
    }
}

#[test]
fn a_socket_that_is_disconnected_can_be_used_again() {
    let machine = Machine::start();
    let program = r#"
import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def disconnect(s):
    return libc.connect(s.fileno(), b"\0" * 16, 16)
def failure(work, *arguments):
    try:
        return work(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
lab = ("10.77.0.1", 7000)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for turn in (b"one", b"two"):
    s.connect(lab)
    s.send(turn)
    print(s.recv(99), disconnect(s), failure(s.getpeername), failure(s.send, b"to nobody"))
s.sendto(b"three", lab)
print(s.recv(99))
t = socket.socket()
for turn in (b"one", b"two"):
    t.connect(lab)
    t.send(turn)
    print(t.recv(99), disconnect(t), failure(t.getpeername))
"#;
    let datagrams = ["one", "two"].map(|turn| format!("b'{turn}' 0 ENOTCONN EDESTADDRREQ\n")).concat();
    let streams = ["one", "two"].map(|turn| format!("b'{turn}' 0 ENOTCONN\n")).concat();
    let expected = format!("{datagrams}b'three'\n{streams}");
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(program)), expected, "as {}", within.uid);
    }
}

#[test]
fn datagrams_come_from_whom_they_were_sent_to() {
    let machine = Machine::start();
    let program = r#"
import socket
for family, host in ((socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd77::1"), (socket.AF_INET, "127.0.0.1")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.sendto(b"to", (host, 7000))
    data, peer = s.recvfrom(99)
    print(data, peer[:2] == (host, 7000))
    s.sendmsg([b"by ", b"parts"], [], 0, (host, 7000))
    data, _, _, peer = s.recvmsg(99)
    print(data, peer[:2] == (host, 7000))
    s.connect((host, 7000))
    s.send(b"connected")
    print(s.recv(99), s.getpeername()[:2] == (host, 7000))
    s.setblocking(True)
    s.send(b"waits")
    data, peer = s.recvfrom(99)
    print(data, peer[:2] == (host, 7000))
for bound in (True, False):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    t = socket.socket(socket.AF_INET6)
    if bound:
        s.bind(("::", 0))
        t.bind(("::", 0))
    for host in ("::ffff:10.77.0.1", "fd77::1", "::ffff:10.77.0.1"):
        s.sendto(b"both", (host, 7000))
        data, peer = s.recvfrom(99)
        print(data, peer[:2] == (host, 7000), s.getsockname()[0])
    t.connect(("::ffff:10.77.0.1", 7000))
    t.send(b"both")
    print(t.recv(99))
"#;
    let both = "b'both' True ::\n".repeat(3) + "b'both'\n";
    let expected = "b'to' True\nb'by parts' True\nb'connected' True\nb'waits' True\n".repeat(3) + &both.repeat(2);
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(program)), expected, "as {}", within.uid);
    }
}

#[test]
fn the_sockets_of_a_program_answer_each_other_whether_they_were_bound_or_not() {
    let machine = Machine::start();
    let program = r#"
import socket
for family, host, every in ((socket.AF_INET, "127.0.0.1", "0.0.0.0"), (socket.AF_INET6, "::1", "::")):
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((host, 0))
    for connects in (True, False):
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(20)
        if connects:
            client.connect(server.getsockname())
        client.sendmsg([b"to"], [], 0, None if connects else server.getsockname())
        data, peer = server.recvfrom(99)
        server.sendto(b"back", peer)
        own, port = client.getsockname()[:2]
        print(data, client.recv(99), own == (host if connects else every), port == peer[1])
"#;
    let expected = "b'to' b'back' True True\n".repeat(4);
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(program)), expected, "as {}", within.uid);
    }
}

#[test]
fn a_message_that_says_so_is_cut_into_datagrams() {
    let machine = Machine::start();
    let program = r#"
import errno, socket, struct
UDP_SEGMENT = 103
def cut(length):
    return [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", length))]
for host in ("10.77.0.1", "fd77::1"):
    for connects in (True, False):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(20)
        target = (host, 7000)
        if connects:
            s.connect(target)
        sent = s.sendmsg([b"1" * 1500, b"2" * 1000], cut(1000), 0, None if connects else target)
        print(sent, [len(s.recv(9999)) for _ in range(3)])
        try:
            s.sendmsg([b"3" * 65508], cut(1000), 0, None if connects else target)
        except OSError as error:
            print(errno.errorcode[error.errno])
"#;
    let expected = "2500 [1000, 1000, 500]\nEMSGSIZE\n".repeat(4);
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(program)), expected, "as {}", within.uid);
    }
}
