"""What a source of pictures is: work items that can be read anywhere, and the inputs in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Raw:
    """One input as the source holds it.

    Attributes:
        name: Unique in the source; the reject log names it.
        image: The file's bytes.
        caption: Text, or bytes whose encoding is not known yet; None where there is none.
        category: The name of its class; empty: none.
        url: Where it was downloaded from; empty: it wasn't.
        key: Says that two inputs with the same key are the same one; empty: the source has no such keys.
        label: The number of its class in a published set; -1: it is of none.
        split: `train` or `test`, where the source says which; empty: its pixels decide.
        facts: JSON of labels and questions that are known from drawing it; empty: it wasn't drawn.
        reject: The reason why the source itself leaves it out; empty: it doesn't.
    """

    name: str
    image: bytes = b""
    caption: bytes | str | None = None
    category: str = ""
    url: str = ""
    key: str = ""
    label: int = -1
    split: str = ""
    facts: str = ""
    reject: str = ""


@dataclass(frozen=True)
class Item:
    """A part of the source that one worker reads at a time.

    Attributes:
        name: Unique in the source.
        spec: JSON values that say what to read.
        num_inputs: How many inputs it holds, where the listing tells; 0: known only by reading it.
    """

    name: str
    spec: dict[str, Any]
    num_inputs: int = 0


class Source(Protocol):
    """Where pictures come from. It travels to worker processes, so connections open at their first use."""

    def items(self) -> list[Item]:
        """Returns the work items in the source's order, without reading the pictures."""
        ...

    def read(self, item: Item) -> Iterator[Raw]:
        """Yields every input of an item exactly once, in the same order each time."""
        ...
