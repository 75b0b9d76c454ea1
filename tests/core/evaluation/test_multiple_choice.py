"""Sets, parser and scores of multiple-choice benchmarks."""

import base64
import io
import random
import re

import pytest
from PIL import Image
from scipy.stats import binomtest

from components.core.evaluation.multiple_choice import (
    GROUP_OF_SET,
    GROUPS,
    Question,
    decoded,
    image_bytes,
    parse_reply,
    read_question,
    score_sheet,
)

OPTIONS = ("red", "green", "blue", "a very dark shade of yellow")


def png(blue: int = 30) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, blue)).save(buffer, "PNG")
    return buffer.getvalue()


def row(index: object = 0, **changed: object) -> dict[str, object]:
    options = dict(zip("ABCD", OPTIONS, strict=True))
    return {
        "index": index, "question": "What colour?", **options, "answer": "B", "category": "VQAv2", "image": png(),
    } | changed  # fmt: skip


def read(found: dict[str, object], groups: dict[str, str] | None = None) -> Question:
    return read_question(found, GROUP_OF_SET | (groups or {}), "", False)


def test_vmcbench_has_twenty_sets_in_four_groups():
    assert len(GROUP_OF_SET) == 20
    assert {name: len(sets) for name, sets in GROUPS.items()} == {
        "general": 7, "reasoning": 6, "ocr": 2, "doc & chart": 5,
    }  # fmt: skip


REPLIES: list[tuple[str, str | None]] = [
    # a letter, with marks
    ("A", "A"),
    ("B", "B"),
    ("C", "C"),
    ("D", "D"),
    ("B.", "B"),
    ("B,", "B"),
    ("B!", "B"),
    ("B?!", "B"),
    ("B!?", None),
    ("'D'", "D"),
    ("'D'!", "D"),
    (": C", "C"),
    ("...A...", "A"),
    ("(C)", "C"),
    ("(C).", "C"),
    ("[C]", None),
    ("{C}", None),
    ("B)", None),
    ("B) red", None),
    ("(B", None),
    ("B:", "B"),
    ("B: green", None),
    ("B - green", "B"),
    ("B. green", "B"),
    ("B.green", None),
    ("B,green", None),
    # a letter in a sentence
    ("The answer is C", "C"),
    ("The answer is B.", "B"),
    ("Answer: D", "D"),
    ("Answer:D", None),
    ("Option A", "A"),
    ("Option (A) because it is red", "A"),
    ("I choose B because of the grass", "B"),
    ("It is not A. ", "A"),
    ("The correct option is C. blue, as the sky is.", "C"),
    ("A cat sits on the mat", "A"),
    # lower case
    ("b", None),
    ("b.", None),
    ("(c)", None),
    ("the answer is d", None),
    # several letters
    ("A and C", "C"),
    ("C and A", "A"),
    ("A or maybe B", "B"),
    ("A, B", "B"),
    ("A B C D", "D"),
    ("D C B A", "A"),
    ("AB", None),
    ("A/B", None),
    ("(A) no, rather (C)", "C"),
    ("(C) or (A)", "A"),
    ("B. green or A. red", "A"),
    ("A. red\nB. green", "A"),
    ("D. none, B. green", "B"),
    ("(A) is wrong. So B. is right", "A"),
    ("B. is wrong, it is (A)", "A"),
    ("C or (D)", "D"),
    # an option's text
    ("green", None),
    ("It is green", None),
    ("I think that it is certainly green here", "B"),
    ("It could be red but it is really blue", "C"),
    ("It is BLUE, as far as anyone can see", "C"),
    ("One sees a very dark shade of yellow", "D"),
    ("The wall is covered with blackboards all around", "A"),
    ("The bird that has landed there is coloured", "A"),
    ("perhaps none of them fits this picture", None),
    # letters within words, and other letters
    ("Because", None),
    ("BBC", None),
    ("E", None),
    ("E. purple", None),
    ("It was made in the USA. Nobody knows", "A"),
    ("Plan B: repaint", None),
    # marks and spaces of other kinds
    ("**B**", None),
    ("**B.** green", None),
    ("`B`", None),
    ("\\boxed{B}", None),
    ("B\n", None),
    ("\nB", None),
    ("B\ngreen", None),
    ("The answer is\nC", None),
    ("Answer: C \n because", "C"),
    ("  C  ", "C"),
    ("\tC", None),
    ("\N{FULLWIDTH LATIN CAPITAL LETTER B}", None),
    ("\N{FULLWIDTH LEFT PARENTHESIS}B\N{FULLWIDTH RIGHT PARENTHESIS}", None),
    # other languages
    ("答案是B", None),
    ("答案是 B", "B"),
    ("答案是 B。", None),
    ("Die Antwort ist B", "B"),
    ("La réponse est (D)", "D"),
    ("El color es verde, no hay otra posibilidad", None),
    ("Ответ \N{CYRILLIC CAPITAL LETTER A}", None),
    ("正解は (A) です", "A"),
    # nothing
    ("", None),
    (" ", None),
    (".", None),
    ("...", None),
    ("\n", None),
    ("I'm sorry, but I can't see the picture", None),
    ("None of the above", None),
    # long explanations
    ("Let us look at the picture: the grass is green, so option B fits. The answer is B", "B"),
    ("First I thought of red, then of green, and in the end of red", "A"),
    ("The sky is blue and the grass is green, and it is the grass that is asked for", "B"),
    ("A careful look shows that the thing is green", "A"),
]


