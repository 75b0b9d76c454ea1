"""Calls to an S3 store that wait and try again, within bounds and counted.

botocore's own retries are off: they draw on a quota that is empty soon where a third of all answers is 503, and
they can't resume a body. Here a call is repeated after a random pause that doubles on average ("full jitter":
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter), up to a number of attempts in a row and
a deadline.
"""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from components.runtime import metrics
from components.runtime.errors import StageFailure
from components.runtime.s3_errors import EXPIRED, code, explain, is_transient


@dataclass(frozen=True)
class Limits:
    """How patient an operation is, and how wide.

    Attributes:
        attempts: Failures in a row after which it gives up; at 30 % failures, 12 in a row are one in two million.
        first_pause_s: The longest pause after the first failure; doubles with each.
        longest_pause_s: The longest pause of all.
        deadline_s: A call, or a part of an object with all its attempts, may take so long.
        connect_timeout_s: For a connection to open.
        read_timeout_s: For the next bytes to come.
        connections: At most so many at a time, for all objects of a process.
        part_bytes: Larger objects are read and written in parts of this size, several at a time; S3 takes at most
            10,000 parts, so it bounds what can be written.
        parts_ahead: How many parts are read before a file's reader has asked for them.
    """

    attempts: int = 12
    first_pause_s: float = 0.2
    longest_pause_s: float = 20
    deadline_s: float = 300
    connect_timeout_s: float = 10
    read_timeout_s: float = 30
    connections: int = 16
    part_bytes: int = 8 << 20
    parts_ahead: int = 8


class Address(NamedTuple):
    """One object of a store."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class Connection:
    """A process's client and threads; address, region and credentials come from boto3's settings and environment."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self.client = self._connect()
        self.threads = ThreadPoolExecutor(limits.connections, thread_name_prefix="s3")

    def renew(self, failed: Any) -> None:
        """Asks the providers of credentials anew, unless another thread has done so since `failed` was in use."""
        with self._lock:
            if self.client is failed:
                self.client = self._connect()

    def _connect(self) -> Any:
        import boto3.session
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=self._limits.connect_timeout_s,
            read_timeout=self._limits.read_timeout_s,
            max_pool_connections=self._limits.connections,
            request_checksum_calculation="when_required",  # else many S3-compatible stores refuse the request
            response_checksum_validation="when_required",
        )
        return boto3.session.Session().client("s3", config=config)


_connections: dict[tuple[int, Limits], Connection] = {}
_lock = threading.Lock()
_random = random.SystemRandom()  # no seed to shift what the science draws, nor one that forked workers share


def connection(limits: Limits) -> Connection:
    """Returns this process's connection, made at its first use (a forked worker makes its own)."""
    key = (os.getpid(), limits)
    if key not in _connections:
        with _lock:
            if key not in _connections:
                _connections[key] = Connection(limits)
    return _connections[key]


class Patience:
    """The attempts and the time that one operation has left."""

    def __init__(self, limits: Limits, operation: str, address: Address) -> None:
        self._limits, self._operation, self._address = limits, operation, address
        self._begin = time.monotonic()
        self._num_failures = 0
        self._has_renewed = False

    @property
    def is_first(self) -> bool:
        """Whether nothing has failed yet."""
        return not self._num_failures

    @property
    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() - self._begin > self._limits.deadline_s

    def progressed(self) -> None:
        """Forgives the failures so far: bytes have come since."""
        self._num_failures = 0

    def after(self, error: Exception, client: Any = None) -> None:
        """Returns when it is time for the next attempt.

        Raises:
            FileNotFoundError: The object isn't there.
            StageFailure: No further attempt helps, or none is left.
        """
        self._num_failures += 1
        reason = code(error)
        if reason in EXPIRED and not self._has_renewed:
            self._has_renewed = True
            metrics.count("storage_retries", operation=self._operation, reason=reason)
            connection(self._limits).renew(client)
            return
        if not is_transient(error):
            raise explain(error, self._operation, self._address.uri) from error
        pause_s = _random.uniform(
            0, min(self._limits.longest_pause_s, self._limits.first_pause_s * 2 ** (self._num_failures - 1))
        )
        passed_s = time.monotonic() - self._begin
        if self._num_failures >= self._limits.attempts or passed_s + pause_s > self._limits.deadline_s:
            raise StageFailure(
                f"{self._operation} of {self._address.uri} failed {self._num_failures} times in a row "
                f"in {passed_s:.0f} s ({reason}): run the stage again when the store answers; "
                "if it never has, check the endpoint (AWS_ENDPOINT_URL)."
            ) from error
        metrics.count("storage_retries", operation=self._operation, reason=reason)
        time.sleep(pause_s)


def call(
    limits: Limits, operation: str, address: Address, patience: Patience | None = None, **arguments: Any
) -> dict[str, Any]:
    """Returns the store's answer to an operation on an object, or on a bucket where the address has no key.

    Raises:
        FileNotFoundError: The object isn't there.
        StageFailure: The store refuses, or doesn't answer for too long.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    patience = patience or Patience(limits, operation, address)
    where = {"Bucket": address.bucket} | ({"Key": address.key} if address.key else {})
    while True:
        client = connection(limits).client
        try:
            answer: dict[str, Any] = getattr(client, operation)(**where, **arguments)
            return answer
        except (ClientError, BotoCoreError) as error:
            patience.after(error, client)
