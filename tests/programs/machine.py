"""The lender's machine: its resolver, a web server for a folder, an echo, and a port that never answers.

Arguments: the zone and the log of names.py, a folder for the web, a fifo to say that everything listens.
"""

import functools
import http.server
import os
import socket
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../support"))
import names


class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def echo(listener):
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=echo_one, args=(conn,), daemon=True).start()


def echo_one(conn):
    with conn:
        while data := conn.recv(65536):
            conn.sendall(data)


def silent():
    """A listener whose queue is full: a SYN to it is lost, as on the way to a machine that is off."""
    listener = socket.create_server(("10.77.0.1", 81), backlog=1)
    waiting = []
    for _ in range(8):
        conn = socket.socket()
        conn.setblocking(False)
        conn.connect_ex(("10.77.0.1", 81))
        waiting.append(conn)
    return listener, waiting


def main():
    zone_path, log, folder, ready = sys.argv[1:]
    zone = names.Zone(zone_path, log)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 53))
    web = Web(("::", 80), functools.partial(Quiet, directory=folder))
    kept = silent()
    for serve, args in [
        (names.serve_udp, (zone, udp)),
        (names.serve_tcp, (zone, socket.create_server(("127.0.0.1", 53)))),
        (web.serve_forever, ()),
        (echo, (socket.create_server(("", 5301), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512),)),
    ]:
        threading.Thread(target=serve, args=args, daemon=True).start()
    with open(ready, "w") as fifo:
        fifo.write("ready\n")
    threading.Event().wait()
    del kept


main()
