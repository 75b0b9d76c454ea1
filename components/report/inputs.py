"""The stage's inputs, put in order: which manifest belongs to which training of which arm."""

from collections.abc import Iterable

from components.runtime.errors import BadInput
from components.runtime.manifest import Manifest
from components.runtime.stage import Stage
from components.runtime.storage import Folder

FIELDS = {"checkpoints": "pretrain", "evaluations": "evaluate", "vlms": "train_vlm", "benchmarks": "benchmark_vlm"}
MANY = ("evaluations",)  # one for each labelled set

Encoder = tuple[str, int]  # arm, replicate
Found = dict[Encoder, list[tuple[Manifest, Folder]]]


def by_encoder(stage: Stage) -> dict[str, Found]:
    """Returns the manifests and folders of every input that is given once per encoder, by field and encoder.

    Raises:
        BadInput: An encoder is missing somewhere or is there twice, or the arms are not trained equally often.
    """
    found = {field: _grouped(stage, field) for field in FIELDS}
    expected = set(found["checkpoints"])
    of_arm: dict[str, set[int]] = {}
    for arm, replicate in found["checkpoints"]:
        of_arm.setdefault(arm, set()).add(replicate)
    if len(of_arm) < 2:
        raise BadInput("--checkpoints holds one arm: a comparison needs two or more.")
    everywhere = {(arm, replicate) for arm in of_arm for replicate in set().union(*of_arm.values())}
    if everywhere != expected:
        raise BadInput(
            f"--checkpoints lacks {_listed(everywhere - expected)}: every arm needs the same replicates, so run "
            "pretrain for what is missing, or leave out what has no counterpart."
        )
    for field, encoders in found.items():
        if encoders.keys() != expected:
            _refuse(field, set(encoders), expected)
    return found


def _refuse(field: str, encoders: set[Encoder], expected: set[Encoder]) -> None:
    missing, more = expected - encoders, encoders - expected
    problem = f"lacks {_listed(missing)}, which --checkpoints has" if missing else ""
    if more:
        problem += f"{' and ' if problem else ''}holds {_listed(more)}, which --checkpoints lacks"
    raise BadInput(f"--{field} {problem}: give one result of {FIELDS[field]} for each encoder of --checkpoints.")


def _grouped(stage: Stage, field: str) -> Found:
    found: Found = {}
    for manifest, folder in zip(stage.input_lists[field], stage.folders(field), strict=True):
        if not {"arm", "replicate"} <= manifest.summary.keys():
            raise BadInput(
                f"--{field}: {folder.uri} does not say which arm and replicate it is of: run {FIELDS[field]} of this "
                "version, which does."
            )
        encoder = (str(manifest.summary["arm"]), int(manifest.summary["replicate"]))
        if encoder in found and field not in MANY:
            raise BadInput(f"--{field} holds {_listed([encoder])} twice: give each encoder once.")
        found.setdefault(encoder, []).append((manifest, folder))
    return found


def _listed(encoders: Iterable[Encoder]) -> str:
    return ", ".join(f"{arm} (replicate {replicate})" for arm, replicate in sorted(encoders))
