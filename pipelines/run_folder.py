"""The folder of a local run: what it was started with, that nobody else works in it, and that it can be written."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.runtime.errors import BadInput, StageFailure
from components.runtime.params import as_text
from components.runtime.storage import open_folder

READ_BY_ONE = {"compare": "report"}  # settings that may change, because only this quick stage reads them


@contextlib.contextmanager
def opened_run(run: Path, out: str, settings: dict[str, Any]) -> Iterator[int]:
    """Makes or reopens a run's folder, keeps others out of it, and gives the lock's file descriptor.

    A process that inherits the descriptor keeps the lock, so a stage that outlives its runner does, too.

    Args:
        run: The folder of the run on this machine.
        out: The address that its stages write below.
        settings: What the run is started with; kept in `run.json`. Where one of READ_BY_ONE has changed, what its
            stage wrote is removed.

    Raises:
        BadInput: A folder can't be written, another process runs this run, or it was started with other settings.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / "lock").open("w")
    except OSError as error:
        raise BadInput(f"The folder {run} can't be written ({error.strerror}): choose another with --runs.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"The run in {run} is going on elsewhere: wait for it, or choose another --run.") from error
        changed = _check_settings(run / "run.json", settings)
        try:
            for name in changed:
                open_folder(out).folder(READ_BY_ONE[name]).clear()
            open_folder(out).write_json("run.json", settings)
        except StageFailure as error:
            raise BadInput(f"--out={out} can't be written: {error}") from error
        (run / "run.json").write_text(json.dumps(settings, indent=1) + "\n")
        yield lock.fileno()


def _check_settings(path: Path, settings: dict[str, Any]) -> list[str]:
    """Returns which of READ_BY_ONE have changed, and refuses any other change."""
    try:
        before = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise BadInput(f"{path} is damaged ({error}): delete the folder {path.parent}.") from error
    changed = [name for name in sorted(before.keys() | settings.keys()) if before.get(name) != settings.get(name)]
    differences = [
        f"{name} {_shown(before.get(name))} and not {_shown(settings.get(name))}"
        for name in changed
        if name not in READ_BY_ONE
    ]
    if differences:
        raise BadInput(
            f"The run {path.parent.name} was started with {', '.join(differences)}: "
            f"choose another name with --run, repeat the first command, or delete {path.parent}."
        )
    return changed


def _shown(value: Any) -> str:
    return as_text(value) if value not in (None, "", []) else "none"
