# B batch, T tokens of the longest row, K most pictures of a row, C channels (RGB), S side in pixels.
"""The batches of a training on conversations about pictures, in the order of `ConversationOrder`.

Pictures are decoded and prepared by threads a little ahead, as in `reader.py`.
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
from components.core.data.conversation_order import ConversationOrder, share_of
from components.core.data.pixels import to_rgb

BATCHES_AHEAD = 2

_Loading = Future[list[NDArray[numpy.uint8]]]


class Pictures(Protocol):
    """Pictures' bytes by name; several threads read at once."""

    def read(self, name: str) -> bytes: ...


class Tower(Protocol):
    """What makes a picture what the tower of a model takes; several threads prepare at once."""

    @property
    def image_size_px(self) -> int:
        """S."""
        ...

    def prepare(self, picture: Image.Image) -> NDArray[numpy.uint8]:
        """Returns (C, S, S)."""
        ...


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
        order: Which conversation comes when.
        pictures: Their pictures.
        tower: Prepares them.
        padding_id: Token that fills up.
        rank, world_size: Which share of the global batch this process has.
        num_threads: Threads that read and prepare pictures.
        tell: Takes a sentence about each broken picture, once.

    Attributes:
        num_pictured: Rows with pictures so far.
        num_broken: How many of these have a broken one.

    Raises:
        ValueError: The ranks don't divide the global batch.
    """

    def __init__(
        self,
        order: ConversationOrder,
        pictures: Pictures,
        tower: Tower,
        *,
        padding_id: int,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 2,
        tell: Callable[[str], None],
    ) -> None:
        if order.batch_size % world_size:
            raise ValueError(
                f"batch_size={order.batch_size} is no multiple of the {world_size} ranks: run as many ranks as "
                "divide it."
            )
        self._order, self._pictures, self._tower, self._padding_id = order, pictures, tower, padding_id
        self._rank, self._world_size, self._num_threads, self._tell = rank, world_size, num_threads, tell
        self._told: set[str] = set()
        self.num_pictured = self.num_broken = 0

    def batches(self, start_step: int = 0) -> Iterator[ConversationBatch]:
        """Yields the rank's batches from a step on, without end."""
        conversations = self._order.conversations
        ahead: deque[tuple[list[Conversation], list[_Loading], float]] = deque()
        threads = ThreadPoolExecutor(self._num_threads, thread_name_prefix="pictures")
        try:
            for rows in self._order.batches(start_step):
                weight = self._order.batch_size / int(conversations.num_labels_I[rows].sum())
                mine = [conversations[row] for row in share_of(rows, self._rank, self._world_size)]
                ahead.append((mine, [threads.submit(self._load, row.pictures) for row in mine], weight))
                if len(ahead) > BATCHES_AHEAD:
                    yield self._batch(*ahead.popleft())
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _load(self, names: tuple[str, ...]) -> list[NDArray[numpy.uint8]]:
        return [self._tower.prepare(_decoded(self._pictures, name)) for name in names]

    def _batch(self, rows: list[Conversation], loading: list[_Loading], weight: float) -> ConversationBatch:
        size, length = self._tower.image_size_px, max(len(row.tokens) for row in rows)
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
