"""Adds a study's tasks to the pipeline that is being defined: their knobs, their hardware, their folder."""

from collections.abc import Mapping
from typing import Any

from pipelines.knobs import Knobs, chosen
from pipelines.placement import Hardware, place


class Steps:
    """The tasks of one pipeline, by the folder that each writes."""

    def __init__(self, out_uri: Any, knobs: Knobs, hardware: Mapping[str, Hardware], images: Mapping[str, str]) -> None:
        self._out_uri, self._knobs, self._hardware, self._images = out_uri, knobs, hardware, images
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
        self._tasks[name] = place(task, self._hardware.get(stage), self._images)
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
