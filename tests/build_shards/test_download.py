"""Downloads from a real server on this machine, which is well behaved, slow, broken or hostile."""

import email.utils
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from components.build_shards.download import REASONS, DownloadSettings, Request, fetch_in_order
from components.core.data.ingest import Reject
from components.runtime import metrics
from tests.build_shards.picture_host import PictureHost, Visit, fails_then, picture_host, sends

SETTINGS = DownloadSettings(first_wait_s=0.01, allowed_private_hosts=("127.0.0.1",))


@pytest.fixture
def host() -> Iterator[PictureHost]:
    with picture_host() as server:
        yield server


def fetch(url: str, settings: DownloadSettings = SETTINGS, sha256: str = "") -> bytes | str:
    """Returns the bytes at an address, or the reason why there are none."""
    (result,) = fetch_in_order([Request(url, sha256)], settings)
    if isinstance(result, bytes):
        return result
    assert result.reason in REASONS
    return result.reason


def hangs_up(visit: Visit) -> None:
    """Resets the connection."""
    visit.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    visit.rfile.close()  # it keeps the socket open
    visit.connection.close()
    visit.close_connection = True


def counted(name: str) -> float:
    return metrics.totals().get(name, 0.0)


def test_results_come_in_the_order_of_the_requests_whichever_is_first_ready(host: PictureHost) -> None:
    for number in range(40):
        delay_s = 0.2 if number % 10 == 0 else 0.0
        host.pages[f"/{number}"] = lambda visit, delay_s=delay_s, body=b"%d" % number: (
            time.sleep(delay_s),
            visit.answer(body),
        )
    requests = [Request(host.url(f"/{number}")) for number in range(41)]
    before = counted("downloads{outcome=ok}")
    *found, missing = fetch_in_order(requests, replace(SETTINGS, window=8))
    assert found == [b"%d" % number for number in range(40)]
    assert isinstance(missing, Reject) and missing.reason == "http_status"
    assert counted("downloads{outcome=ok}") == before + 40


def test_no_host_is_asked_for_more_at_once_than_it_may_be(host: PictureHost) -> None:
    for number in range(24):
        host.pages[f"/{number}"] = lambda visit: (time.sleep(0.02), visit.answer(b"x"))
    requests = [Request(host.url(f"/{number}")) for number in range(24)]
    settings = replace(SETTINGS, concurrency_per_host=3, total_timeout_s=0.15)
    assert list(fetch_in_order(requests, settings)) == [b"x"] * 24, "the wait for a turn isn't the server's fault"
    assert host.most_at_once == 3


def test_downloads_run_ahead_of_a_slow_consumer_only_so_far(host: PictureHost) -> None:
    host.pages["/"] = sends(b"x")
    results = fetch_in_order([Request(host.url("/"))] * 60, replace(SETTINGS, window=4))
    assert next(results) == b"x"
    time.sleep(0.3)
    assert host.num_visits("/") == 4
    assert list(results) == [b"x"] * 59
    assert host.num_visits("/") == 60


def test_a_consumer_that_stops_early_ends_the_downloads_and_their_thread(host: PictureHost) -> None:
    release = threading.Event()
    host.pages |= {"/now": sends(b"x"), "/never": lambda visit: release.wait(30)}
    results = fetch_in_order([Request(host.url(path)) for path in ("/now", "/never", "/never")], SETTINGS)
    assert next(results) == b"x"
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "downloads"]
    release.set()


@pytest.mark.parametrize(
    "failure", [sends(b"", status=503), sends(b"", status=429), hangs_up, lambda visit: visit.answer(b"12345", cut=2)]
)
def test_faults_that_pass_are_tried_again(host: PictureHost, failure: object) -> None:
    host.pages["/"] = fails_then(2, failure, sends(b"picture"))
    assert fetch(host.url("/")) == b"picture"
    assert host.num_visits("/") == 3


@pytest.mark.parametrize(
    ("failure", "reason", "requests_a_try"),
    [(sends(b"", status=503), "http_status", 1), (hangs_up, "unreachable", 2)],
)
def test_attempts_are_bounded_and_counted(host: PictureHost, failure: object, reason: str, requests_a_try: int) -> None:
    host.pages["/"] = failure
    before = counted(f"download_retries{{reason={reason}}}")
    assert fetch(host.url("/"), replace(SETTINGS, attempts=4)) == reason
    assert host.num_visits("/") == 4 * requests_a_try
    assert counted(f"download_retries{{reason={reason}}}") == before + 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 304])
def test_a_plain_refusal_is_not_tried_again(host: PictureHost, status: int) -> None:
    host.pages["/"] = sends(b"", status=status)
    assert fetch(host.url("/")) == "http_status"
    assert host.num_visits("/") == 1


