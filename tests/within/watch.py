"""Sees every packet on every device of this network, and everybody who comes to a socket that its arguments name. For each line of
its input it says what was there since the last one: a line for each packet that belongs to no connection with the lender and for
each guest of a socket, and then the number of those connections.
"""

import mmap
import os
import select
import socket
import struct
import sys

LENDER_PORT = 4000
# What the kernel says of itself to its neighbours: solicitations, advertisements, and reports of groups.
OWN_ICMPV6 = {133, 134, 135, 136, 143}


def ports(kind, body):
    return struct.unpack(">HH", body[:4]) if kind in (6, 17, 132, 136) and len(body) >= 4 else None


def judge(proto, packet):
    """What is to be said of it: nothing, that a connection with the lender begins, or itself."""
    if proto == 0x0800 and len(packet) >= 20:
        kind, body = packet[9], packet[(packet[0] & 15) * 4 :]
        ends = [socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16)]
        lent = kind == 6 and ends == ["127.0.0.1"] * 2 and LENDER_PORT in ports(kind, body)
        if lent and b"LEAKED" not in body:
            return "begins" if body[13] & 0x12 == 0x02 else None
        return f"IPv4 {kind} {ends} {ports(kind, body)} {body[:60]}"
    if proto == 0x86DD and len(packet) >= 40:
        kind, body = packet[6], packet[40:]
        if kind == 0 and len(body) > 8:
            kind, body = body[0], body[8 * (1 + body[1]) :]
        if kind == 58 and body and body[0] in OWN_ICMPV6:
            return None
        ends = [socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24)]
        return f"IPv6 {kind} {ends} {ports(kind, body)} {body[:60]}"
    return f"ethertype {proto:04x} {packet[:60]}"


BLOCK, BLOCKS, FRAME = 1 << 16, 512, 1 << 11
SOL_PACKET, PACKET_RX_RING, PACKET_STATISTICS = 263, 5, 6
tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
# Memory that the kernel writes to: no burst is lost while this program sleeps.
tap.setsockopt(SOL_PACKET, PACKET_RX_RING, struct.pack("IIII", BLOCK, BLOCKS, FRAME, BLOCK // FRAME * BLOCKS))
ring = mmap.mmap(tap.fileno(), BLOCK * BLOCKS)
names = {}


def frames():
    """Every packet that is there: device, ethertype, kind and the packet, cut to what a frame holds."""
    global place
    while struct.unpack_from("Q", ring, place * FRAME)[0] & 1:
        at = place * FRAME
        _, _, held, _, net = struct.unpack_from("QIIHH", ring, at)
        _, proto, index, _, kind = struct.unpack_from("=HHiHB", ring, at + 32)
        yield names.setdefault(index, socket.if_indextoname(index)), socket.ntohs(proto), kind, ring[at + net : at + net + held]
        struct.pack_into("Q", ring, at, 0)
        place = (place + 1) % (BLOCK // FRAME * BLOCKS)


def serve(name):
    listener = socket.socket(socket.AF_UNIX)
    if name.startswith("@"):
        listener.bind("\0" + name[1:])
    else:
        folder = os.path.dirname(name)
        os.makedirs(folder, exist_ok=True)
        if folder.startswith("/run/user/"):
            os.chown(folder, int(folder.split("/")[3]), -1)
        listener.bind(name)
        os.chmod(name, 0o777)
    listener.listen(64)
    return listener


services = {serve(name): name for name in sys.argv[1:]}
place = 0
print("watches", flush=True)
others, begun = [], 0
while True:
    ready, _, _ = select.select([tap, sys.stdin, *services], [], [])
    # Whatever was sent before it was asked is there already.
    asked = sys.stdin in ready
    for device, proto, kind, packet in frames():
        # Loopback shows each twice: as it goes out, and as it comes in.
        if device == "wire" or (device == "lo" and kind != socket.PACKET_OUTGOING):
            continue
        said = judge(proto, packet)
        if said == "begins":
            begun += 1
        elif said:
            others.append(f"{device} {said}")
    while guests := select.select(services, [], [], 0)[0]:
        for listener in guests:
            listener.accept()[0].close()
            others.append(f"service {services[listener]}")
    if asked:
        if not sys.stdin.readline():
            sys.exit()
        _, dropped = struct.unpack("II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        assert not dropped, f"{dropped} packets were not seen"
        print(*others, f"to the lender {begun}", sep="\n", flush=True)
        others, begun = [], 0
