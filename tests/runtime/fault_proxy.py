"""A proxy before an HTTP server that does to answers what networks and busy stores do."""

import contextlib
import http.client
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "date", "server")


@dataclass(frozen=True)
class Seen:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Fault:
    """What goes wrong, with which requests, how often.

    Attributes:
        kind: "refuse" (an S3 error in place of the answer), "lose" (the server answers, the client gets a reset),
            "reset" (in the middle of the body), "short" (the body ends in its middle, without an error),
            "corrupt" (a bit of the body is turned), "hang" (nothing is sent for `seconds`), "drip" (a byte at a time).
        probability: Of each request that it applies to.
        times: After so many, nothing goes wrong any more.
        applies: To which requests.
        seconds: How long a hang lasts, or the pause between two bytes.
        status: The HTTP status of a refusal.
        code: The S3 code of a refusal.
        date: The `Date` of a refusal; empty: now.
    """

    kind: str
    probability: float = 1
    times: int = 1 << 30
    applies: Callable[[Seen], bool] = lambda seen: seen.method == "GET"
    seconds: float = 5
    status: int = 503
    code: str = "SlowDown"
    date: str = ""


@dataclass
class FaultProxy:
    """What a proxy does and has seen; faults may be replaced while it runs."""

    endpoint: str
    upstream: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, seen: Seen) -> Fault | None:
        """Notes a request, and returns what is to go wrong with it."""
        with self.lock:
            self.seen.append(seen)
            for fault in self.faults:
                if fault.times and fault.applies(seen) and self.dice.random() < fault.probability:
                    fault.times -= 1
                    return fault
        return None


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Yields a proxy before the server at `upstream`, without faults at first."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    proxy = FaultProxy(f"http://127.0.0.1:{server.server_address[1]}", upstream)
    server.proxy = proxy  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_request(self) -> None:
        proxy: FaultProxy = self.server.proxy  # type: ignore[attr-defined]
        body = self._body()
        fault = proxy.draw(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if fault and fault.kind == "refuse":
            self._refuse(fault)
            return
        status, headers, answer = self._ask(proxy.upstream, body)
        if fault and fault.kind == "lose":
            self._reset()
            return
        if fault and fault.kind == "hang":
            time.sleep(fault.seconds)
        if fault and fault.kind == "corrupt":
            answer = bytes([answer[0] ^ 1]) + answer[1:]
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that has given up
            self._send(answer, fault)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _ask(self, upstream: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(urlsplit(upstream).netloc)
        sent = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        connection.request(self.command, self.path, body, sent)
        response = connection.getresponse()
        answer = response.read()
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in HOP_BY_HOP]
        length = response.getheader("Content-Length", str(len(answer)))
        connection.close()
        return response.status, [*headers, ("Content-Length", length)], answer

    def _send(self, answer: bytes, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        if kind in ("reset", "short"):
            self.wfile.write(answer[: len(answer) // 2])
            self.close_connection = True
            if kind == "reset":
                self._reset()
        elif fault and kind == "drip":
            for byte in answer:
                self.wfile.write(bytes([byte]))
                time.sleep(fault.seconds)
        else:
            self.wfile.write(answer)

    def _refuse(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>as the test asked</Message></Error>".encode()
        self.send_response_only(fault.status)
        self.send_header("Date", fault.date or self.date_time_string())
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _reset(self) -> None:
        """Ends the connection by RST, as a crashed server does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the tests look at what was seen."""
