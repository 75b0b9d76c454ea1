"""A benchmark in VMCBench's exact parquet schema, about coloured pictures, and a tiny model that has learnt to answer.

Published are `data/dev-00000-of-00001.parquet` with 1,000 questions and `data/test-0000?-of-00002.parquet` with 8,018.
"""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
import torch.nn.functional as F
from PIL import Image

from components.core.data.conversation import IMAGE, TEMPLATES, prompt_tokens
from components.core.data.questions import LETTERS, vmcbench_prompt
from components.core.evaluation.multiple_choice import GROUP_OF_SET
from components.core.models.interleave import interleave, padded
from components.core.models.language_model import LanguageModel, reply_text, tiny_language_model
from components.core.models.projector import Projector
from components.core.models.trunk import Trunk
from components.core.models.vision_tower import own_tower
from components.core.models.vlm import VisionLanguageModel

COLOURS = ("red", "green", "blue", "pink", "black", "white", "grey", "brown", "orange", "violet")
IMAGE_TYPE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
SCHEMA = pyarrow.schema(
    [
        ("index", pyarrow.int64()),
        *((name, pyarrow.string()) for name in ("question", *LETTERS, "answer", "category")),
        ("image", IMAGE_TYPE),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})},
)
ROWS_PER_GROUP = 100  # as Hugging Face's datasets writes pictures
DEV = 1000


def rows(count: int, seed: int = 0, *, per_picture: int = 1) -> list[dict[str, Any]]:
    """Returns questions of all twenty sets, some longer than others; the question itself says which option is right."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        if index % per_picture == 0:
            picture = png((rng.randrange(256), rng.randrange(256), rng.randrange(256)), (rng.randrange(8, 40), 24))
        options = rng.sample(COLOURS, len(LETTERS))
        right = rng.randrange(len(LETTERS))
        padding = " of all" * rng.randrange(8)
        found.append(
            {
                "index": index,
                "question": f"Which option is {reply_text(LETTERS[right], options[right])}{padding}?",
                **dict(zip(LETTERS, options, strict=True)),
                "answer": LETTERS[right],
                "category": sorted(GROUP_OF_SET)[index % len(GROUP_OF_SET)],
                "image": {"bytes": picture, "path": f"{index}.png"},
            }
        )
    return found


def png(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    """Returns a picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, questions: Sequence[dict[str, Any]], schema: pyarrow.Schema = SCHEMA) -> Path:
    """Writes a parquet file in VMCBench's schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(list(questions), schema=schema)
    pyarrow.parquet.write_table(table, path, row_group_size=ROWS_PER_GROUP)
    return path


def model(*, width: int = 32, depth: int = 1, image_size_px: int = 16, steps: int = 0) -> VisionLanguageModel:
    """Returns a tiny model; after some hundred steps of training its replies are options of the question."""
    asked = rows(400, seed=1)
    options = [[row[letter] for letter in LETTERS] for row in asked]
    prompts = [vmcbench_prompt(row["question"], texts) for row, texts in zip(asked, options, strict=True)]
    texts = [*prompts, *(reply_text(letter, colour) for letter in LETTERS for colour in COLOURS for _ in range(4))]
    language_model = tiny_language_model(texts, width=width, depth=depth, num_heads=2, seed=0)
    trunk = Trunk(image_size_px=image_size_px, patch_size_px=8, width=16, depth=2, num_heads=2, seed=0).eval()
    projector = Projector(in_width=16, out_width=width, seed=0)
    vlm = VisionLanguageModel(own_tower(trunk, {"arm": "clip"}), projector, language_model, TEMPLATES["bare"])
    replies = [reply_text(row["answer"], row[row["answer"]]) for row in asked]
    _train(vlm, language_model, prompts, replies, steps)
    return vlm.eval()


def _train(
    vlm: VisionLanguageModel, language_model: LanguageModel, prompts: list[str], replies: list[str], steps: int
) -> None:
    """Trains on replies of one token and the end token, over random image tokens."""
    generator = torch.Generator().manual_seed(0)
    questions = [prompt_tokens(TEMPLATES["bare"].ask(prompt), language_model.tokenizer) for prompt in prompts]
    answers = [language_model.encode(reply) for reply in replies]
    assert all(len(answer) == 1 for answer in answers) and all(IMAGE in question for question in questions)
    optimizer = torch.optim.AdamW(language_model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(steps):
        chosen = torch.randint(0, len(questions), (32,), generator=generator).tolist()
        tokens_BT, is_text_BT = padded([questions[n] + answers[n] for n in chosen], language_model.end_id)
        pictures_B1NE = torch.randn(len(chosen), 1, vlm.tower.num_tokens, language_model.width, generator=generator)
        row = interleave(language_model, pictures_B1NE, tokens_BT, is_text_BT)
        states_BSE = language_model.states(row.vectors_BSE)
        index_B, last_B = torch.arange(len(chosen)), row.lengths_B - 1
        labels_B = torch.tensor([answers[n][0] for n in chosen])
        ends_B = torch.full_like(labels_B, language_model.end_id)
        loss = F.cross_entropy(language_model.scores(states_BSE[index_B, last_B - 1]), labels_B)
        loss = loss + F.cross_entropy(language_model.scores(states_BSE[index_B, last_B]), ends_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
