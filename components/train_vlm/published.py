"""Lessons for a pretrained language model: conversations in LLaVA's layout, or those of build_shards' pictures.

LLaVA-1.5's two stages (Liu et al., arXiv 2310.03744): pictures with a caption (`plain`), then conversations
(`vicuna_v1`). The tower looks at the pictures of a batch as it comes: features of 665,000 pictures would be too many to
keep.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from components.core.data.conversation import TEMPLATES, Template, tokenise
from components.core.data.conversation_batches import ConversationBatch, ConversationBatches
from components.core.data.conversation_order import ConversationOrder
from components.core.data.conversation_store import Conversations
from components.core.data.llava_layout import IMAGE_MARK, Record, read_records
from components.core.data.named_pictures import NamedPictures, with_pictures
from components.core.data.record_tally import RecordTally
from components.core.data.shard_samples import read_one_shard
from components.core.data.tar import IMAGE_EXTENSIONS
from components.core.models.encoder import device
from components.core.models.language_model import load_language_model
from components.core.models.projector import Projector
from components.core.models.vision_tower import VisionTower
from components.core.objectives.vlm import ConversationObjective
from components.core.training import distributed
from components.runtime.errors import BadInput, StageFailure
from components.runtime.stage import Stage
from components.runtime.storage import Folder, open_folder
from components.train_vlm.lessons import Lesson
from components.train_vlm.params import Params

Samples = list[tuple[str, str, dict[str, Any]]]

LEAST_PICTURED = 200  # rows with pictures, before their share of broken ones means something


@dataclass(frozen=True)
class Material:
    """What one stage is trained on.

    Attributes:
        conversations: As tokens.
        pictures: By the names in them.
        tally: What was left out.
    """

    conversations: Conversations
    pictures: NamedPictures
    tally: RecordTally


class PublishedLessons:
    """Conversations and captions, tokenised before the first step; pictures are read as they are wanted."""

    template = TEMPLATES["vicuna_v1"]

    def __init__(self, params: Params, stage: Stage, tower: VisionTower, seed: int) -> None:
        self._params, self._stage, self._tower, self._seed = params, stage, tower, seed
        try:
            self.language_model = load_language_model(params.language_model).to(device())
        except ValueError as error:
            raise BadInput(f"--language_model: {error}; give `tiny`, or a name or path of a causal one.") from error
        self._indexed: dict[str, NamedPictures] = {}
        self._align = self._material("align", TEMPLATES["plain"], _captions)
        self._tune = self._material("tune", self.template, _questions)

    def read(self) -> Lesson | None:
        """Returns nothing: a pretrained model can read."""
        return None

    def align(self, projector: Projector) -> Lesson:
        """Returns LLaVA-1.5's first stage."""
        objective = ConversationObjective(self._tower, projector, self.language_model, trains_language_model=False)
        return Lesson("align", objective, self._batches("align", self._align))

    def tune(self, projector: Projector) -> Lesson:
        """Returns LLaVA-1.5's second stage."""
        objective = ConversationObjective(self._tower, projector, self.language_model, trains_language_model=True)
        return Lesson("tune", objective, self._batches("tune", self._tune))

    def digest(self) -> str:
        """Returns the hash of all tokens, labels and pictures' names."""
        both = [material.conversations.digest() for material in (self._align, self._tune)]
        return hashlib.sha256(json.dumps(both).encode()).hexdigest()

    def counts(self) -> dict[str, Any]:
        """Returns the numbers of conversations, of those left out by reason, and of those changed."""
        return {
            name: {
                "conversations": len(material.conversations),
                "left_out": dict(material.tally.left_out),
                "changed": {reason: number for reason, number in material.tally.changed.items() if number},
            }
            for name, material in (("align", self._align), ("tune", self._tune))
        }

    def _material(self, name: str, template: Template, of_shard: Callable[..., Iterator[Record]]) -> Material:
        params, tally = self._params, RecordTally()
        address = getattr(params, f"{name}_data")
        if address:
            folder, _, file = address.rpartition("/")
            pictures = self._pictures(open_folder(getattr(params, f"{name}_pictures") or folder))
            records = read_records(open_folder(folder or "."), file, tally)
        else:
            pictures = self._pictures(self._stage.folder("shards"))
            records = of_shard(self._samples, tally)
        conversations = Conversations(
            tokenise(
                with_pictures(records, pictures, tally),
                self.language_model.tokenizer,
                template,
                max_length=params.max_length,
                num_image_tokens=self._tower.num_tokens,
                tally=tally,
            ),
            num_image_tokens=self._tower.num_tokens,
        )
        source = f"--{name}_data={address}" if address else f"--shards={params.shards}"
        try:
            tally.refuse_above(params.max_left_out)
        except ValueError as error:
            raise BadInput(f"{source}: {error}") from error
        if not len(conversations):
            raise BadInput(f"{source} has no conversation to learn from: give another file.")
        self._stage.log("tokenised", stage_of_training=name, conversations=len(conversations), left_out=tally.left_out)
        return Material(conversations, pictures, tally)

    @functools.cached_property
    def _samples(self) -> Samples:
        """The place of each of the shards' samples for messages, the name of its picture, and what is said of it."""
        folder, manifest = self._stage.folder("shards"), self._stage.inputs["shards"]
        found = []
        for shard in manifest.summary["shards"]:
            for key, members in read_one_shard(folder, manifest, shard["name"]):
                extension = next(name for name in IMAGE_EXTENSIONS if name in members)
                facts = json.loads(members["json"]) | {"caption": members["txt"].decode()}
                found.append((f"{shard['name']}, sample {key}", f"{key}.{extension}", facts))
        return found

    def _pictures(self, folder: Folder) -> NamedPictures:
        """Returns the pictures of a folder, which is listed once, however many stages take from it."""
        if folder.uri not in self._indexed:
            try:
                self._indexed[folder.uri] = NamedPictures(folder, num_threads=self._params.num_reader_threads)
            except ValueError as error:
                raise BadInput(str(error)) from error
        return self._indexed[folder.uri]

    def _batches(self, name: str, material: Material) -> Callable[[int], Iterator[ConversationBatch]]:
        params, world = self._params, distributed.world()
        size = getattr(params, f"{name}_batch_size")
        order = ConversationOrder(material.conversations, seed=self._seed, batch_size=size)
        padding_id = self.language_model.tokenizer.pad_token_id
        batches = ConversationBatches(
            order,
            material.pictures,
            self._tower,
            padding_id=self.language_model.end_id if padding_id is None else padding_id,
            rank=world.rank,
            world_size=world.size,
            num_threads=params.num_reader_threads,
            tell=lambda problem: self._stage.log("picture_broken", problem=problem),
        )

        def checked(start: int) -> Iterator[ConversationBatch]:
            for batch in batches.batches(start):
                if batches.num_broken > params.max_left_out * max(batches.num_pictured, LEAST_PICTURED):
                    raise StageFailure(
                        f"{batches.num_broken} of {batches.num_pictured} conversations had a broken picture, more than "
                        f"--max_left_out={params.max_left_out:g}: repair the pictures, or allow a larger share."
                    )
                yield batch

        return checked


def _captions(samples: Samples, tally: RecordTally) -> Iterator[Record]:
    """Yields the captions of shards as records in LLaVA's form."""
    for name, picture, facts in samples:
        tally.num_records += 1
        yield Record(name, (picture,), (IMAGE_MARK, facts["caption"]))


def _questions(samples: Samples, tally: RecordTally) -> Iterator[Record]:
    """Yields the questions of shards, all about one picture in one record; the reply is the letter, as in LLaVA's."""
    for name, picture, facts in samples:
        tally.num_records += 1
        turns = [text for said in facts.get("conversations", []) for text in (said["question"].strip(), said["answer"])]
        if turns:
            yield Record(name, (picture,), (f"{IMAGE_MARK}\n{turns[0]}", *turns[1:]))
        else:
            tally.leave_out("no_question", f"{name} has no question; build shards with questions.")
