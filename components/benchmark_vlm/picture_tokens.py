# B batch, N image tokens, D their width, C channels, S side of a picture in pixels.
"""The image tokens of a benchmark's pictures: each picture is decoded and encoded once, and kept while it is needed."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future

import torch
from PIL import Image
from torch import Tensor

from components.benchmark_vlm.parts import Part
from components.benchmark_vlm.question_files import QuestionFiles
from components.core.evaluation.multiple_choice import Question, decoded
from components.runtime.errors import BadInput

Chunk = tuple[int, ...]  # the numbers of questions whose pictures are encoded together


class PictureTokens:
    """The image tokens of parts, which are asked for in their order.

    Which pictures are encoded together follows from the questions alone, whatever was answered before.

    Args:
        questions: All questions.
        files: Where their pictures are.
        parts: All parts, with the replies that are known.
        batch_size: Most pictures that are encoded together.
        prepare: Makes of a picture what `encode` takes, uint8 (C, S, S).
        encode: Returns the image tokens (B, N, D) of pictures (B, C, S, S).
        pool: The threads that decode.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        files: QuestionFiles,
        parts: Sequence[Part],
        *,
        batch_size: int,
        prepare: Callable[[Image.Image], Tensor],
        encode: Callable[[Tensor], Tensor],
        pool: Executor,
    ) -> None:
        self._questions, self._files, self._pool = questions, files, pool
        self._prepare, self._encode = prepare, encode
        self._chunk_of = self._chunks(parts, batch_size)
        self._uses = Counter(
            questions[number].image_sha256 for part in parts for batch in part.open_batches() for number in batch
        )
        self._tokens: dict[str, Tensor] = {}
        self._prepared: dict[Chunk, list[Future[Tensor]]] = {}

    @property
    def num_pictures(self) -> int:
        """The distinct pictures of all questions."""
        return len(self._chunk_of)

    def start(self, part: Part) -> None:
        """Begins to decode the pictures that a part needs, and that are neither encoded nor on their way."""
        names = [self._questions[number].image_sha256 for batch in part.open_batches() for number in batch]
        needed = dict.fromkeys(self._chunk_of[name] for name in names if name not in self._tokens)
        chunks = [chunk for chunk in needed if chunk not in self._prepared]
        encoded = self._files.pictures([number for chunk in chunks for number in chunk])
        for chunk in chunks:
            self._prepared[chunk] = [self._pool.submit(self._pixels, encoded[n], n) for n in chunk]

    def finish(self) -> Iterator[int]:
        """Encodes what was begun, and yields the number of pictures after each forward pass.

        Raises:
            BadInput: A picture can't be decoded.
        """
        for chunk, prepared in list(self._prepared.items()):
            tokens_BND = self._encode(torch.stack([future.result() for future in prepared])).cpu()
            for number, tokens_ND in zip(chunk, tokens_BND, strict=True):
                name = self._questions[number].image_sha256
                if self._uses[name]:
                    self._tokens[name] = tokens_ND.clone()
            del self._prepared[chunk]
            yield len(chunk)

    def take(self, numbers: Sequence[int]) -> Tensor:
        """Returns the image tokens (B, N, D) of questions, which won't be asked for again."""
        names = [self._questions[number].image_sha256 for number in numbers]
        tokens_BND = torch.stack([self._tokens[name] for name in names])
        self._uses.subtract(names)
        for name in set(names):
            if not self._uses[name]:
                del self._tokens[name]
        return tokens_BND

    def _pixels(self, encoded: bytes, number: int) -> Tensor:
        try:
            picture = decoded(encoded, self._questions[number].index)
        except ValueError as error:
            raise BadInput(f"{self._files.what}: {error}: mend the file or give another one.") from error
        return self._prepare(picture)

    def _chunks(self, parts: Sequence[Part], batch_size: int) -> dict[str, Chunk]:
        """Returns which pictures each one is encoded with: others that are new in its part, in the files' order."""
        chunk_of: dict[str, Chunk] = {}
        for part in parts:
            new: dict[str, int] = {}
            for number in sorted(number for batch in part.batches for number in batch):
                name = self._questions[number].image_sha256
                if name not in chunk_of:
                    new.setdefault(name, number)
            of_part = list(new.items())
            for at in range(0, len(of_part), batch_size):
                together = of_part[at : at + batch_size]
                chunk_of |= {name: tuple(number for _, number in together) for name, _ in together}
        return chunk_of
