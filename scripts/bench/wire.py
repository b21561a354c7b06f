"""A client in bytes: as little of the protocol as the benches need, with SCRAM-SHA-256 and TLS."""

import base64
import functools
import hashlib
import hmac
import os
import socket
import ssl
import struct


class Refused(Exception):
    pass


@functools.lru_cache
def salted(password, salt, rounds):
    # once for all clients: what is measured is the other side
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)


def mac(key, data):
    return hmac.digest(key, data, "sha256")


class Client:
    """Logged in when it is there. `tls`: an ssl.SSLContext."""

    def __init__(self, address, user, database, password=None, tls=None, login=True):
        self.socket = socket.create_connection(address, 60)
        self.rest = b""
        if tls:
            self.socket.sendall(struct.pack("!ii", 8, 80877103))
            if self.socket.recv(1) != b"S":
                raise Refused("TLS is not served")
            self.socket = tls.wrap_socket(self.socket)
        if login:
            self.log_in(user, database, password)

    def log_in(self, user, database, password):
        words = ["user", user, "database", database, "application_name", "bench", "", ""]
        body = struct.pack("!i", 196608) + "\0".join(words).encode()
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        while True:
            tag, body = self.message()
            if tag == b"Z":
                return
            if tag == b"R" and body[:4] == b"\0\0\0\x0a":
                self.prove(password)

    def prove(self, password):
        nonce = base64.b64encode(os.urandom(18)).decode()
        first = f"n=,r={nonce}"
        data = f"n,,{first}".encode()
        self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(data)) + data)
        challenge = self.message()[1][4:].decode()
        parts = dict(part.split("=", 1) for part in challenge.split(","))
        key = salted(password, base64.b64decode(parts["s"]), int(parts["i"]))
        client, last = mac(key, b"Client Key"), f"c=biws,r={parts['r']}"
        signed = mac(hashlib.sha256(client).digest(), f"{first},{challenge},{last}".encode())
        proof = bytes(a ^ b for a, b in zip(client, signed))
        self.send(b"p", f"{last},p={base64.b64encode(proof).decode()}".encode())

    def send(self, tag, body):
        self.socket.sendall(tag + struct.pack("!i", len(body) + 4) + body)

    def ask(self, sql):
        self.send(b"Q", sql.encode() + b"\0")

    def heard(self):
        """Rows up to ReadyForQuery."""
        rows = 0
        while True:
            tag, _ = self.message()
            if tag == b"Z":
                return rows
            rows += tag == b"D"

    def message(self):
        while len(self.rest) < 5 or len(self.rest) < 1 + struct.unpack("!i", self.rest[1:5])[0]:
            some = self.socket.recv(65536)
            if not some:
                raise Refused("the connection was closed")
            self.rest += some
        end = 1 + struct.unpack("!i", self.rest[1:5])[0]
        tag, body, self.rest = self.rest[:1], self.rest[5:end], self.rest[end:]
        if tag == b"E":
            raise Refused(body.replace(b"\0", b" ").decode(errors="replace"))
        return tag, body


def trusting():
    """TLS to whoever is there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