def by_the_books_rule(reply: str, options: tuple[str, ...]) -> str | None:
    """STUDY.md, section 4, step by step, and the official code's way of comparing places."""
    for mark in ",.!?;:'":
        while reply.startswith(mark):
            reply = reply[1:]
        while reply.endswith(mark):
            reply = reply[:-1]
    text, letters = " " + reply + " ", "ABCD"[: len(options)]
    bracketed = [match[0] for match in re.finditer(rf"\([{letters}]\)", text)]
    dotted = [match[0] for match in re.finditer(rf"[{letters}]\. ", text)]
    if bracketed:
        return bracketed[-1][1]
    if dotted:
        return min(dotted)[0]
    alone = re.findall(rf"(?<= )[{letters}](?= )", text)
    if alone:
        return alone[-1]
    last = None
    if len(text.split()) > 5:
        for start in range(len(text)):
            named = [x for x, option in zip(letters, options, strict=True) if text.lower()[start:].startswith(option)]
            last = named[0] if named else last
    return last


def test_the_table_of_replies_is_long_enough():
    assert len({reply for reply, _ in REPLIES}) == len(REPLIES) >= 60


@pytest.mark.parametrize(("reply", "letter"), REPLIES)
def test_a_reply_is_read_by_the_official_rule(reply: str, letter: str | None):
    assert parse_reply(reply, OPTIONS) == letter == by_the_books_rule(reply, OPTIONS)


def test_random_replies_are_read_by_the_official_rule():
    rng = random.Random(0)
    pieces = ["A", "B", "C", "D", "(A)", "(B)", "(C)", "(D)", "A. ", "C.", " ", " ", "red", "green", ",", "'", "it is"]
    for _ in range(20_000):
        reply = "".join(rng.choices(pieces, k=rng.randrange(1, 12)))
        assert parse_reply(reply, OPTIONS) == by_the_books_rule(reply, OPTIONS), reply


@pytest.mark.parametrize(("reply", "letter"), [("C", None), ("B or C", "B"), ("it is blue as I see it", None)])
def test_only_the_options_that_exist_are_read(reply: str, letter: str | None):
    assert parse_reply(reply, OPTIONS[:2]) == letter == by_the_books_rule(reply, OPTIONS[:2])


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"bytes": b}, lambda b: base64.b64encode(b).decode()])
def test_pictures_may_be_bytes_structs_or_base64(wrap):
    assert decoded(image_bytes(wrap(png()), "0"), "0").size == (8, 8)


