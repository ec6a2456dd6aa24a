//! What a program can make capuchin hold.

use super::*;
use crate::support::{
    costs::{descriptors, memory_kib},
    own_uid,
};

#[test]
fn connected_sockets_for_datagrams_by_the_thousand_stay_bounded() {
    let machine = Machine::start();
    let program = r#"
import collections, errno, resource, signal, socket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(3000):
    one.connect(("10.77.0.1", 10000 + number))
one.connect(("10.77.0.1", 7000))
one.send(b"one")
print(one.recv(9), flush=True)
sockets, said = [], collections.Counter()
for number in range(1500):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    said[errno.errorcode.get(s.connect_ex(("10.77.0.1", 10000 + number)), "OK")] += 1
    sockets.append(s)
print("said", said["OK"] + said["ENOBUFS"], said["OK"] >= 256, flush=True)
s = socket.create_connection(("10.77.0.1", 7000))
s.sendall(b"still")
print("held", s.recv(9).decode(), flush=True)
signal.pause()
"#;
    for within in machine.borrowers() {
        let running = Daemon::spawn(&mut within.bare_python(program));
        running.wait_for_line("b'one'");
        assert_eq!(running.wait_for_line("said "), "said 1500 True", "as {}", within.uid);
        assert_eq!(running.wait_for_line("held "), "held still", "as {}", within.uid);
        // No other user may look into it.
        if own_uid() == 0 {
            let held = descriptors(running.child.id());
            assert!(held < 1400, "{held} descriptors as {}", within.uid);
        }
    }
}

#[test]
fn long_messages_that_wait_to_be_sent_stay_bounded() {
    let machine = Machine::start();
    let program = r#"
import ctypes, signal, socket, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
near.setblocking(False)
try:
    while True:
        near.send(bytes(1000))
except BlockingIOError:
    near.setblocking(True)
content = ctypes.create_string_buffer(1)
part = (ctypes.c_size_t * 2)(ctypes.addressof(content), 1)
control = ctypes.create_string_buffer(struct.pack("=Qii", 65536, 1, 99), 65536)
# The first has none, so that it waits.
headers = [struct.pack("=QI4xQQQQi4xI4x", 0, 0, ctypes.addressof(part), 1, ctypes.addressof(control), bytes, 0, 0) for bytes in [0] + [65536] * 1023]
headers = ctypes.create_string_buffer(b"".join(headers), 1024 * 64)
for _ in range(6):
    threading.Thread(target=lambda: libc.sendmmsg(near.fileno(), headers, 1024, 0), daemon=True).start()
# Each behind those that wait by then.
for _ in range(20):
    s = socket.create_connection(("10.77.0.1", 7000))
    s.sendall(b"still")
print("held", s.recv(9).decode(), flush=True)
signal.pause()
"#;
    for within in machine.borrowers() {
        let running = Daemon::spawn(&mut within.bare_python(program));
        assert_eq!(running.wait_for_line("held "), "held still", "as {}", within.uid);
        let most = memory_kib(running.child.id(), "VmHWM");
        assert!(most < 150 * 1024, "{most} KiB as {}", within.uid);
    }
}

#[test]
fn sockets_by_the_thousand_that_nobody_answers_stay_bounded() {
    let machine = Machine::start();
    let program = r#"
import collections, errno, resource, socket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
sockets, said = [], collections.Counter()
for number in range(5000):
    s = socket.socket()
    s.setblocking(False)
    said[errno.errorcode[s.connect_ex(("10.78.0.9", 1 + number))]] += 1
    sockets.append(s)
print(said["EINPROGRESS"] + said["EAGAIN"])
for s in sockets:
    s.close()
while True:
    try:
        s = socket.create_connection(("10.77.0.1", 7000))
        break
    except OSError as error:
        # All streams of the session are the others', until it is noticed that nobody waits for them.
        assert error.errno in (errno.EAGAIN, errno.ETIMEDOUT, errno.ECONNRESET), error
s.sendall(b"still")
print(s.recv(9).decode())
"#;
    assert_eq!(says(&mut machine.anybody().bare_python(program)), "5000\nstill\n");
}
