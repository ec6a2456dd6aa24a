//! Connections: as the lender makes them, and as the program sees them.

use super::*;
use crate::connects::{NOBODY_AT_ZERO, PORT_ZERO, probed};

#[test]
fn a_connect_to_port_zero_is_refused_and_ends_nothing_else() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(PORT_ZERO)), NOBODY_AT_ZERO, "as {}", within.uid);
    }
}

/// Becomes the command in its arguments, which is given sockets of each family that are bound to loopback's device, or to another.
const OF_A_DEVICE: &str = r#"
import os, socket, sys
device, *command = sys.argv[1:]
if device != "lo":
    device = next((name for _, name in socket.if_nameindex() if name != "lo"), None)
    if device is None:
        sys.exit(print("there is no other"))
for number in range(40, 44):
    s = socket.socket((socket.AF_INET, socket.AF_INET6)[number % 2])
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    os.dup2(s.fileno(), number)
os.execvp(command[0], command)
"#;

#[test]
fn a_given_socket_of_one_device_is_met_where_that_is_loopback_and_else_told_so() {
    let machine = Machine::start();
    let program = r#"
import errno, select, socket
for number in range(40, 44):
    s = socket.socket(fileno=number)
    s.setblocking(number < 42)
    error = s.connect_ex((("10.77.0.1", "fd77::1")[number % 2], 7000))
    if error == errno.EINPROGRESS:
        select.select([], [s], [], 30)
        error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error == 0:
        s.setblocking(True)
        s.sendall(b"x")
        assert s.recv(1) == b"x"
    print(errno.errorcode.get(error, "OK"))
"#;
    let keep = ["--keep-fd", "40", "--keep-fd", "41", "--keep-fd", "42", "--keep-fd", "43"];
    for within in machine.borrowers() {
        let inner = within.run_with(&[&["--no-netns"][..], &keep].concat(), &["python3", "-c", program]);
        for (device, expected) in [("lo", "OK\n"), ("another", "ENETUNREACH\n")] {
            let mut command = within.beside("python3");
            command.args(["-c", OF_A_DEVICE, device]).arg(inner.get_program()).args(inner.get_args());
            let said = says(&mut command);
            let is_alone = device != "lo" && said == "there is no other\n";
            assert!(is_alone || said == expected.repeat(4), "{device} as {}: {said}", within.uid);
        }
    }
}

#[test]
fn groups_and_everybody_are_out_of_reach_of_connections_as_of_datagrams() {
    let machine = Machine::start();
    let program = r#"
import errno, socket
for family, host in ((2, "224.0.0.1"), (2, "255.255.255.255"), (10, "ff02::1"), (10, "::ffff:224.0.0.1")):
    print(errno.errorcode[socket.socket(family).connect_ex((host, 80))])
"#;
    for within in machine.borrowers() {
        let output = run(&mut within.bare_python(program));
        assert_eq!(text(output.stdout), "ENETUNREACH\n".repeat(4), "as {}", within.uid);
        assert!(!text(output.stderr).contains("is refused"), "as {}", within.uid);
    }
}

#[test]
fn connect_fails_as_the_lenders_does() {
    let machine = Machine::start();
    let cases = [
        ("10.77.0.1:7000", "OK", "10.77.0.1"),
        ("10.77.0.1:9", "ECONNREFUSED", ""),
        ("203.0.113.5:80", "EHOSTUNREACH", ""),
        ("198.51.100.5:80", "EACCES", ""), // whatever routes there are, the policy's no comes first
        ("10.78.0.1:80", "EACCES", ""),    // the policy's no
        ("fd77::1:7000", "OK", "fd77::1"),
        ("fd77::1:9", "ECONNREFUSED", ""),
        ("fd88::1:80", "EACCES", ""), // the policy's no
        ("::1:7000", "OK", "::1"),
        ("127.0.0.1:9", "ECONNREFUSED", ""),
        ("::ffff:10.77.0.1:7000", "OK", "::ffff:10.77.0.1"),
        ("::ffff:10.77.0.1:9", "ECONNREFUSED", ""),
    ];
    let (probe, expected) = probed(&cases);
    for within in machine.borrowers() {
        let probed = run(&mut within.bare(&probe));
        assert_eq!(text(probed.stdout), expected, "as {}", within.uid);
        let said = text(probed.stderr);
        assert_eq!(said.matches("connect 10.78.0.1:80 is refused: no rule allows it").count(), 1, "{said}");
    }
}

#[test]
fn a_socket_that_does_not_wait_is_connecting_until_the_lender_has_answered() {
    let machine = Machine::start();
    let program = r#"
import errno, select, socket
s = socket.socket()
s.setblocking(False)
print(errno.errorcode[s.connect_ex(("10.78.0.9", 80))], errno.errorcode[s.connect_ex(("10.78.0.9", 80))])
print(select.select([], [s], [], 0.5)[1], s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
s.close()
s = socket.socket()
s.setblocking(False)
s.connect_ex(("10.77.0.1", 9))
select.select([], [s], [], 20)
print(errno.errorcode[s.connect_ex(("10.77.0.1", 7000))])
print(errno.errorcode[s.connect_ex(("10.77.0.1", 7000))])
select.select([], [s], [], 20)
print(errno.errorcode[s.connect_ex(("10.77.0.1", 7000))])
s.setblocking(True)
s.sendall(b"again")
print(s.recv(9))
"#;
    for within in machine.borrowers() {
        let said = says(&mut within.bare_python(program));
        assert_eq!(
            said, "EINPROGRESS EALREADY\n[] 0\nECONNREFUSED\nEINPROGRESS\nEISCONN\nb'again'\n",
            "as {}",
            within.uid
        );
    }
}

#[test]
fn hundreds_of_connections_at_once_are_echoed() {
    let machine = Machine::start();
    let threads = r#"
import socket, threading
done = []
def one(number):
    s = socket.create_connection(("10.77.0.1", 7000))
    s.sendall(b"%d" % number * 1000)
    s.shutdown(socket.SHUT_WR)
    data = b""
    while more := s.recv(65536):
        data += more
    done.append(data == b"%d" % number * 1000)
threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(done), all(done))
"#;
    let tasks = r#"
import asyncio
async def one(number):
    reader, writer = await asyncio.open_connection("fd77::1" if number % 2 else "10.77.0.1", 7000)
    writer.writelines([b"%d" % number, b"\n"])
    line = await reader.readline()
    return line == b"%d\n" % number and writer.get_extra_info("peername")[1] == 7000
async def main():
    answers = await asyncio.gather(*[one(number) for number in range(500)])
    print(len(answers), all(answers))
asyncio.run(main())
"#;
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(threads)), "200 True\n", "as {}", within.uid);
        assert_eq!(says(&mut within.bare_python(tasks)), "500 True\n", "as {}", within.uid);
    }
}

#[test]
fn a_program_learns_the_address_that_its_peer_sees() {
    let machine = Machine::start();
    let program = r#"
import socket
for host in ("10.77.0.1", "fd77::1", "127.0.0.1", "::1"):
    s = socket.create_connection((host, 80))
    own, peer = s.getsockname()[0], s.getpeername()[:2]
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while data := s.recv(4096):
        answer += data
    seen = answer.split(b"\r\n\r\n")[1].decode().removeprefix("::ffff:")
    print(own == seen, peer == (host, 80))
"#;
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(program)), "True True\n".repeat(4), "as {}", within.uid);
    }
}
