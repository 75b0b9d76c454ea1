"""Calls to a server that end, and that are repeated where the failure passes and repeating does no harm."""

import time
from collections.abc import Callable
from typing import TypeVar

import urllib3

T = TypeVar("T")

CALL_TIMEOUT_S = 20
ATTEMPTS = 4
FIRST_WAIT_S = 0.5
PASSING = (429, 500, 502, 503, 504)


def patiently(call: Callable[[], T], is_read: bool) -> T:
    """Returns what the call returns; a read is tried four times while it fails in a way that passes."""
    for attempt in range(ATTEMPTS if is_read else 1):
        if attempt:
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        try:
            return call()
        except Exception as error:
            passes = getattr(error, "status", None) in PASSING or isinstance(error, urllib3.exceptions.HTTPError)
            if not passes or not is_read or attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError


def reason_of(error: BaseException) -> str:
    """Returns why a call had no answer, in a few words."""
    reason = getattr(error, "reason", None)
    text = " ".join(str(reason if isinstance(reason, BaseException) else error).split())
    return text.rpartition("object at 0x")[2].partition(": ")[2][:200] or text[:200] or type(error).__name__
