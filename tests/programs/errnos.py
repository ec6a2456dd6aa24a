"""What connect() says, blocking and not, for each NAME=ADDRESS=PORT of the arguments: NAME ERRNO ERRNO, or `ok` behind an echo."""

import errno
import select
import socket
import sys


def attempt(address, port, blocking):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.setblocking(blocking)
        result = sock.connect_ex((address, port))
        if not blocking:
            if result != errno.EINPROGRESS:
                return f"at-once-{errno.errorcode.get(result, result)}"
            poll = select.poll()
            poll.register(sock, select.POLLOUT)
            poll.poll(10_000)
            result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result:
            return errno.errorcode.get(result, str(result))
        sock.setblocking(True)
        sock.sendall(b"hello")
        peer = sock.getpeername()[:2]
        return "ok" if sock.recv(5) == b"hello" and peer == (address, port) else f"wrong {peer}"


for argument in sys.argv[1:]:
    name, address, port = argument.split("=")
    print(name, *(attempt(address, int(port), blocking) for blocking in (True, False)))
