# B batch, T tokens of the longest row, K most pictures of a row, C channels (RGB), S side in pixels.
"""The batches of a training on conversations about pictures: a pure function of (seed, step).

Batches hold conversations with pictures only or without any only, as LLaVA's sampler with `group_by_modality_length`
makes them (Liu et al., arXiv 2310.03744, appendix): a batch of text alone spares the work on pictures. In each epoch
each kind is shuffled and cut into batches; what is left over of both is one mixed batch where it fills one, and is not
used in this epoch otherwise. The batches come in random order. Within each, rows go from long to short and are dealt
to the ranks in turn, forwards and backwards, so that ranks have equal numbers and like lengths.
"""

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.core.data.conversation import IGNORED, Conversation
from components.core.data.conversation_store import Conversations
from components.core.data.pixels import to_rgb

BATCHES_AHEAD = 2

Prepare = Callable[[Image.Image], NDArray[numpy.uint8]]
_Loading = Future[list[NDArray[numpy.uint8]]]


class Pictures(Protocol):
    """Pictures' bytes by name; several threads read at once."""

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class ConversationBatch:
    """One step of training, or a part of it.

    Attributes:
        tokens_BT: int64, IMAGE where a picture's tokens go, padded at the right.
        labels_BT: int64, each predicted token in its own place; IGNORED where one is given, and at IMAGE and padding.
        is_text_BT: False at padding.
        pictures_BKCSS: uint8; a row has as many of the K as it has IMAGE, the rest is black.
        weights_B: float32, rows of the global batch / labels of the global batch. The mean over rows of (sum of a row's
            cross-entropies * weight) is a part's loss; the mean of that over equal parts and ranks is the mean
            cross-entropy over all labels of the global batch.
    """

    tokens_BT: Tensor
    labels_BT: Tensor
    is_text_BT: Tensor
    pictures_BKCSS: Tensor
    weights_B: Tensor

    def to(self, device: torch.device | str) -> "ConversationBatch":
        """Returns the batch on a device."""
        return replace(
            self,
            tokens_BT=self.tokens_BT.to(device, non_blocking=True),
            labels_BT=self.labels_BT.to(device, non_blocking=True),
            is_text_BT=self.is_text_BT.to(device, non_blocking=True),
            pictures_BKCSS=self.pictures_BKCSS.to(device, non_blocking=True),
            weights_B=self.weights_B.to(device, non_blocking=True),
        )


