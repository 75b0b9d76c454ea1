"""What becomes of the runs on a cluster, as text for a terminal."""

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from components.runtime import errors
from pipelines.service import ACTIVE, arguments_of

HELPERS = ("root", "executor")  # nodes of KFP's own, beside the tasks
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def runs_table(runs: list[Any], now: datetime.datetime) -> str:
    """Returns a row per run, newest first."""
    rows = [["run", "id", "state", "took", "writes"]]
    for run in runs:
        out = str(arguments_of(run).get("out_uri", "-"))
        rows.append([run.display_name, run.run_id, run.state or "PENDING", _took(run.created_at, _end(run), now), out])
    return _columns(rows) if runs else "No runs."


def run_text(run: Any, link: str, now: datetime.datetime) -> str:
    """Returns one run: its state, its folder, and a row per task in the order in which they began."""
    facts = {
        "run": f"{run.display_name} ({run.run_id})",
        "state": f"{run.state or 'PENDING'}, {_took(run.created_at, _end(run), now)}",
        "writes": arguments_of(run).get("out_uri", "-"),
        "page": link,
    }
    if run.error and run.error.message:
        facts["error"] = " ".join(run.error.message.split())
    lines = [f"{name:8}{value}" for name, value in facts.items()]
    tasks = list(_task_rows(run, now))
    return "\n".join([*lines, "", _columns([["task", "state", "took"], *tasks])] if tasks else lines)


def exit_code(state: str | None) -> int:
    """Returns how a run ended as a stage's exit code; a run that goes on is well."""
    if state in (*ACTIVE, "SUCCEEDED"):
        return errors.EXIT_DONE
    return errors.EXIT_PREEMPTED if state == "CANCELED" else errors.EXIT_FAILED


def _task_rows(run: Any, now: datetime.datetime) -> Iterator[list[str]]:
    details = (run.run_details and run.run_details.task_details) or []
    names = _task_names(run.pipeline_spec or {})
    shown = [d for d in details if d.display_name not in HELPERS and not str(d.display_name).endswith("-driver")]
    for detail in sorted(shown, key=lambda d: d.start_time or d.create_time or now):
        name = names.get(detail.display_name, detail.display_name)
        took = _took(detail.start_time or detail.create_time, detail.end_time, now)
        error = " ".join(detail.error.message.split()) if detail.error and detail.error.message else ""
        yield [name, detail.state or "PENDING", took, *([error] if error else [])]


def _task_names(document: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tasks' names as we gave them, by KFP's own ones."""
    spec = document.get("pipeline_spec", document)
    tasks = spec.get("root", {}).get("dag", {}).get("tasks", {})
    return {key: task.get("taskInfo", {}).get("name", key) for key, task in tasks.items()}


def _end(run: Any) -> datetime.datetime | None:
    return None if run.state in ACTIVE else run.finished_at


def _took(start: datetime.datetime | None, end: datetime.datetime | None, now: datetime.datetime) -> str:
    if start is None:
        return "-"
    left = max(0, round(((end if end and end.year > 1970 else now) - start).total_seconds()))
    words: list[str] = []
    for seconds, unit in UNITS:
        if left >= seconds or (unit == "s" and not words):
            words.append(f"{left // seconds} {unit}")
            left %= seconds
    return " ".join(words[:2])


def _columns(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(max(map(len, rows)))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows)
