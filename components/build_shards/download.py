"""Downloads many pictures at once, politely, and hands them on in the order in which they were asked for."""

import asyncio
import collections
import contextlib
import hashlib
import random
import socket
import threading
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from yarl import URL

from components.build_shards.web_policy import PublicResolver, check_url, has_opted_out, retry_after_s
from components.core.data.ingest import Reject
from components.runtime import metrics

REASONS = (
    "bad_url",
    "private_host",
    "unreachable",
    "timeout",
    "http_status",
    "opted_out",
    "too_many_bytes",
    "hash_mismatch",
)
REDIRECTS = {301, 302, 303, 307, 308}
PASSING_FAULTS = {408, 425, 429, 500, 502, 503, 504}
DNS_CACHE_S = 300


@dataclass(frozen=True)
class Request:
    """An address, and the sha256 in hexadecimal that its bytes must have; empty: any."""

    url: str
    sha256: str = ""


@dataclass(frozen=True)
class DownloadSettings:
    """How hard to ask, and when to stop asking. Limits are those of one process.

    Attributes:
        concurrency: Downloads at a time.
        concurrency_per_host: Downloads at a time from one host.
        window: Downloads that are begun, or wait to be handed on behind a slower one: so many files are in memory.
        connect_timeout_s: For a connection to stand.
        read_timeout_s: Between two pieces of an answer.
        total_timeout_s: For one address, all tries, redirects and waits between them together; waits for other
            downloads to make room don't count.
        attempts: Most tries of one address; only faults that may pass are tried again. (aiohttp on its own asks twice
            in a try where the connection breaks before the answer.)
        first_wait_s: Upper bound of the random wait after the first failure; it doubles with each.
        longest_wait_s: No wait is longer. A server that asks for a longer one isn't asked again.
        max_bytes: A larger file is given up.
        max_redirects: Redirects followed for one address.
        user_agent: How the program names itself; what stands before a slash is its name in `X-Robots-Tag`.
        allowed_private_hosts: Hosts that may be asked although their addresses are private.
    """

    concurrency: int = 64
    concurrency_per_host: int = 8
    window: int = 256
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 10.0
    total_timeout_s: float = 20.0
    attempts: int = 3
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0
    max_bytes: int = 32 * 2**20
    max_redirects: int = 5
    user_agent: str = "ceteris"
    allowed_private_hosts: tuple[str, ...] = ()


def fetch_in_order(requests: Iterable[Request], settings: DownloadSettings) -> Generator[bytes | Reject, None, None]:
    """Yields the bytes of each request, or why there are none (REASONS), in the order of the requests.

    Downloads run ahead of the consumer on a thread of their own, which ends with the iterator.
    """
    waiting: collections.deque[Future[bytes | Reject]] = collections.deque()
    with _event_loop() as loop:
        downloader = asyncio.run_coroutine_threadsafe(_opened(settings), loop).result()
        try:
            for request in requests:
                waiting.append(asyncio.run_coroutine_threadsafe(downloader.fetch(request), loop))
                if len(waiting) >= settings.window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            asyncio.run_coroutine_threadsafe(downloader.close(), loop).result()


@contextlib.contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="downloads", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _opened(settings: DownloadSettings) -> "_Downloader":
    return _Downloader(settings)  # aiohttp's session begins inside the loop that it is used in


class _PassingFaultError(Exception):
    """A fault that another attempt may not meet; the server may have said when to come back."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait_s = reason, wait_s


class _Budget:
    """The seconds that one address may still cost."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    @contextlib.asynccontextmanager
    async def spend(self) -> AsyncIterator[None]:
        """Takes what happens inside off the budget, and raises TimeoutError when nothing is left."""
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            async with asyncio.timeout(self.left_s):
                yield
        finally:
            self.left_s -= clock() - begun


