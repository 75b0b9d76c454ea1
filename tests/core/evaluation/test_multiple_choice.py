"""Sets, parser and scores of multiple-choice benchmarks."""

import base64
import io

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from scipy.stats import binomtest

from components.core.evaluation.multiple_choice import (
    COLUMNS,
    GROUP_OF_SET,
    GROUPS,
    parse_reply,
    read_questions,
    score_sheet,
)

OPTIONS = ("red", "green", "blue", "a very dark shade of yellow")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def row(index: object = 0, **changed: object) -> dict[str, object]:
    options = dict(zip("ABCD", OPTIONS, strict=True))
    return {
        "index": index, "question": "What colour?", **options, "answer": "B", "category": "VQAv2", "image": png(),
    } | changed  # fmt: skip


def parquet(*rows: dict[str, object], columns: tuple[str, ...] = COLUMNS) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: [r[name] for r in rows] for name in columns}), buffer)
    return buffer.getvalue()


def test_vmcbench_has_twenty_sets_in_four_groups():
    assert len(GROUP_OF_SET) == 20
    assert {name: len(sets) for name, sets in GROUPS.items()} == {
        "general": 7, "reasoning": 6, "ocr": 2, "doc & chart": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("B. green", "B"),
        ("'D'!", "D"),
        ("The answer is C", "C"),
        ("A or maybe B", "B"),
        ("(A) no, rather (C)", "C"),
        ("I think that it is certainly green here", "B"),
        ("It could be red but it is really blue", "C"),
        ("green", None),
        ("", None),
        ("E", None),
        ("perhaps none of them fits this picture", None),
    ],
)
def test_a_reply_is_read_by_the_official_rule(reply: str, letter: str | None):
    assert parse_reply(reply, OPTIONS) == letter


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"bytes": b}, lambda b: base64.b64encode(b).decode()])
def test_pictures_may_be_bytes_structs_or_base64(wrap):
    (question,) = read_questions(parquet(row(image=wrap(png()))), {})
    assert question.picture().size == (8, 8)


def test_the_prompt_is_the_one_of_vmcbench():
    (question,) = read_questions(parquet(row()), {})
    assert question.prompt() == (
        "Question: What colour?\nOptions:\nA. red\nB. green\nC. blue\nD. a very dark shade of yellow\n"
        "Answer with the option's letter from the given choices directly.\n"
    )
    assert question.group == "general"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"nonsense", "no parquet"),
        (parquet(row(), columns=COLUMNS[:-1]), "lacks the columns image"),
        (parquet(row(answer="E")), "expected A, B, C or D"),
        (parquet(row(category="Nobody")), "belongs to no group"),
        (parquet(row(1), row(1)), "occurs twice"),
        (parquet(row(image="not base64!")), "no base64"),
        (parquet(row(question=None)), "nothing in question"),
    ],
)
def test_a_faulty_benchmark_is_refused_in_a_sentence(data: bytes, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        read_questions(data, {})


def test_an_empty_benchmark_is_refused():
    empty = pyarrow.table({name: pyarrow.array([], pyarrow.string()) for name in COLUMNS})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(empty, buffer)
    with pytest.raises(ValueError, match="no questions"):
        read_questions(buffer.getvalue(), {})


def test_a_picture_that_cannot_be_decoded_is_named():
    (question,) = read_questions(parquet(row(7, image=b"no picture")), {})
    with pytest.raises(ValueError, match="question 7"):
        question.picture()


def test_sets_of_the_manifest_are_known():
    (question,) = read_questions(parquet(row(category="Mine")), {"Mine": "ocr"})
    assert question.group == "ocr"


def test_scores_are_means_over_questions_and_over_sets():
    rows = [row(i, category="VQAv2") for i in range(6)] + [row(i, category="TextVQA") for i in range(6, 8)]
    questions = read_questions(parquet(*rows), {})
    sheet = score_sheet(questions, ["B", "B", "B", "A", "A", None, "B", "B"], 0.95)
    assert sheet["sets"]["VQAv2"]["accuracy"] == pytest.approx(3 / 6)
    assert sheet["sets"]["VQAv2"]["quarter"] == pytest.approx(3.25 / 6)
    assert sheet["groups"]["ocr"]["accuracy"] == 1
    assert sheet["micro"]["accuracy"] == pytest.approx(5 / 8)
    assert sheet["macro"] == pytest.approx((3 / 6 + 1) / 2)
    assert sheet["unparsed_rate"] == pytest.approx(1 / 8)
    interval = binomtest(5, 8).proportion_ci(0.95, method="wilson")
    assert (sheet["micro"]["low"], sheet["micro"]["high"]) == pytest.approx((interval.low, interval.high))