def test_the_prompt_is_the_one_of_vmcbench():
    question = read(row())
    assert question.prompt() == (
        "Question: What colour?\nOptions:\nA. red\nB. green\nC. blue\nD. a very dark shade of yellow\n"
        "Answer with the option's letter from the given choices directly.\n"
    )
    assert question.group == "general"


def test_only_the_options_that_exist_are_offered():
    for empty in (None, "", " "):
        question = read(row(C=empty, D=empty))
        assert question.options == ("red", "green")
        assert "\nB. green\nAnswer with" in question.prompt()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"answer": "E"}, "expected A, B, C or D"),
        ({"answer": "D", "D": None}, "expected A, B or C"),
        ({"C": ""}, "has an option D but no C"),
        ({"B": "", "C": "", "D": ""}, "nothing in B: expected at least the options A and B"),
        ({"category": "Nobody"}, "belongs to no group"),
        ({"image": "not base64!"}, "no base64"),
        ({"image": None}, "question 0 has no picture"),
        ({"image": {"bytes": None, "path": "x.png"}}, "question 0 has no picture"),
        ({"image": 3}, "expected bytes or base64"),
        ({"image": b"no picture"}, "picture of question 0 can't be decoded"),
        ({"question": None}, "nothing in question"),
    ],
)
def test_a_faulty_row_is_refused_in_a_sentence(changed: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        read(row(**changed))


def test_a_picture_that_breaks_off_is_named():
    with pytest.raises(ValueError, match="question 7"):
        decoded(png()[:-30], "7")


def test_sets_of_the_manifest_are_known_and_others_may_be():
    assert read(row(category="Mine"), {"Mine": "ocr"}).group == "ocr"
    assert read_question(row(category="Yours"), GROUP_OF_SET, "", True).group == "other"


def test_a_question_is_told_apart_by_all_that_a_reply_depends_on():
    changes: list[dict[str, object]] = [{}, {"A": "reddish"}, {"question": "Which?"}, {"image": png(9)}, {"D": ""}]
    assert len({read(row(**change)).digest() for change in changes}) == len(changes)
    assert read(row(answer="C")).digest() == read(row()).digest()


def test_scores_are_means_over_questions_and_over_sets():
    questions = [read(row(i, category="VQAv2" if i < 6 else "TextVQA")) for i in range(8)]
    sheet = score_sheet(questions, ["B", "B", "B", "A", "A", None, "B", "B"], 0.95)
    assert sheet["sets"]["VQAv2"]["accuracy"] == pytest.approx(3 / 6)
    assert sheet["sets"]["VQAv2"]["quarter"] == pytest.approx(3.25 / 6)
    assert sheet["groups"]["ocr"]["accuracy"] == 1
    assert sheet["micro"]["accuracy"] == pytest.approx(5 / 8) and sheet["micro"]["chance"] == 0.25
    assert sheet["macro"] == pytest.approx((3 / 6 + 1) / 2)
    assert sheet["unparsed_rate"] == pytest.approx(1 / 8)
    interval = binomtest(5, 8).proportion_ci(0.95, method="wilson")
    assert (sheet["micro"]["low"], sheet["micro"]["high"]) == pytest.approx((interval.low, interval.high))
    assert sheet["splits"] == {}


def test_an_unread_reply_to_two_options_counts_as_a_half():
    questions = [read(row(0)), read(row(1, C="", D=""))]
    sheet = score_sheet(questions, ["B", None], 0.95)
    assert sheet["micro"]["quarter"] == (1 + 0.5) / 2 and sheet["micro"]["chance"] == (0.25 + 0.5) / 2


def test_splits_are_scored_on_their_own():
    questions = [read_question(row(i), GROUP_OF_SET, "dev" if i < 3 else "test", False) for i in range(4)]
    sheet = score_sheet(questions, ["B", "B", None, "A"], 0.95)
    assert {name: (entry["n"], entry["accuracy"]) for name, entry in sheet["splits"].items()} == {
        "dev": (3, 2 / 3), "test": (1, 0),
    }  # fmt: skip
