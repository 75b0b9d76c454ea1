"""What the trainings of a vision-language model are made of, wherever their pictures and texts come from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from components.core.data.conversation import Template
from components.core.models.language_model import LanguageModel
from components.core.models.projector import Projector
from components.core.objectives.objective import Objective


@dataclass(frozen=True)
class Lesson:
    """One training.

    Attributes:
        name: `text`, `align` or `tune`: its knobs are `<name>_steps` and so on.
        objective: What it minimises.
        batches: From the first step wanted to the batches from there on.
    """

    name: str
    objective: Objective
    batches: Callable[[int], Iterator[Any]]


class Lessons(Protocol):
    """The trainings in their order, and what is known of their data.

    Attributes:
        language_model: Trained in the first and the last.
        template: The text around questions.
    """

    language_model: LanguageModel
    template: Template

    def read(self) -> Lesson | None:
        """Returns the training of the language model on text alone, for one that can't read yet."""
        ...

    def align(self, projector: Projector) -> Lesson:
        """Returns LLaVA-1.5's first stage: the projector, on captions."""
        ...

    def tune(self, projector: Projector) -> Lesson:
        """Returns LLaVA-1.5's second stage: projector and language model, on conversations."""
        ...

    def digest(self) -> str:
        """Returns a hash of everything that is trained on, in its order."""
        ...

    def counts(self) -> dict[str, Any]:
        """Returns how much there is of what, and what was left out."""
        ...
