"""What the arms of a study have agreed on: the first to start writes it down, the others are held to it."""

import json
from typing import Any

from components.runtime.errors import BadInput
from components.runtime.storage import open_folder

NAME = "study.json"


def join(study_uri: str, record: dict[str, Any]) -> None:
    """Holds an arm to the study's data and seed.

    Args:
        study_uri: The folder where the arms meet; empty: this arm is on its own.
        record: What must be the same in every arm.

    Raises:
        BadInput: An arm that started before has another record.
    """
    if not study_uri:
        return
    folder = open_folder(study_uri)
    folder.write_once(NAME, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    first = folder.read_json(NAME)
    differences = [
        f"{name} is {_short(first.get(name))} there and {_short(record.get(name))} here"
        for name in sorted(first.keys() | record.keys())
        if first.get(name) != record.get(name)
    ]
    if differences:
        raise BadInput(
            f"--study={study_uri} compares arms of other data or seed ({'; '.join(differences)}): give this arm the "
            f"same, or another study; without its arms, {NAME} may be deleted."
        )


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