class _Downloader:
    """A session with the web; everything here runs in the event loop."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._allowed = frozenset(settings.allowed_private_hosts)
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._host_slots: dict[str, asyncio.Semaphore] = collections.defaultdict(
            lambda: asyncio.Semaphore(settings.concurrency_per_host)
        )
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,  # the slots bound it; a wait for a slot must not count as a slow server
                resolver=PublicResolver(self._allowed, settings.concurrency),
                ttl_dns_cache=DNS_CACHE_S,
            ),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.read_timeout_s
            ),
            headers={"User-Agent": settings.user_agent, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Ends what is still under way."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    async def fetch(self, request: Request) -> bytes | Reject:
        """Returns the bytes of a request, or why there are none."""
        result: bytes | Reject
        try:
            result = await self._fetch_again(request.url)
            if request.sha256 and hashlib.sha256(result).hexdigest() != request.sha256.lower():
                result = Reject("hash_mismatch")
        except Reject as reject:
            result = reject
        metrics.count("downloads", outcome=result.reason if isinstance(result, Reject) else "ok")
        return result

    async def _fetch_again(self, address: str) -> bytes:
        """Asks until there is an answer, the attempts are spent, or the server wants a longer wait than we do."""
        settings = self._settings
        budget = _Budget(settings.total_timeout_s)
        for attempt in range(settings.attempts):
            try:
                return await self._fetch_once(address, budget)
            except _PassingFaultError as fault:
                reason = fault.reason
                jitter_s = random.uniform(0, min(settings.longest_wait_s, settings.first_wait_s * 2**attempt))
                wait_s = max(jitter_s, fault.wait_s)
            if attempt + 1 == settings.attempts or wait_s > min(settings.longest_wait_s, budget.left_s):
                break
            metrics.count("download_retries", reason=reason)
            await asyncio.sleep(wait_s)
            budget.left_s -= wait_s
        raise Reject(reason)

    async def _fetch_once(self, address: str, budget: _Budget) -> bytes:
        """Returns the body at an address, redirects followed; every fault becomes a Reject or a passing fault."""
        try:
            return await self._follow(URL(address), budget)
        except TimeoutError as error:
            raise _PassingFaultError("timeout") from error
        except ValueError as error:  # yarl's, aiohttp's InvalidURL, and UnicodeError of a host that DNS can't name
            raise Reject("bad_url") from error
        except aiohttp.ClientConnectorDNSError as error:
            if error.os_error.errno == socket.EAI_AGAIN:
                raise _PassingFaultError("unreachable") from error
            raise Reject("unreachable") from error
        except aiohttp.ClientSSLError as error:
            raise Reject("unreachable") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _PassingFaultError("unreachable") from error

    async def _follow(self, url: URL, budget: _Budget) -> bytes:
        settings = self._settings
        for _ in range(settings.max_redirects + 1):
            check_url(url, self._allowed)
            async with (
                self._host_slots[str(url.host)],
                self._slots,
                budget.spend(),
                self._session.get(url, allow_redirects=False) as response,
            ):
                is_redirect = response.status in REDIRECTS and "Location" in response.headers
                if response.status >= 300 and not is_redirect:
                    raise _refusal(response)
                if has_opted_out(response.headers.getall("X-Robots-Tag", []), settings.user_agent):
                    raise Reject("opted_out")
                if not is_redirect:
                    return await self._body(response)
                url = url.join(URL(response.headers["Location"]))
        raise Reject("http_status")

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if (response.content_length or 0) > self._settings.max_bytes:
            raise Reject("too_many_bytes")
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > self._settings.max_bytes:
                raise Reject("too_many_bytes")
        return bytes(body)


def _refusal(response: aiohttp.ClientResponse) -> Reject | _PassingFaultError:
    if response.status not in PASSING_FAULTS:
        return Reject("http_status")
    return _PassingFaultError("http_status", retry_after_s(response.headers.get("Retry-After", ""), datetime.now(UTC)))
