"""Being asked to stop: noticed at once, also in the middle of a wait, because a step's container may be gone soon."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Woken(BaseException):
    """A wait was ended by the request to stop."""


class Stop:
    """Whether the launcher was asked to stop.

    Attributes:
        own_pod: The pod that the launcher runs in: where that is evicted, nobody wants the gang to end; empty: none.
    """

    def __init__(self, own_pod: str = "") -> None:
        self.own_pod = own_pod
        self._was_asked = self._is_asleep = False

    def is_asked(self) -> bool:
        """Returns whether it was."""
        return self._was_asked

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT as the request from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._arrived)

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """Lets the request end what is done meanwhile; it changes nothing, so that it may end anywhere."""
        with contextlib.suppress(Woken):
            try:
                self._is_asleep = True
                yield
            finally:
                self._is_asleep = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._was_asked = True
        if self._is_asleep:
            self._is_asleep = False
            raise Woken
