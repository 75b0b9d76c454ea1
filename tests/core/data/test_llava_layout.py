"""LLaVA's published JSON: what is read, what is left out and why, and which files are refused."""

import io
import json
from typing import Any

import pytest

from components.core.data import llava_layout
from components.core.data.llava_layout import Record, read_records
from components.core.data.record_tally import RecordTally

SAID = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
GOOD = {"id": "000", "image": "coco/train2017/000.jpg", "conversations": SAID}
ALONE = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]


class Files:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def open(self, name: str) -> io.BufferedIOBase:
        return io.BufferedReader(io.BytesIO(self.data))


def read(data: bytes | list[Any]) -> tuple[list[Record], RecordTally]:
    tally = RecordTally()
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return list(read_records(Files(data), "mix.json", tally)), tally


def said(*values: str, first: str = "human") -> list[dict[str, str]]:
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": roles[number % 2], "value": value} for number, value in enumerate(values)]


def test_a_record_is_read() -> None:
    (found,), tally = read([GOOD])
    assert found == Record('mix.json, record 0 (id "000")', ("coco/train2017/000.jpg",), ("<image>\nWhat?", "A cat."))
    assert (tally.num_records, tally.left_out.total(), tally.changed.total()) == (1, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "[{}, {}, {}]",
        " [\n {}\n,{},\n{} ]\n",
        "{}\n{}\n{}",
        "\n{}\r\n{}\n\n{}\n",
        "\ufeff[{},{},{}]",
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_list_and_lines_are_the_same_whatever_part_is_in_memory(
    text: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llava_layout, "CHUNK_CHARACTERS", chunk)
    records = [GOOD | {"id": number, "conversations": said('<image>ß 大 \\ "{}[]', "🦙")} for number in range(3)]
    escaped, plain = (json.dumps(records[0], ensure_ascii=is_ascii) for is_ascii in (True, False))
    parts = [escaped, plain, json.dumps(records[2], indent=1)]
    found, _ = read("".join(a + b for a, b in zip(text.split("{}"), [*parts, ""], strict=True)).encode())
    assert [record.turns for record in found] == [('<image>ß 大 \\ "{}[]', "🦙")] * 3


@pytest.mark.parametrize("data", [b"[]", b" [ ] "])
def test_an_empty_list_has_no_records(data: bytes) -> None:
    found, tally = read(data)
    assert (found, tally.num_records) == ([], 0)


@pytest.mark.parametrize(
    ("image", "turns", "pictures", "expected"),
    [
        (["a.jpg", "b/c.png"], ("<image> or <image>?", "b"), ("a.jpg", "b/c.png"), None),
        (["a.jpg", "b.jpg"], ("<image>?", "a", "<image>?", "b"), ("a.jpg", "b.jpg"), None),
        ("a.jpg", ("What?", "b"), ("a.jpg",), ("<image>\nWhat?", "b")),
        (["a.jpg", "b.jpg"], ("What?", "b"), ("a.jpg", "b.jpg"), ("<image>\n<image>\nWhat?", "b")),
        ("a.jpg", ("", "b"), ("a.jpg",), ("<image>\n", "b")),
        ([], ("What?", "b"), (), None),
        (None, ("What?", "b"), (), None),
        ("a..b/c..jpg", ("<image>", "b"), ("a..b/c..jpg",), None),
    ],
)
def test_pictures_and_their_marks(
    image: Any, turns: tuple[str, ...], pictures: tuple[str, ...], expected: tuple[str, ...] | None
) -> None:
    (found,), _ = read([{"id": 1, "image": image, "conversations": said(*turns)}])
    assert (found.pictures, found.turns) == (pictures, expected or turns)


def test_a_reply_before_the_first_question_is_dropped_and_counted() -> None:
    (found,), tally = read([{"id": 1, "conversations": said("Hello.", "What?", "That.", first="gpt")}])
    assert found.turns == ("What?", "That.")
    assert tally.changed == {"opening_reply_dropped": 1}


@pytest.mark.parametrize(
    ("change", "reason", "fault"),
    [
        ({"conversations": said("<image>", "a", "b?")}, "roles", "don't speak in turn"),
        ({"conversations": [SAID[0], SAID[0], SAID[1]]}, "roles", "don't speak in turn"),
        ({"conversations": []}, "roles", "don't speak in turn"),
        ({"conversations": said("a", first="gpt")}, "roles", "don't speak in turn"),
        ({"conversations": [{"from": "user", "value": "a"}, SAID[1]]}, "conversations", '"human" or "gpt"'),
        ({"conversations": [{"from": "human"}, SAID[1]]}, "conversations", '"value": text'),
        ({"conversations": [{"from": [], "value": "a"}, SAID[1]]}, "conversations", "write it so"),
        ({"conversations": "a"}, "conversations", "is no list"),
        ({"conversations": None}, "conversations", "is no list"),
        ({"conversations": said("<image>?", "")}, "empty_turn", "a question or reply is empty"),
        ({"conversations": said("<image>?", "a", " \n", "b")}, "empty_turn", "a question or reply is empty"),
        ({"conversations": said("<image>", "<image>")}, "mark_in_reply", "a reply contains <image>"),
        ({"conversations": said("<image><image>", "a")}, "marks", "it has 1 pictures and 2 times <image>"),
        ({"image": None}, "marks", "it has 0 pictures and 1 times <image>"),
        ({"image": ["a", "b"]}, "marks", "it has 2 pictures and 1 times <image>"),
        ({"image": ""}, "picture_name", "neither a name nor a list of names"),
        ({"image": 5}, "picture_name", "neither a name nor a list of names"),
        ({"image": ["a", None]}, "picture_name", "neither a name nor a list of names"),
        ({"image": "/etc/passwd"}, "picture_name", "no name below the folder of the pictures"),
        ({"image": "a/../../b.jpg"}, "picture_name", "no name below the folder of the pictures"),
    ],
)
def test_a_record_that_cannot_be_used_is_left_out_with_a_sentence(
    change: dict[str, Any], reason: str, fault: str
) -> None:
    found, tally = read([GOOD, GOOD | {"id": "bad"} | change, GOOD])
    assert len(found) == 2
    assert (tally.num_records, tally.left_out) == (3, {reason: 1})
    assert tally.first[reason].startswith('mix.json, record 1 (id "bad"): ')
    assert fault in tally.first[reason]


@pytest.mark.parametrize(
    ("data", "number", "fault"),
    [
        (b"", 0, r"neither \[ nor \{"),
        (b"\x89PNG\r\n", 0, "can't decode byte 0x89"),
        (b'"text"', 0, r"neither \[ nor \{"),
        (b"index,question\n", 0, r"neither \[ nor \{"),
        (b"[1, 2]", 0, "a record begins with '1'"),
        (b"[{}, 2]", 1, "a record begins with '2'"),
        (b"[{},]", 1, "a record begins with ']'"),
        (b"[{} {}]", 1, "there is '{' instead of ','"),
        (b"[{}", 1, "there is '' instead of ','"),
        (b"[{}]{}", 1, "something follows the end"),
        (b'[{}, {"id": ', 1, "Expecting value"),
        (b'{}\n{"id"\n', 1, "Expecting ':'"),
        (b"{}\n[]\n", 1, r"a record begins with '\['"),
        (b'{"id": "\xff"}', 0, "can't decode byte 0xff"),
        (b'{"a":' * 100_000, 0, "recursion"),
    ],
)
def test_a_file_that_is_no_such_json_is_refused(data: bytes, number: int, fault: str) -> None:
    with pytest.raises(ValueError, match=f"mix.json can't be read from record {number} on (.*{fault}.*): give a JSON"):
        read(data)


def test_a_broken_file_is_not_taken_into_memory_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llava_layout, "MAX_RECORD_CHARACTERS", 1000)
    monkeypatch.setattr(llava_layout, "CHUNK_CHARACTERS", 100)
    parts: list[bytes] = []

    class Endless(io.BufferedIOBase):
        def readable(self) -> bool:
            return True

        def read1(self, size: int = -1) -> bytes:
            parts.append(b"a" * size if parts else b'[{"id": "')
            return parts[-1]

    class Folder:
        def open(self, name: str) -> io.BufferedIOBase:
            return Endless()

    with pytest.raises(ValueError, match="record 0"):
        list(read_records(Folder(), "mix.json", RecordTally()))
    assert len(b"".join(parts)) < 50_000


def test_left_out_records_are_refused_above_a_share() -> None:
    _, tally = read([GOOD, GOOD | {"image": None}, GOOD | {"image": 5}, GOOD | {"image": None}])
    tally.refuse_above(0.75)
    with pytest.raises(ValueError, match=r"3 of the 4 records can't be used \(marks 2, picture_name 1\)") as refusal:
        tally.refuse_above(0.7)
    assert "record 1 " in str(refusal.value) and "record 2 " in str(refusal.value)
    assert "record 3 " not in str(refusal.value)


def test_no_records_left_out_are_no_reason_to_refuse() -> None:
    _, tally = read([GOOD])
    tally.refuse_above(0.0)
