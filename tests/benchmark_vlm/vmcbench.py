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

from components.core.data.conversation import TEMPLATES, prompt_tokens
from components.core.data.questions import LETTERS, vmcbench_prompt
from components.core.evaluation.multiple_choice import GROUP_OF_SET
from components.core.models.interleave import interleave, padded
from components.core.models.language_model import reply_text, tiny_language_model
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


def model(
    *,
    width: int = 32,
    depth: int = 1,
    image_size_px: int = 16,
    tower_width: int = 16,
    tower_depth: int = 2,
    steps: int = 0,
) -> VisionLanguageModel:
    """Returns a tiny model; after some hundred steps of training its replies are options of the question."""
    words = " ".join(["Which option is of all", *COLOURS])
    language_model = tiny_language_model([words], width=width, depth=depth, num_heads=2, seed=0)
    size = {"image_size_px": image_size_px, "patch_size_px": 8, "width": tower_width, "depth": tower_depth}
    trunk = Trunk(**size, num_heads=2, seed=0).eval()
    projector = Projector(in_width=tower_width, out_width=width, seed=0)
    vlm = VisionLanguageModel(own_tower(trunk, {"arm": "clip"}), projector, language_model, TEMPLATES["bare"])
    _train(vlm, rows(400, seed=1), steps)
    return vlm.eval()


def _train(vlm: VisionLanguageModel, asked: list[dict[str, Any]], steps: int) -> None:
    """Trains the language model on the replies: a letter, a mark, a word and the end token."""
    generator = torch.Generator().manual_seed(0)
    language_model, side = vlm.language_model, vlm.tower.image_size_px
    plain_P3SS = torch.randint(0, 256, (64, 3, 1, 1), generator=generator, dtype=torch.uint8).expand(64, 3, side, side)
    pictures_P1NE = vlm.projector(vlm.features(plain_P3SS))[:, None].detach()
    prompts = [vmcbench_prompt(row["question"], [row[letter] for letter in LETTERS]) for row in asked]
    questions = [prompt_tokens(TEMPLATES["bare"].ask(prompt), language_model.tokenizer) for prompt in prompts]
    replies = [language_model.encode(reply_text(row["answer"], row[row["answer"]])) for row in asked]
    replies = [[*reply, language_model.end_id] for reply in replies]
    (length,) = {len(reply) for reply in replies}
    optimizer = torch.optim.AdamW(language_model.parameters(), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 / language_model.width * (1 - step / steps)
        chosen = torch.randint(0, len(questions), (16,), generator=generator).tolist()
        tokens_BT, is_text_BT = padded([questions[n] + replies[n] for n in chosen], language_model.end_id)
        shown_B = torch.randint(0, len(pictures_P1NE), (len(chosen),), generator=generator)
        row = interleave(language_model, pictures_P1NE[shown_B], tokens_BT, is_text_BT)
        before_BM = row.lengths_B[:, None] - 1 - torch.arange(length, 0, -1)
        states_BME = language_model.states(row.vectors_BSE)[torch.arange(len(chosen))[:, None], before_BM]
        labels_BM = torch.tensor([replies[n] for n in chosen])
        loss = F.cross_entropy(language_model.scores(states_BME).flatten(0, 1), labels_BM.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
