"""Is supervision all that differs? The hashes that must be equal, and every value that is not."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from components.report.study import Arm, Run, Study

HASHES = ("trunk_init", "manifest", "sample_order", "schedule")
ABSENT = "absent"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One named value that is not the same for all arms; a list where it changes from replicate to replicate."""

    name: str
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Parity:
    """What all arms share within each replicate, and what they don't.

    Attributes:
        hashes: Per name of HASHES and arm, the sha256 that pretrain wrote, of all replicates joined by commas; empty
            where one is missing.
        downstream: Per name and arm, the digest of what the arm was tested with, joined alike.
        differs: Every difference, by name.
    """

    hashes: dict[str, dict[str, str]]
    downstream: dict[str, dict[str, str]]
    differs: list[Difference]

    @property
    def is_equal(self) -> bool:
        """Returns whether every hash is there and, in each replicate, the same for all arms."""
        return all(
            "" not in of.values() and len(set(of.values())) == 1 for of in (self.hashes | self.downstream).values()
        )


def compare_parity(study: Study) -> Parity:
    """Returns the parity record of all arms."""
    facts = {arm.name: [_facts(run) for run in arm.runs] for arm in study.arms}
    names = sorted({name for runs in facts.values() for of in runs for name in of})
    values = {name: {arm: [of.get(name, ABSENT) for of in runs] for arm, runs in facts.items()} for name in names}
    return Parity(
        hashes={name: _of_arms(study.arms, partial(_hash, name)) for name in HASHES},
        downstream={
            "vlm_data": _of_arms(study.arms, lambda run: run.vlm.summary["parity"].get("data", "")),
            "benchmark": _of_arms(study.arms, lambda run: run.benchmark.summary.get("questions", "")),
        },
        differs=[
            Difference(name, {arm: _one(of_run) for arm, of_run in of.items()})
            for name, of in values.items()
            if len({repr(of_run) for of_run in of.values()}) > 1
        ],
    )


def _facts(run: Run) -> dict[str, Any]:
    """Returns everything that may differ between arms, by name."""
    summary = run.checkpoint.summary
    facts = {name: value for name, value in _record(run).items() if name not in HASHES}
    facts |= {name: summary[name] for name in ("train_flops_per_sample", "num_samples_seen") if name in summary}
    for manifest in (run.checkpoint, run.vlm, run.benchmark):
        facts |= {f"{manifest.stage} --{name}": value for name, value in manifest.params.items() if name != "arm"}
    for name in sorted({name for evaluation in run.evaluations for name in evaluation.params}):
        facts[f"evaluate --{name}"] = _one([evaluation.params.get(name, ABSENT) for evaluation in run.evaluations])
    return facts


def _hash(name: str, run: Run) -> str:
    return _record(run).get(name, "")


def _record(run: Run) -> dict[str, Any]:
    return _flat(run.checkpoint.summary["parity"])


def _of_arms(arms: Iterable[Arm], digest: Callable[[Run], str]) -> dict[str, str]:
    """Returns the digests of all runs of each arm, joined by commas; empty where one is missing."""
    found = {arm.name: [str(digest(run)) for run in arm.runs] for arm in arms}
    return {arm: ",".join(digests) if all(digests) else "" for arm, digests in found.items()}


def _one(values: Sequence[Any]) -> Any:
    """Returns the value that all have, else all of them."""
    return values[0] if len({repr(value) for value in values}) == 1 else list(values)


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
