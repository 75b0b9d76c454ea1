"""Image tokens: each picture is encoded once, in the same company, and kept while questions about it are open."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from components.benchmark_vlm.params import QUESTIONS_PER_PART
from components.benchmark_vlm.parts import Part, Parts
from components.benchmark_vlm.picture_tokens import PictureTokens
from components.benchmark_vlm.question_files import QuestionFiles, published_tables
from components.core.evaluation.multiple_choice import Question
from components.runtime.storage import LocalFolder
from tests.benchmark_vlm import vmcbench

BATCH_SIZE = 20


class Tower:
    """Pictures of one colour to tokens that say it, and a record of what it encoded."""

    def __init__(self) -> None:
        self.encoded: list[list[tuple[int, ...]]] = []

    def prepare(self, picture: Image.Image) -> Tensor:
        return torch.from_numpy(numpy.array(picture.resize((1, 1)))).permute(2, 0, 1)

    def encode(self, pictures_BCSS: Tensor) -> Tensor:
        self.encoded.append([tuple(of) for of in pictures_BCSS[:, :, 0, 0].tolist()])
        return pictures_BCSS.flatten(1)[:, None].float()


@pytest.fixture
def questions(tmp_path: Path) -> tuple[list[Question], QuestionFiles, list[tuple[int, ...]]]:
    """Returns 600 questions about 200 pictures, which come back in later parts, and each one's colour."""
    rows = vmcbench.rows(200) * 3
    rows = [row | {"index": number} for number, row in enumerate(rows)]
    path = vmcbench.write(tmp_path / "questions.parquet", rows)
    files = QuestionFiles(published_tables(str(path)), "--questions")
    found = files.questions({}, False)
    pictures = files.pictures(range(len(found)))
    tower = Tower()
    with ThreadPoolExecutor(1) as pool:
        alone = [Part(n, ((n,),), "") for n in range(len(found))]
        tokens = PictureTokens(found, files, alone, batch_size=1, prepare=tower.prepare, encode=tower.encode, pool=pool)
        colours = []
        for part in alone:
            tokens.start(part)
            list(tokens.finish())
            colours.append(tuple(int(of) for of in tokens.take(part.batches[0]).flatten().tolist()))
    assert len(pictures) == 600 and len(set(colours)) == 200
    return found, files, colours


def parts_of(questions: Sequence[Question], out: Path) -> list[Part]:
    lengths = [len(question.prompt()) for question in questions]
    return Parts(LocalFolder(out), questions).read(lengths, BATCH_SIZE, [])


def run(questions: Sequence[Question], files: QuestionFiles, parts: Sequence[Part], tower: Tower) -> dict[int, Tensor]:
    """Returns the tokens of all open questions, as the stage asks for them."""
    found: dict[int, Tensor] = {}
    with ThreadPoolExecutor(2) as pool:
        tokens = PictureTokens(
            questions, files, parts, batch_size=BATCH_SIZE, prepare=tower.prepare, encode=tower.encode, pool=pool
        )
        assert tokens.num_pictures == 200
        for part in parts:
            tokens.start(part)
            list(tokens.finish())
            for batch in part.open_batches():
                found |= dict(zip(batch, tokens.take(batch), strict=True))
        assert not tokens._tokens and not tokens._prepared
    return found


def test_every_question_gets_its_pictures_tokens_and_each_picture_is_encoded_once(questions, tmp_path: Path):
    found, files, colours = questions
    tower = Tower()
    tokens = run(found, files, parts_of(found, tmp_path), tower)
    assert [tuple(int(of) for of in tokens[n].flatten().tolist()) for n in range(600)] == colours
    encoded = [colour for together in tower.encoded for colour in together]
    assert len(encoded) == len(set(encoded)) == 200 and max(map(len, tower.encoded)) == BATCH_SIZE


def test_what_was_answered_before_changes_no_company(questions, tmp_path: Path):
    found, files, _ = questions
    whole, rest = Tower(), Tower()
    run(found, files, parts_of(found, tmp_path), whole)
    parts = parts_of(found, tmp_path)
    for part in parts[:2]:
        part.replies.update(dict.fromkeys((n for batch in part.batches[:-1] for n in batch), "A"))
    tokens = run(found, files, parts, rest)
    assert len(tokens) == sum(len(batch) for part in parts for batch in part.open_batches()) < 600
    assert rest.encoded and all(together in whole.encoded for together in rest.encoded)


def test_long_questions_come_first_and_a_batch_is_of_about_one_length(questions, tmp_path: Path):
    found, _, _ = questions
    lengths = [len(question.prompt()) for question in found]
    parts = parts_of(found, tmp_path)
    assert sorted(n for part in parts for batch in part.batches for n in batch) == list(range(600))
    assert [sum(len(batch) for batch in part.batches) for part in parts] == [QUESTIONS_PER_PART] * 2 + [88]
    for part in parts:
        in_order = [lengths[n] for batch in part.batches for n in batch]
        assert in_order == sorted(in_order, reverse=True)
