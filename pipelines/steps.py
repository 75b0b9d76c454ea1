"""Adds a study's tasks to the pipeline that is being defined: their knobs, their hardware, their folder."""

from collections.abc import Mapping
from typing import Any

from pipelines.knobs import STAGES, Knobs, chosen
from pipelines.placement import Hardware, Site, is_by_digest, place

UNKNOWN = ("source_uri", "align_data", "tune_data", "questions", "language_model", "lm_name")  # who wrote what is there
NOTHING = ("", "tiny")  # values of these that read nothing


class Steps:
    """The tasks of one pipeline, by the folder that each writes."""

    def __init__(self, out_uri: Any, knobs: Knobs, hardware: Mapping[str, Hardware], site: Site) -> None:
        self._out_uri, self._knobs, self._hardware, self._site = out_uri, knobs, hardware, site
        self._tasks: dict[str, Any] = {}

    def add(self, component: Any, variant: str = "", /, *, after: Any = "", **inputs: Any) -> Any:
        """Adds a task that writes the folder of its own name, and returns its main artefact.

        Args:
            component: The stage's KFP component.
            variant: What tells it from the stage's other tasks.
            after: A task whose folder is among the inputs as text, which KFP can't follow.
            inputs: What differs from the knobs.
        """
        stage = component.name.replace("-", "_")
        name = f"{stage}/{variant}" if variant else stage
        rest = {knob: number for knob, number in chosen(self._knobs, name).items() if knob not in inputs}
        task = component(out_uri=f"{self._out_uri}/{name}", **inputs, **rest).set_display_name(name.replace("/", " "))
        if after:
            task.after(self._tasks[after])
        hardware = self._hardware.get(stage)
        self._tasks[name] = place(task, stage, variant, hardware, self._site)
        is_launched = hardware is not None and hardware.is_gang
        task.set_caching_options(
            not is_launched and is_by_digest(task.container_spec.image) and _is_known(stage, {**inputs, **rest})
        )
        return next(iter(task.outputs.values()))

    def compare(self, component: Any, inputs: Mapping[str, Any], **made: Mapping[str, Any]) -> Any:
        """Adds a task that reads several artefacts in one field, and returns its main artefact.

        Args:
            component: Makes the KFP component for the names of the artefacts, by field.
            inputs: Its other inputs.
            made: The artefacts by name, by field.
        """
        artefacts = {f"{field}_{name}": found for field, of in made.items() for name, found in of.items()}
        return self.add(component({field: list(of) for field, of in made.items()}), **inputs, **artefacts)


def _is_known(stage: str, inputs: Mapping[str, Any]) -> bool:
    """Returns whether KFP's cache key tells all that the task reads.

    The key knows an artefact by the one execution that made it, and with it the digest of its manifest, which each
    reader compares with what lies there. What a task reads at an address or name given as text may change unseen.
    """
    addresses = {name for name, field in STAGES[stage].sources().items() if field.metadata.get("optional")}
    given = [inputs[name] for name in (*addresses, *UNKNOWN) if name in inputs]
    return stage != "build_shards" and all(isinstance(value, str) and value in NOTHING for value in given)
