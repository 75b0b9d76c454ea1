"""Lessons for the tiny language model: it learns to read from the texts of the pictures, then to see.

Several questions about one picture share its tokens (core/models/turns.py), and features are computed once, so that a
laptop trains it in a minute.
"""

import hashlib
import json
from typing import Any

import numpy
import torch
from torch import Tensor

from components.core.data.conversation import TEMPLATES
from components.core.data.dialogue import Dialogue, DialogueBatches, dialogue, texts
from components.core.data.shard_samples import Sample, read_samples
from components.core.models.encoder import device
from components.core.models.language_model import LanguageModel, tiny_language_model
from components.core.models.projector import Projector
from components.core.models.vision_tower import VisionTower
from components.core.objectives.vlm import AlignObjective, TextObjective, TuneObjective
from components.core.training import distributed
from components.runtime.errors import BadInput, Preempted
from components.runtime.stage import Stage
from components.train_vlm.lessons import Lesson
from components.train_vlm.params import Params

PICTURES_AT_ONCE = 256


class TinyLessons:
    """Captions and questions of build_shards' pictures, held in memory."""

    template = TEMPLATES["bare"]

    def __init__(self, params: Params, stage: Stage, tower: VisionTower, seed: int) -> None:
        if distributed.world().size > 1:
            raise BadInput(f"--language_model=tiny is trained by one process, not {distributed.world().size}.")
        samples = list(read_samples(stage.folder("shards"), stage.inputs["shards"]))
        self.language_model = tiny_language_model(
            texts(samples), width=params.tiny_width, depth=params.tiny_depth, num_heads=params.tiny_heads, seed=seed
        ).to(device())
        self._params, self._num_words = params, tower.num_tokens
        self._dialogues, self._num_left_out = _dialogues(params, samples, self.language_model)
        self._features_IND = _features(tower, samples, stage)
        padding_id = self.language_model.tokenizer.pad_token_id
        self._batches = DialogueBatches(self._dialogues, padding_id=padding_id, seed=seed)

    def read(self) -> Lesson | None:
        """Returns the training on text alone; its questions are about words in the place of a picture."""
        if not self._params.text_steps:
            return None
        return Lesson(
            "text",
            TextObjective(self.language_model),
            lambda start: self._batches.about_words(
                start,
                batch_size=self._params.text_batch_size,
                num_questions=self._params.questions_per_picture,
                num_words=self._num_words,
            ),
        )

    def align(self, projector: Projector) -> Lesson:
        """Returns LLaVA-1.5's first stage."""
        return Lesson(
            "align",
            AlignObjective(projector, self.language_model),
            lambda start: self._batches.about_captions(
                start, features=self._features_IND, batch_size=self._params.align_batch_size
            ),
        )

    def tune(self, projector: Projector) -> Lesson:
        """Returns LLaVA-1.5's second stage."""
        return Lesson(
            "tune",
            TuneObjective(projector, self.language_model),
            lambda start: self._batches.about_questions(
                start,
                features=self._features_IND,
                batch_size=self._params.tune_batch_size,
                num_questions=self._params.questions_per_picture,
            ),
        )

    def digest(self) -> str:
        """Returns the hash of all token ids that are trained on, in their order."""
        lists = [
            [found.caption.reply, [[turn.prompt, turn.reply] for turn in found.questions]] for found in self._dialogues
        ]
        return hashlib.sha256(json.dumps(lists).encode()).hexdigest()

    def counts(self) -> dict[str, Any]:
        """Returns the numbers of pictures and questions."""
        return {
            "pictures": len(self._dialogues),
            "questions": sum(len(found.questions) for found in self._dialogues),
            "questions_too_long": self._num_left_out,
        }


def _dialogues(params: Params, samples: list[Sample], language_model: LanguageModel) -> tuple[list[Dialogue], int]:
    """Returns one dialogue per picture, and how many questions are longer than max_length."""
    found = [dialogue(sample, language_model, params.max_length) for sample in samples]
    num_left_out = sum(left_out for _, left_out in found)
    empty = sum(not kept.questions for kept, _ in found)
    if empty:
        raise BadInput(
            f"{empty} of the {len(samples)} pictures in --shards={params.shards} have no question of at most "
            f"--max_length={params.max_length} tokens ({num_left_out} questions are longer): raise it, or build "
            "shards with questions."
        )
    return [kept for kept, _ in found], num_left_out


@torch.inference_mode()
def _features(tower: VisionTower, samples: list[Sample], stage: Stage) -> Tensor:
    """Returns every picture's image tokens, (I, N, D): the tower is frozen and pictures are not augmented."""
    parts = []
    with stage.progress(len(samples), "picture") as bar:
        for start in range(0, len(samples), PICTURES_AT_ONCE):
            if stage.stopping():
                raise Preempted("features are not kept; the next run computes them again")
            part = samples[start : start + PICTURES_AT_ONCE]
            pictures_BCSS = torch.from_numpy(numpy.stack([tower.prepare(sample.image) for sample in part]))
            parts.append(tower(pictures_BCSS.to(device())).cpu())
            bar.advance(len(part))
    return torch.cat(parts).clone()