class _BrokenPicture(Exception):
    """A picture that can't be read or decoded, and why."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(f"The picture {name} can't be used ({type(error).__name__}: {error})")
        self.name = name


class ConversationBatches:
    """A rank's share of the batches; pictures are read and prepared by threads a little ahead.

    A row with a broken picture has no labels. Its labels stay in the weights, which are known before pictures are
    read: it contributes a loss of nothing, rather than making the others count for more.

    Args:
        conversations: What is trained on.
        pictures: Their pictures.
        prepare: Returns (C, S, S) uint8 of a picture; several threads call it.
        image_size_px: S.
        padding_id: Token that fills up.
        seed: Seed of the order.
        batch_size: Rows of the global batch.
        rank, world_size: Which share of the global batch this process has.
        num_threads: Threads that read and prepare pictures.
        tell: Takes a sentence about each broken picture, once.

    Attributes:
        steps_per_epoch: Batches in which each conversation comes at most once.
        num_pictured: Rows with pictures so far.
        num_broken: How many of these have a broken one.

    Raises:
        ValueError: There are fewer conversations than a batch has, or the ranks don't divide it.
    """

    def __init__(
        self,
        conversations: Conversations,
        pictures: Pictures,
        prepare: Prepare,
        *,
        image_size_px: int,
        padding_id: int,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 2,
        tell: Callable[[str], None],
    ) -> None:
        if batch_size > len(conversations):
            raise ValueError(
                f"batch_size={batch_size} is more than the {len(conversations)} conversations: use a smaller batch or "
                "more conversations."
            )
        if batch_size % world_size:
            raise ValueError(
                f"batch_size={batch_size} is no multiple of the {world_size} ranks: run as many ranks as divide it."
            )
        self._conversations, self._pictures, self._prepare = conversations, pictures, prepare
        self._image_size_px, self._padding_id, self._seed, self._batch_size = (
            image_size_px,
            padding_id,
            seed,
            batch_size,
        )
        self._rank, self._world_size, self._num_threads, self._tell = rank, world_size, num_threads, tell
        self._told: set[str] = set()
        self.steps_per_epoch = len(conversations) // batch_size
        self.num_pictured = self.num_broken = 0

    def batches(self, start_step: int = 0) -> Iterator[ConversationBatch]:
        """Yields the rank's batches from a step on, without end."""
        ahead: deque[tuple[list[Conversation], list[_Loading], float]] = deque()
        threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="pictures")
        try:
            for rows in self.order(start_step):
                weight = self._batch_size / int(self._conversations.num_labels_I[rows].sum())
                mine = [self._conversations[row] for row in _dealt(rows, self._rank, self._world_size)]
                ahead.append((mine, [threads.submit(self._load, row.pictures) for row in mine], weight))
                if len(ahead) > BATCHES_AHEAD:
                    yield self._batch(*ahead.popleft())
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def order(self, start_step: int = 0) -> Iterator[NDArray[numpy.int64]]:
        """Yields the conversations of each global batch from a step on, without end, the longest first."""
        epoch, first = divmod(start_step, self.steps_per_epoch)
        while True:
            yield from self._epoch(epoch)[first:]
            epoch, first = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[NDArray[numpy.int64]]:
        rng = numpy.random.default_rng([self._seed, epoch])
        size, has_picture_I = self._batch_size, self._conversations.has_picture_I
        batches, rest = [], []
        for kind in (numpy.flatnonzero(has_picture_I), numpy.flatnonzero(~has_picture_I)):
            shuffled = rng.permutation(kind)
            num_whole = len(shuffled) // size
            batches += list(shuffled[: num_whole * size].reshape(num_whole, size))
            rest.append(shuffled[num_whole * size :])
        mixed = numpy.concatenate(rest)[:size]
        if len(mixed) == size:
            batches.append(mixed)
        lengths_I = self._conversations.lengths_I
        in_order = [batches[number] for number in rng.permutation(len(batches))]
        return [rows[numpy.argsort(-lengths_I[rows], kind="stable")] for rows in in_order]

    def _load(self, names: tuple[str, ...]) -> list[NDArray[numpy.uint8]]:
        return [self._prepare(_decoded(self._pictures, name)) for name in names]

    def _batch(self, rows: list[Conversation], loading: list[_Loading], weight: float) -> ConversationBatch:
        size, length = self._image_size_px, max(len(row.tokens) for row in rows)
        num_pictures = max(len(row.pictures) for row in rows)
        tokens_BT = numpy.full((len(rows), length), self._padding_id, dtype=numpy.int64)
        labels_BT = numpy.full((len(rows), length), IGNORED, dtype=numpy.int64)
        is_text_BT = numpy.zeros((len(rows), length), dtype=numpy.bool_)
        pictures_BKCSS = numpy.zeros((len(rows), num_pictures, 3, size, size), dtype=numpy.uint8)
        for number, (row, future) in enumerate(zip(rows, loading, strict=True)):
            tokens_BT[number, : len(row.tokens)] = row.tokens
            is_text_BT[number, : len(row.tokens)] = True
            self.num_pictured += bool(row.pictures)
            try:
                for place_CSS, picture_CSS in zip(pictures_BKCSS[number], future.result(), strict=False):
                    place_CSS[:] = picture_CSS
                labels_BT[number, : len(row.tokens)] = row.labels
            except _BrokenPicture as broken:
                self._count(broken)
        return ConversationBatch(
            tokens_BT=torch.from_numpy(tokens_BT),
            labels_BT=torch.from_numpy(labels_BT),
            is_text_BT=torch.from_numpy(is_text_BT),
            pictures_BKCSS=torch.from_numpy(pictures_BKCSS),
            weights_B=torch.full((len(rows),), weight),
        )

    def _count(self, broken: _BrokenPicture) -> None:
        self.num_broken += 1
        if broken.name not in self._told:
            self._told.add(broken.name)
            self._tell(f"{broken}; its conversation is not learnt from.")


def _dealt(rows: NDArray[numpy.int64], rank: int, world_size: int) -> list[int]:
    """Returns a rank's rows of a global batch that goes from long to short."""
    rounds = rows.reshape(-1, world_size).copy()
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds[:, rank].tolist()


def _decoded(pictures: Pictures, name: str) -> Image.Image:
    try:
        data = pictures.read(name)
    except OSError as error:  # a store that doesn't answer raises others, and ends the training
        raise _BrokenPicture(name, error) from error
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()  # else it would break where it is prepared
        return to_rgb(picture)
    except Exception as error:  # Pillow's plugins raise whatever a broken file makes them raise
        raise _BrokenPicture(name, error) from error
