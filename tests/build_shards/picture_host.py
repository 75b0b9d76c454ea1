"""A web server whose pages answer as a test says, and which remembers who asked how."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Page = Callable[["Visit"], None]


class Visit(BaseHTTPRequestHandler):
    """One request, and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two packets
    server: "PictureHost"

    def do_GET(self) -> None:
        """Hands the request to its page."""
        with self.server.visiting(self.path):
            self.server.pages.get(self.path, lambda visit: visit.answer(b"", status=404))(self)

    def answer(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None, cut: int = 0) -> None:
        """Sends a body; the last `cut` bytes that its header promises never come."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body))}.items() | (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])
        self.close_connection = self.close_connection or cut > 0

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the screen clean."""


class PictureHost(ThreadingHTTPServer):
    """The server.

    Attributes:
        pages: How each path is answered; others are 404.
        visits: Paths with the time when they were asked for.
        most_at_once: The most requests that were ever open together.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.pages: dict[str, Page] = {}
        self.visits: list[tuple[str, float]] = []
        self.most_at_once = self._open = 0
        self._lock = threading.Lock()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Returns the address of a path."""
        return f"http://{host}:{self.server_port}{path}"

    def num_visits(self, path: str) -> int:
        """Returns how often a path was asked for."""
        return sum(visited == path for visited, _ in self.visits)

    @contextlib.contextmanager
    def visiting(self, path: str) -> Iterator[None]:
        """Keeps the books of a request."""
        with self._lock:
            self.visits.append((path, time.monotonic()))
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def handle_error(self, request: object, client_address: object) -> None:
        """Passes over clients that hang up."""


@contextlib.contextmanager
def picture_host() -> Iterator[PictureHost]:
    """Gives a server that runs until the end of the block."""
    host = PictureHost()
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.shutdown()
        host.server_close()
        thread.join()


def sends(body: bytes, status: int = 200, **headers: str) -> Page:
    """Returns a page with a body; header names have underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda visit: visit.answer(body, status, named)


def fails_then(times: int, failure: Page, success: Page) -> Page:
    """Returns a page that fails so many times before it succeeds."""
    left = iter([failure] * times)
    return lambda visit: next(left, success)(visit)
