"""What every test gives back."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    """A stage that runs in pytest's own process takes SIGTERM and SIGINT; the next test has them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
