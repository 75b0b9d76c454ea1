"""Objects of an S3 store read in parts over several connections, each resumed at the byte that it had reached.

The first answer names the version of the object (its ETag); every later request asks for that version only, so that
an object that is replaced meanwhile is an error and never a mixture.
"""

import io
from concurrent.futures import Future, wait
from typing import Any

from components.runtime import metrics
from components.runtime.errors import StageFailure
from components.runtime.s3_client import Address, Limits, Patience, call, connection
from components.runtime.s3_errors import AfterEnd

CHUNK_BYTES = 256 << 10


def read_object(limits: Limits, address: Address, start: int = 0, stop: int | None = None, etag: str = "") -> bytes:
    """Returns an object, or its bytes from `start` up to `stop`; fewer where it ends before.

    What lies behind the first part is read at the same time as the first part.
    """
    asked = limits.part_bytes if stop is None else min(stop - start, limits.part_bytes)
    if asked <= 0:
        return b""
    patience = Patience(limits, "get_object", address)
    try:
        answer = _get(limits, address, start, start + asked, etag, patience)
    except AfterEnd:
        return b""
    total = _total(answer)
    size = (total if stop is None else min(stop, total)) - start
    whole = io.BytesIO(bytes(size))  # lends its memory, and gives it away as bytes without a copy
    with whole.getbuffer() as view:
        others = [
            fetch_later(limits, address, view[at : at + limits.part_bytes], start + at, answer["ETag"])
            for at in range(limits.part_bytes, size, limits.part_bytes)
        ]
        try:
            _receive(limits, address, view[:asked], start, answer["ETag"], answer)
            for other in others:
                other.result()
        finally:
            for other in others:
                other.cancel()
            wait(others)
    return whole.getvalue()


def stat_object(limits: Limits, address: Address) -> tuple[int, str]:
    """Returns an object's length in bytes and its version.

    It asks for the first byte rather than by HEAD, whose refusals don't say why.
    """
    try:
        answer = _get(limits, address, 0, 1, "", Patience(limits, "get_object", address))
    except AfterEnd:
        return 0, ""
    with answer["Body"] as stream:
        stream.drain_conn()  # so that the connection serves the next call
    return _total(answer), str(answer["ETag"])


def fetch_later(limits: Limits, address: Address, view: memoryview, start: int, etag: str) -> "Future[None]":
    """Fills `view` with the bytes from `start` in one of the process's threads."""
    return connection(limits).threads.submit(_receive, limits, address, view, start, etag)


def _receive(
    limits: Limits, address: Address, view: memoryview, start: int, etag: str, answer: dict[str, Any] | None = None
) -> None:
    """Fills `view` with the bytes from `start`, from an answer that is there already or from new ones."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError
    from urllib3.exceptions import HTTPError

    patience = Patience(limits, "get_object", address)
    filled = 0
    while filled < len(view):
        if answer is None:
            answer = _get(limits, address, start + filled, start + len(view), etag, patience)
        body, answer = answer["Body"], None
        try:
            with body as stream:
                while chunk := stream.read1(CHUNK_BYTES):
                    view[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
                    patience.progressed()
                    if patience.is_over:
                        raise ReadTimeoutError(endpoint_url=address.uri)
            if filled < len(view):
                raise IncompleteReadError(actual_bytes=filled, expected_bytes=len(view))
        except (HTTPError, IncompleteReadError, ReadTimeoutError) as error:
            patience.after(error)
    metrics.count("storage_read_bytes", len(view))


def _get(limits: Limits, address: Address, start: int, stop: int, etag: str, patience: Patience) -> dict[str, Any]:
    condition = {"IfMatch": etag} if etag else {}
    answer = call(limits, "get_object", address, patience, Range=f"bytes={start}-{stop - 1}", **condition)
    if start and not str(answer.get("ContentRange", "")).startswith(f"bytes {start}-"):
        answer["Body"].close()
        raise StageFailure(f"get_object of {address.uri}: the store ignores ranges; use one that answers them.")
    return answer


def _total(answer: dict[str, Any]) -> int:
    """Returns the length of the whole object that an answer is a part of."""
    found = str(answer.get("ContentRange", "")).rpartition("/")[2]
    return int(found or answer["ContentLength"])
