"""What listens on the lender's machine. Argument: a fifo to say that it is ready.

80 a page that names the peer, 7000 echo with half-close and of datagrams, 7001 reads slowly and keeps what it has read for 7002 to tell,
7003 never closes.
"""

import socket
import sys
import threading
import time

swallowed = [0]


def page(conn):
    conn.recv(4096)
    body = conn.getpeername()[0].encode()
    conn.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def echo(conn):
    while data := conn.recv(65536):
        conn.sendall(data)
    conn.shutdown(socket.SHUT_WR)


def swallow(conn):
    count = 0
    while data := conn.recv(65536):
        count += len(data)
        time.sleep(0.002)
    swallowed[0] = count


def tell(conn):
    conn.sendall(str(swallowed[0]).encode())


def hold(conn):
    threading.Event().wait()


def serve(port, handle):
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("::", port))
    listener.listen(4096)

    def one(conn):
        with conn:
            try:
                handle(conn)
            except OSError:
                pass

    def accept():
        while True:
            conn, _ = listener.accept()
            threading.Thread(target=one, args=(conn,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def echo_datagrams(port):
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    while True:
        try:
            sock.sendto(*sock.recvfrom(65536))
        except OSError:
            pass


threading.stack_size(128 * 1024)
threading.Thread(target=echo_datagrams, args=(7000,), daemon=True).start()
for port, handle in [(80, page), (7000, echo), (7001, swallow), (7002, tell), (7003, hold)]:
    serve(port, handle)
with open(sys.argv[1], "w") as fifo:
    fifo.write("ready\n")
threading.Event().wait()
