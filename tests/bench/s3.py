"""One object of 256 MB out of S3: our stream and our whole read, beside three other ways.

`raw` is nginx alone; `shaped` has a relay before it: 30 ms to the first byte, 90 MB/s per connection, one answer in a
hundred reset in its middle. Wall seconds count first here, since reading waits.
"""

import hashlib
import os
import random
from collections.abc import Callable
from functools import partial

from components.runtime.process import keep_freed_memory
from components.runtime.storage import Folder
from tests.bench.measure import CPU, WALL, Contender, Cost, NotEqual, compare, cost, peers_python, print_row, rounds
from tests.bench.s3_servers import Shape, megabytes_per_s, nginx, relay

OBJECT_BYTES = 256_000_000
BUCKET, KEY = "bucket", "shard.tar"
PIECE_BYTES = 1 << 20
CONNECTIONS = 16
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def rows() -> None:
    """Prints the rows of both servers, and what the servers can do."""
    peers_python()
    data = random.Random(0).randbytes(OBJECT_BYTES)
    os.environ.update(ENVIRONMENT)
    with nginx(BUCKET, KEY, data) as raw, relay(raw, Shape()) as shaped:
        for kind, port in (("raw", raw), ("shaped", shaped)):
            speeds = [megabytes_per_s(port, f"/{BUCKET}/{KEY}", number) for number in (1, CONNECTIONS)]
            alone = f"{speeds[0]:.0f} MB/s for one connection, {speeds[1]:.0f} MB/s for {CONNECTIONS}"
            print_row(f"S3 {kind}: the server alone", "", "-", "", alone)
            sides = _sides(f"http://127.0.0.1:{port}")
            _check(sides, hashlib.sha256(data).hexdigest())
            costs = rounds([side(is_checked=False) for side in sides])
            _print(kind, costs)


def _print(kind: str, costs: dict[str, list[Cost]]) -> None:
    stream, whole = costs.pop("our stream"), costs.pop("our whole read")
    for name, peer in costs.items():
        compare(f"S3 {kind}, Folder.open", stream, peer, name, WALL)
        compare(f"S3 {kind}, Folder.open", stream, peer, name, CPU)
        compare(f"S3 {kind}, Folder.read", whole, peer, name, WALL)
        compare(f"S3 {kind}, Folder.read", whole, peer, name, CPU)


def _check(sides: list[Callable[..., Contender]], sha256: str) -> None:
    for side in sides:
        contender = side(is_checked=True)
        if cost(contender).found != sha256:
            raise NotEqual(f"{contender.name} has read other bytes")


def _sides(endpoint: str) -> list[Callable[..., Contender]]:
    python, peers = peers_python(), "tests.bench.peers.s3_readers"

    def side(name: str, work: str, *python: str) -> Callable[..., Contender]:
        return lambda is_checked: Contender(name, work, (BUCKET, KEY, endpoint, is_checked), *python)

    return [
        side("our stream", f"{__name__}:our_stream"),
        side("our whole read", f"{__name__}:our_whole_read"),
        side("one boto3 stream", f"{__name__}:boto3_stream"),
        side("pipe:aws s3 cp", f"{peers}:aws_command_line", python),
        side("s3torchconnector", f"{peers}:s3torchconnector", python),
    ]


def our_stream(bucket: str, key: str, endpoint: str, is_checked: bool) -> Callable[[], str]:
    """Prepares Folder.open."""
    folder = _our_folder(bucket, endpoint)

    def work() -> str:
        with folder.open(key) as file:
            return _drain(partial(file.read, PIECE_BYTES), is_checked)

    return work


def our_whole_read(bucket: str, key: str, endpoint: str, is_checked: bool) -> Callable[[], str]:
    """Prepares Folder.read."""
    folder = _our_folder(bucket, endpoint)

    def work() -> str:
        data = folder.read(key)
        return hashlib.sha256(data).hexdigest() if is_checked else str(len(data))

    return work


def boto3_stream(bucket: str, key: str, endpoint: str, is_checked: bool) -> Callable[[], str]:
    """Prepares get_object and its body; where the body breaks off it begins anew, as there is no way to go on."""
    import boto3
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError
    from urllib3.exceptions import HTTPError

    client = boto3.client("s3", endpoint_url=endpoint)

    def work() -> str:
        while True:
            try:
                body = client.get_object(Bucket=bucket, Key=key)["Body"]
                return _drain(partial(body.read, PIECE_BYTES), is_checked)
            except (HTTPError, IncompleteReadError, ResponseStreamingError):
                continue

    return work


def _our_folder(bucket: str, endpoint: str) -> Folder:
    from components.runtime.s3 import S3Folder
    from components.runtime.s3_client import connection

    keep_freed_memory()  # as a stage's process does
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    folder = S3Folder(bucket, "")
    connection(folder.limits)  # each side's client is made before it is measured
    return folder


def _drain(read: Callable[[], bytes], is_checked: bool) -> str:
    digest, size = hashlib.sha256(), 0
    while piece := read():
        size += len(piece)
        if is_checked:
            digest.update(piece)
    return digest.hexdigest() if is_checked else str(size)
