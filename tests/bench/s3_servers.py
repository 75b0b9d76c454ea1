"""Servers that answer S3's reads: nginx, and before it a relay that makes it as slow and as unreliable as a network."""

import contextlib
import fcntl
import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Skipped

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
}}
"""
PIECE_BYTES = 256 << 10
HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Shape:
    """What the relay does to answers.

    Attributes:
        first_byte_s: Pause before each answer.
        bytes_per_s: Of each connection.
        cut_probability: Of each answer with a body, that the connection is reset in its middle.
    """

    first_byte_s: float = 0.03
    bytes_per_s: float = 90e6
    cut_probability: float = 0.01


@contextlib.contextmanager
def nginx(bucket: str, key: str, data: bytes) -> Iterator[int]:
    """Yields the port of an nginx that holds one object.

    Raises:
        Skipped: nginx isn't installed.
    """
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if not program:
        raise Skipped("no nginx (Debian: nginx-light)")
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # its workers are another user
        (Path(folder) / "www" / bucket).mkdir(parents=True)
        (Path(folder) / "www" / bucket / key).write_bytes(data)
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(folder=folder, port=port))
        server = subprocess.Popen([program, "-e", f"{folder}/error.log", "-c", str(configuration)])
        try:
            _wait_for(port)
            yield port
        finally:
            server.terminate()
            server.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError("nginx didn't start")


@contextlib.contextmanager
def relay(upstream: int, shape: Shape) -> Iterator[int]:
    """Yields the port of a relay before the server at the port `upstream`; the bytes never pass through Python."""
    dice = random.Random(0)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):  # closed: the end
                while True:
                    client = server.accept()[0]
                    threading.Thread(target=_serve, args=(client, upstream, shape, dice), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(server.getsockname()[1])


def _serve(client: socket.socket, upstream: int, shape: Shape, dice: random.Random) -> None:
    with (
        contextlib.suppress(OSError),  # a client that has gone
        client,
        socket.create_connection(("127.0.0.1", upstream)) as server,
        _Pipe() as pipe,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while request := _head(client):
            server.sendall(request)
            answer = _head(server)
            length = 0 if request.startswith(b"HEAD") else _length(answer)
            is_cut = length and dice.random() < shape.cut_probability
            time.sleep(shape.first_byte_s)
            client.sendall(answer)
            pipe.pass_on(server, client, length // 2 if is_cut else length, shape.bytes_per_s)
            if is_cut:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return


def _head(connection: socket.socket) -> bytes:
    """Returns a message up to the end of its headers, and leaves the rest; nothing where the connection has ended."""
    while waiting := connection.recv(64 << 10, socket.MSG_PEEK):
        end = waiting.find(HEAD_END)
        if end >= 0:
            return connection.recv(end + len(HEAD_END), socket.MSG_WAITALL)
    return b""


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)


class _Pipe:
    """Moves bytes between two sockets within the kernel."""

    def __enter__(self) -> "_Pipe":
        self._out, self._in = os.pipe()
        fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, 4 * PIECE_BYTES)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)

    def pass_on(self, source: socket.socket, target: socket.socket, length: int, bytes_per_s: float) -> None:
        """Passes on so many bytes, at that speed."""
        begin, num_sent = time.perf_counter(), 0
        while num_sent < length:
            held = os.splice(source.fileno(), self._in, min(PIECE_BYTES, length - num_sent))
            if not held:
                raise ConnectionResetError
            num_sent += held
            while held:
                held -= os.splice(self._out, target.fileno(), held)
            time.sleep(max(0.0, begin + num_sent / bytes_per_s - time.perf_counter()))


def megabytes_per_s(port: int, path: str, num_connections: int) -> float:
    """Returns what a server can do for a client that only counts: each connection asks for the object once."""
    counts: list[int] = []

    def ask() -> None:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", port)) as connection, contextlib.suppress(ConnectionResetError):
            connection.sendall(request)
            left = _length(_head(connection))
            buffer = bytearray(1 << 20)
            while left > 0 and (received := connection.recv_into(buffer, 0, socket.MSG_TRUNC)):
                counts.append(received)
                left -= received

    threads = [threading.Thread(target=ask) for _ in range(num_connections)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin) / 1e6
