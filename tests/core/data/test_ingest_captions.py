"""From the bytes of a caption to its text, or to the reason why not."""

import dataclasses
import time

import pytest

from components.core.data.ingest import Reject, clean_caption
from tests.core.data.limits import LIMITS


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"A red ball.\nfr=Un ballon rouge", "A red ball."),
        (b"\xef\xbb\xbfwith a byte-order mark", "with a byte-order mark"),
        (b"  two \t \x07 words\x1b\r\n", "two words"),
        (b"a\x00b", "ab"),
        ("größer, 大きい", "größer, 大きい"),
        ("क्\u200dष 👩\u200d🚒".encode(), "क्\u200dष 👩\u200d🚒"),
        ("half a pair \ud83d of surrogates", "half a pair of surrogates"),
    ],
)
def test_a_caption_is_its_first_line_cleaned(data: bytes | str, caption: str) -> None:
    assert clean_caption(data, LIMITS) == caption


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", "caption_encoding"),
        (b"", "caption_empty"),
        (b" \x00\n ", "caption_empty"),
        ("", "caption_empty"),
        ("\u200d\ufeff", "caption_empty"),
        (b"ball", "caption_short"),
    ],
)
def test_a_caption_without_text_is_rejected(data: bytes | str, reason: str) -> None:
    with pytest.raises(Reject) as caught:
        clean_caption(data, dataclasses.replace(LIMITS, min_caption_characters=5))
    assert caught.value.reason == reason


def test_only_a_declared_encoding_is_tried_after_utf_8() -> None:
    latin = dataclasses.replace(LIMITS, caption_fallback_encoding="latin-1")
    assert clean_caption(b"caf\xe9", latin) == "café"
    assert clean_caption("café".encode(), latin) == "café"
    with pytest.raises(Reject, match="caption_encoding"):
        clean_caption(
            b"\x81 nothing in Windows' Greek \xd2", dataclasses.replace(latin, caption_fallback_encoding="cp1253")
        )


@pytest.mark.parametrize("data", [b"x" * 10**6, b"\x07" * (10**6 - 100) + b"x" * 100, (b"x" + b" " * 99_999) * 10])
def test_a_caption_of_a_megabyte_is_cut_quickly(data: bytes) -> None:
    start = time.process_time()
    assert set(clean_caption(data, LIMITS)) <= {"x", " "}
    assert len(clean_caption(data, LIMITS)) <= 100
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("caption", "is_kept"),
    [
        ("A photo of a red ball that lies on the grass", True),
        ("Ein rotes Fahrrad lehnt an der alten Mauer", False),
        ("草の上に赤いボールがあります", False),
    ],
)
def test_captions_of_another_language_are_rejected_where_one_is_asked_for(caption: str, is_kept: bool) -> None:
    assert clean_caption(caption, LIMITS) == caption
    english = dataclasses.replace(LIMITS, caption_language="en")
    if is_kept:
        assert clean_caption(caption, english) == caption
    else:
        with pytest.raises(Reject, match="caption_language"):
            clean_caption(caption, english)
