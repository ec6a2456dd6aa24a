"""A DNS server whose every answer the test writes, and a web server that says at which address it was reached.

Arguments: a file with the zone, a file for what was asked, a fifo to say that it is ready. The zone is a JSON object from
"name TYPE" to the answers to the first, second, … such question; the last one stays. An answer is a list of records, each
"owner ttl TYPE value", or a word: "servfail", "long" (over UDP cut short), "lies" (what answers something else first). A
name that begins with "silent" gets no answer. With one argument more there is no web server.
"""

import json
import socket
import struct
import sys
import threading

TYPES = {"A": 1, "CNAME": 5, "TXT": 16, "AAAA": 28}
NUMBERS = {number: name for name, number in TYPES.items()}


def encode_name(name):
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def encode_record(text):
    owner, ttl, kind, value = text.split(" ", 3)
    if kind in ("A", "AAAA"):
        body = socket.inet_pton(socket.AF_INET if kind == "A" else socket.AF_INET6, value)
    elif kind == "CNAME":
        body = encode_name(value)
    else:
        body = bytes([len(value)]) + value.encode()
    return encode_name(owner) + struct.pack(">HHIH", TYPES[kind], 1, int(ttl), len(body)) + body


class Zone:
    def __init__(self, path, log):
        with open(path) as file:
            self.answers = json.load(file)
        self.names = {key.split(" ")[0] for key in self.answers}
        self.asked = {}
        self.log = open(log, "a", buffering=1)
        self.lock = threading.Lock()

    def answers_to(self, query, carrier):
        """The datagrams, or the one message over TCP."""
        at, labels = 12, []
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        spelled = ".".join(labels)
        name, number = spelled.lower(), struct.unpack(">H", query[at + 1 : at + 3])[0]
        kind = NUMBERS.get(number, str(number))
        with self.lock:
            key = f"{name} {kind}"
            count = self.asked[key, carrier] = self.asked.get((key, carrier), 0) + 1
            self.log.write(f"{carrier} {key}\n")
            print(f"asked {carrier} {key}", flush=True)

        def message(records, flags=0x8180, ident=query[:2], question=question):
            head = ident + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
            return head + question + b"".join(map(encode_record, records))

        if name.startswith("silent"):
            return []
        if key not in self.answers:
            return [message([], 0x8180 if name in self.names else 0x8183)]
        answers = self.answers[key]
        answer = answers[min(count, len(answers)) - 1]
        if answer == "servfail":
            return [message([], 0x8182)]
        if answer == "long" and carrier == "udp":
            return [message([], 0x8380)]
        if answer == "long":
            return [message([f"{name} 60 TXT {'x' * 200}"] * 250)]
        if answer == "lies":
            wrong = [f"{name} 60 A 10.77.0.2"]
            other = encode_name("other.test") + struct.pack(">HH", number, 1)
            stranger = bytes([query[0] ^ 1, query[1]])
            lies = [b"", b"\0" * 11, message(wrong, ident=stranger), message(wrong, question=other), message(wrong, flags=0x0100)]
            return lies + [message([f"{name} 60 A 10.77.0.1"])]
        return [message(answer)]


def serve_udp(zone, sock):
    while True:
        query, peer = sock.recvfrom(65535)
        for answer in zone.answers_to(query, "udp"):
            sock.sendto(answer, peer)


def serve_tcp(zone, listener):
    while True:
        conn, _ = listener.accept()
        with conn:
            (length,) = struct.unpack(">H", conn.recv(2, socket.MSG_WAITALL))
            for answer in zone.answers_to(conn.recv(length, socket.MSG_WAITALL), "tcp"):
                conn.sendall(struct.pack(">H", len(answer)) + answer)


def serve_web(listener):
    while True:
        conn, _ = listener.accept()
        with conn:
            conn.sendall(conn.getsockname()[0].encode())


def main():
    zone_path, log, ready, *no_web = sys.argv[1:]
    zone = Zone(zone_path, log)
    loopback, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    loopback.bind(("127.0.0.1", 53))
    other.bind(("10.77.0.2", 53))
    for serve, args in [
        (serve_udp, (zone, loopback)),
        (serve_udp, (zone, other)),
        (serve_tcp, (zone, socket.create_server(("", 53)))),
        *([] if no_web else [(serve_web, (socket.create_server(("", 80)),))]),
    ]:
        threading.Thread(target=serve, args=args, daemon=True).start()
    with open(ready, "w") as fifo:
        fifo.write("ready\n")
    threading.Event().wait()


if __name__ == "__main__":
    main()
