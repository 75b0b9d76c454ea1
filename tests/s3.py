"""A real S3 server in this process, and the settings by which boto3 finds one."""

import contextlib
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

ACCESS_KEY = "test"
SECRET = "wJalrXUtnFEMI-not-a-secret"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of a moto server."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Sets the environment of this process and its children, and forgets the connections made so far."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("components.runtime.s3_client._connections", {})
