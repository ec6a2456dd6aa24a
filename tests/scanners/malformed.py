"""Malformed handshakes, made with tlslite-ng. Each must end with a TLS alert or a close, and with nothing else.

    malformed.py HOST PORT
"""

import os
import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import CipherSuite, GroupName, SignatureScheme
from tlslite.errors import TLSRemoteAlert
from tlslite.extensions import (
    ClientKeyShareExtension,
    KeyShareEntry,
    SignatureAlgorithmsExtension,
    SupportedGroupsExtension,
    SupportedVersionsExtension,
    TLSExtension,
)
from tlslite.keyexchange import ECDHKeyExchange
from tlslite.messages import ClientHello

HANDSHAKE, CHANGE_CIPHER_SPEC, ALERT, APPLICATION_DATA = 22, 20, 21, 23
# The lender's deadline for a handshake is 5 s.
PATIENCE = 15

address = (sys.argv[1], int(sys.argv[2]))


def hello(ciphers=(CipherSuite.TLS_AES_128_GCM_SHA256,), key_share=None, more=(), versions=((3, 4),)) -> bytearray:
    exchange = ECDHKeyExchange(GroupName.x25519, (3, 4))
    share = key_share if key_share is not None else exchange.calc_public_value(exchange.get_random_private_key())
    extensions = [
        SupportedVersionsExtension().create(list(versions)),
        SupportedGroupsExtension().create([GroupName.x25519]),
        SignatureAlgorithmsExtension().create([SignatureScheme.ed25519]),
        ClientKeyShareExtension().create([KeyShareEntry().create(GroupName.x25519, share)]),
        *more,
    ]
    return ClientHello().create((3, 3), os.urandom(32), os.urandom(32), list(ciphers), extensions=extensions).write()


def record(kind: int, body: bytes, length=None) -> bytes:
    length = len(body) if length is None else length
    return bytes([kind, 3, 3]) + length.to_bytes(2, "big") + bytes(body)


def lying(message: bytearray, length: int) -> bytearray:
    """The message with another length in its header."""
    return message[:1] + length.to_bytes(3, "big") + message[4:]


good = hello()
groups_twice = SupportedGroupsExtension().create([GroupName.x25519])
attacks = {
    "an empty handshake record": record(HANDSHAKE, b""),
    "a record longer than TLS allows": record(HANDSHAKE, good, 0xFFFF) + bytes(0xFFFF),
    "a record of an unknown kind": record(99, good),
    "a handshake of an unknown kind": record(HANDSHAKE, b"\xfe\x00\x00\x01x"),
    "a hello that says it is empty": record(HANDSHAKE, lying(good, 0)),
    "a hello that says it is 16 MiB": record(HANDSHAKE, lying(good, 0xFFFFFF)) + record(HANDSHAKE, bytes(16000)) * 8,
    "a hello that is one byte too long": record(HANDSHAKE, lying(good + b"\0", len(good) - 3)),
    "a hello without ciphers": record(HANDSHAKE, hello(ciphers=())),
    "a hello with unknown ciphers": record(HANDSHAKE, hello(ciphers=(0xEEEE,))),
    "a hello without versions": record(HANDSHAKE, hello(versions=())),
    "an extension twice": record(HANDSHAKE, hello(more=[groups_twice])),
    "an extension that is cut off": record(HANDSHAKE, hello(more=[TLSExtension(extType=0).create(0, b"\0\xff\0")])),
    "a key share of no bytes": record(HANDSHAKE, hello(key_share=b"")),
    "a key share of zeros": record(HANDSHAKE, hello(key_share=bytes(32))),
    "a key share that is too long": record(HANDSHAKE, hello(key_share=bytes(1000))),
    "application data before the hello": record(APPLICATION_DATA, b"hello"),
    "a change of ciphers and nothing more": record(CHANGE_CIPHER_SPEC, b"\x02"),
    "a finished message before the keys": record(HANDSHAKE, good) + record(HANDSHAKE, b"\x14\x00\x00\x20" + bytes(32)),
    "application data that nobody can decrypt": record(HANDSHAKE, good) + record(APPLICATION_DATA, bytes(100)),
    "a second hello": record(HANDSHAKE, good) + record(HANDSHAKE, good),
    "an alert": record(ALERT, b"\x02\x00"),
}


def answer(attack: bytes) -> bytes:
    """All that comes back until the end; a lender that keeps silent and open raises TimeoutError."""
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        got = b""
        try:
            connection.sendall(attack)
            while piece := connection.recv(65536):
                got += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
        return got


def kinds(answer: bytes) -> list:
    found = []
    while len(answer) >= 5:
        found.append(answer[0])
        answer = answer[5 + int.from_bytes(answer[3:5], "big") :]
    return found


for name, attack in attacks.items():
    got = kinds(answer(attack))
    # What answers a good hello is encrypted: its alerts look like application data.
    allowed = {HANDSHAKE, CHANGE_CIPHER_SPEC, APPLICATION_DATA, ALERT} if attack.startswith(record(HANDSHAKE, good)) else {ALERT}
    assert set(got) <= allowed, f"{name} was answered with records {got}"
    print(f"{name}: {got}")


def refused_handshake(settings: HandshakeSettings, alert: str) -> None:
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        tls = TLSConnection(connection)
        try:
            tls.handshakeClientCert(settings=settings, alpn=[b"capuchin/1"])
            # A client of TLS 1.3 is done before the lender has judged it.
            tls.read(1, 1)
        except TLSRemoteAlert as error:
            assert alert in str(error), f"{alert} was expected, not {error}"
            print(f"a whole handshake: {error}")
            return
        raise AssertionError(f"no alert {alert}")


old = HandshakeSettings()
old.minVersion, old.maxVersion = (3, 1), (3, 3)
refused_handshake(old, "protocol_version")
