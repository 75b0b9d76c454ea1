"""A stage's parameters: one frozen dataclass, from which the command line and the KFP inputs are derived."""

import dataclasses
import difflib
import hashlib
import json
import math
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from components.runtime.errors import BadInput

P = TypeVar("P", bound="StageParams")
FIELD_TYPES = (str, int, float, bool)


def knob(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Returns a dataclass field for one number, switch or word; `low` and `high` are inclusive."""
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


def source(
    *,
    help: str,
    kind: str,
    many: bool = False,
    parts: Sequence[str] = (),
    optional: bool = False,
    libraries: Sequence[str] = (),
    may_be_empty: bool = False,
) -> Any:
    """Returns a field for the address of what another stage wrote.

    The address is the folder that holds the manifest, the manifest itself, or a file in which KFP hands on the
    folder's address; with `many` or `parts`, several of them joined by commas.

    Args:
        help: What is read.
        kind: The KFP artefact type of the input (`Dataset`, `Model`, `Artifact`).
        many: More than one address is accepted, one per arm.
        parts: More than one address is accepted, one for each of these names.
        optional: It may be empty; KFP takes it as text, because an artefact can't be left out.
        libraries: Instead of an address, `<library>:<name>` may name something that no stage wrote.
        may_be_empty: A command line may do without it; KFP hands on an artefact all the same.
    """
    metadata = {"help": help, "kind": kind, "many": many or bool(parts), "parts": tuple(parts), "source": True}
    metadata["libraries"] = tuple(libraries)
    if optional:
        return dataclasses.field(default="", metadata=metadata | {"optional": True})
    if may_be_empty:
        return dataclasses.field(default="", metadata=metadata | {"may_be_empty": True})
    return dataclasses.field(metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageParams:
    """What every stage takes."""

    out_uri: str = dataclasses.field(
        metadata={"help": "folder that the stage writes: a path, file:// or s3://", "address": True}
    )

    def __post_init__(self) -> None:
        problems = [p for f in dataclasses.fields(self) for p in _problems(f, getattr(self, f.name))]
        if not problems:
            problems = list(self.conflicts())
        if problems:
            raise BadInput(*problems)

    def conflicts(self) -> Iterable[str]:
        """Returns a sentence for each pair of values that don't go together."""
        return ()

    @classmethod
    def stage_name(cls) -> str:
        """Returns the stage's folder name, such as `build_shards`."""
        return cls.__module__.split(".")[-2]

    @classmethod
    def sources(cls) -> dict[str, dataclasses.Field]:
        """Returns the fields that are addresses of other stages' folders, by name."""
        return {f.name: f for f in dataclasses.fields(cls) if f.metadata.get("source")}

    def named(self, name: str) -> str:
        """Returns the source field `name` where it names something of a library; else nothing."""
        library = getattr(self, name).partition(":")[0]
        return getattr(self, name) if library in self.sources()[name].metadata["libraries"] else ""

    def addresses(self, name: str) -> list[str]:
        """Returns the addresses in the source field `name`; none when it is absent or names what no stage wrote."""
        if self.named(name):
            return []
        return [address.strip() for address in getattr(self, name).split(",") if address.strip()]

    def knobs(self) -> dict[str, Any]:
        """Returns the values that decide the result: everything but where it is read and written."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if not f.metadata.get("source") and not f.metadata.get("address")
        }

    def digest(self) -> str:
        """Returns the sha256 of `knobs()`, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.knobs(), sort_keys=True).encode()).hexdigest()

    def argv(self) -> list[str]:
        """Returns the command line that `parse` turns back into these parameters."""
        return [f"--{f.name}={as_text(getattr(self, f.name))}" for f in dataclasses.fields(self)]


def as_text(value: Any) -> str:
    """Returns `value` as it stands on a command line: booleans as `true` and `false`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(cls: type[P], argv: Sequence[str]) -> P:
    """Returns the parameters in `argv`, each as `--name=value`.

    Raises:
        BadInput: One sentence for every unknown, missing, repeated, mistyped or impossible value.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for word in argv:
        name, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not equals:
            problems.append(f"'{word}' is not a parameter: write --name=value.")
        elif name not in fields:
            problems.append(unknown_name(f"--{name}", [f"--{n}" for n in fields]))
        elif name in values:
            problems.append(f"--{name} is given twice: keep one.")
        else:
            try:
                values[name] = from_text(fields[name].type, text)
            except ValueError:
                problems.append(f"--{name}={text} is not {_expected(fields[name])}.")
                values[name] = None
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            problems.append(f"--{name} is missing: give {field.metadata['help']}.")
    if problems:
        raise BadInput(*problems)
    return cls(**values)


def from_text(kind: Any, text: str) -> str | int | float | bool:
    """Returns `text` as a value of type `kind`.

    Raises:
        ValueError: The text is not of that type.
    """
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind is int:
        return int(float(text)) if float(text).is_integer() else int(text)
    return kind(text)


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Returns the sentence that refuses `name` and offers the nearest known one."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{name} is unknown: " + (f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}.")


def table(cls: type[StageParams]) -> str:
    """Returns a Markdown table of the parameters, as the stage's README shows it."""
    rows = ["| parameter | type | default | what it is |", "|---|---|---|---|"]
    for field in dataclasses.fields(cls):
        is_required = field.default is dataclasses.MISSING
        default = "required" if is_required else f"`{as_text(field.default)}`" if field.default != "" else "empty"
        rows.append(f"| `{field.name}` | {_type_name(field)} | {default} | {field.metadata['help']}{_range(field)} |")
    return "\n".join(rows) + "\n"


def _type_name(field: dataclasses.Field) -> str:
    return field.type.__name__ if isinstance(field.type, type) else str(field.type)


def _range(field: dataclasses.Field) -> str:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if field.metadata.get("choices"):
        return f" ({' or '.join(f'`{c}`' if c else 'empty' for c in field.metadata['choices'])})"
    if low is not None and high is not None:
        return f" ({low:g} to {high:g})"
    if low is not None:
        return f" (at least {low:g})"
    return f" (at most {high:g})" if high is not None else ""


def _expected(field: dataclasses.Field) -> str:
    words: Mapping[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words[field.type] + _range(field)


def _problems(field: dataclasses.Field, value: Any) -> list[str]:
    assert not isinstance(field.type, types.UnionType) and field.type in FIELD_TYPES, field
    metadata = field.metadata
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    right_type = is_number if field.type is float else type(value) is field.type
    wrong = f"--{field.name}={as_text(value)} is not {_expected(field)}."
    if not right_type or (is_number and not math.isfinite(value)):
        return [wrong]
    if metadata.get("choices") and value not in metadata["choices"]:
        return [unknown_name(f"--{field.name}={value}", [f"--{field.name}={c}" for c in metadata["choices"]])]
    if is_number:
        low, high = metadata.get("low"), metadata.get("high")
        if (low is not None and value < low) or (high is not None and value > high):
            return [wrong]
    may_be_empty = metadata.get("optional") or metadata.get("may_be_empty")
    if (metadata.get("address") or metadata.get("source")) and not (value.strip() or may_be_empty):
        return [f"--{field.name} is empty: give {metadata['help']}."]
    return []