@pytest.mark.parametrize("is_date", [False, True])
def test_the_servers_wait_is_kept(host: PictureHost, is_date: bool) -> None:
    # A date has whole seconds, so that of 2 s at least 1 s is left.
    value = email.utils.formatdate(time.time() + 2, usegmt=True) if is_date else "1"
    host.pages["/"] = fails_then(1, sends(b"", status=429, Retry_After=value), sends(b"picture"))
    assert fetch(host.url("/")) == b"picture"
    (_, first), (_, second) = host.visits
    assert 0.9 <= second - first < 3


def test_a_wait_beyond_the_bound_ends_the_attempts(host: PictureHost) -> None:
    host.pages["/"] = sends(b"", status=503, Retry_After="3600")
    assert fetch(host.url("/")) == "http_status"
    assert host.num_visits("/") == 1


@pytest.mark.parametrize("limits", [{"read_timeout_s": 0.1}, {"total_timeout_s": 0.3, "read_timeout_s": 10.0}])
def test_a_server_that_hangs_is_given_up(host: PictureHost, limits: dict[str, float]) -> None:
    release = threading.Event()
    host.pages["/"] = lambda visit: release.wait(30)
    began = time.monotonic()
    assert fetch(host.url("/"), replace(SETTINGS, attempts=2, **limits)) == "timeout"
    assert time.monotonic() - began < 5
    release.set()


def test_a_server_that_drips_is_given_up_when_the_address_has_cost_its_time(host: PictureHost) -> None:
    def drip(visit: Visit) -> None:
        visit.answer(bytes(1000), cut=999)
        for _ in range(100):
            visit.wfile.write(b"x")
            time.sleep(0.05)

    host.pages["/"] = drip
    began = time.monotonic()
    assert fetch(host.url("/"), replace(SETTINGS, total_timeout_s=0.5)) == "timeout"
    assert time.monotonic() - began < 2
    assert host.num_visits("/") == 1


def test_a_file_that_is_too_large_is_given_up_whether_its_header_says_so_or_not(host: PictureHost) -> None:
    def unannounced(visit: Visit) -> None:
        visit.send_response(200)
        visit.send_header("Connection", "close")
        visit.end_headers()
        visit.wfile.write(bytes(1001))

    host.pages |= {"/announced": sends(bytes(1001)), "/unannounced": unannounced, "/fits": sends(bytes(1000))}
    settings = replace(SETTINGS, max_bytes=1000)
    assert fetch(host.url("/announced"), settings) == "too_many_bytes"
    assert fetch(host.url("/unannounced"), settings) == "too_many_bytes"
    assert fetch(host.url("/fits"), settings) == bytes(1000)


def test_redirects_are_followed_so_far(host: PictureHost) -> None:
    for number in range(4):
        host.pages[f"/{number}"] = sends(b"", status=302, Location=f"/{number + 1}")
    host.pages["/4"] = sends(b"picture")
    assert fetch(host.url("/0"), replace(SETTINGS, max_redirects=4)) == b"picture"
    assert fetch(host.url("/0"), replace(SETTINGS, max_redirects=3)) == "http_status"


def test_other_bytes_than_the_hash_says_are_left_out(host: PictureHost) -> None:
    host.pages["/"] = sends(b"picture")
    assert fetch(host.url("/"), sha256=hashlib.sha256(b"picture").hexdigest().upper()) == b"picture"
    assert fetch(host.url("/"), sha256=hashlib.sha256(b"another").hexdigest()) == "hash_mismatch"


@pytest.mark.parametrize(
    ("tag", "expected"), [("noai", "opted_out"), ("ceteris: noindex", "opted_out"), ("googlebot: noindex", b"picture")]
)
def test_a_page_that_opts_out_is_left_out(host: PictureHost, tag: str, expected: bytes | str) -> None:
    host.pages |= {"/": sends(b"picture", X_Robots_Tag=tag), "/from": sends(b"", status=301, Location="/")}
    assert fetch(host.url("/")) == expected
    assert fetch(host.url("/from")) == expected


@pytest.mark.parametrize("url", ["", "picture.jpg", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "http://[x/"])
def test_only_addresses_of_the_web_are_asked(url: str) -> None:
    assert fetch(url) == "bad_url"


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_a_private_host_is_not_asked_even_through_a_redirect(host: PictureHost, name: str) -> None:
    host.pages |= {"/": sends(b"secret"), "/from": sends(b"", status=302, Location=host.url("/", host=name))}
    assert fetch(host.url("/", host=name), replace(SETTINGS, allowed_private_hosts=())) == "private_host"
    if name != "127.0.0.1":
        assert fetch(host.url("/from")) == "private_host"
    assert host.num_visits("/") == 0


@pytest.mark.parametrize("name", ["2130706433", "0x7f000001", "127.1"])
def test_a_private_address_in_disguise_is_not_asked(host: PictureHost, name: str) -> None:
    host.pages["/"] = sends(b"secret")
    assert fetch(host.url("/", host=name)) in ("private_host", "bad_url")
    assert host.num_visits("/") == 0


def test_hosts_that_no_one_answers_for_are_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/") == "unreachable"
    assert fetch("http://no-such-host.invalid/") == "unreachable"
