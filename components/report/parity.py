"""Is supervision all that differs? The hashes that must be equal, and every value that is not."""

import dataclasses
from typing import Any

from components.report.study import Study

HASHES = ("trunk_init", "manifest", "sample_order", "schedule")


@dataclasses.dataclass(frozen=True)
class Difference:
    """One named value that is not the same for all arms."""

    name: str
    values: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Parity:
    """What all arms share, and what they don't.

    Attributes:
        hashes: Per name of HASHES and arm, the sha256 that pretrain wrote; empty where it wrote none.
        downstream: Per name and arm, the digest of what the arm was tested with.
        differs: Every difference, by name.
    """

    hashes: dict[str, dict[str, str]]
    downstream: dict[str, dict[str, str]]
    differs: list[Difference]

    @property
    def is_equal(self) -> bool:
        """Returns whether every hash is there and the same for all arms."""
        return all(
            "" not in of.values() and len(set(of.values())) == 1 for of in (self.hashes | self.downstream).values()
        )


def compare_parity(study: Study) -> Parity:
    """Returns the parity record of all arms."""
    records = {arm.name: _flat(arm.checkpoint.summary["parity"]) for arm in study.arms}
    facts = {
        arm.name: {k: v for k, v in records[arm.name].items() if k not in HASHES}
        | {
            name: arm.checkpoint.summary[name]
            for name in ("train_flops_per_sample", "num_samples_seen")
            if name in arm.checkpoint.summary
        }
        | _params("pretrain", arm.checkpoint.params)
        | _params("evaluate", arm.evaluation.params)
        | _params("train_vlm", arm.vlm.params)
        | _params("benchmark_vlm", arm.benchmark.params)
        for arm in study.arms
    }
    names = sorted({name for of in facts.values() for name in of})
    absent = "absent"
    values = {name: {arm: of.get(name, absent) for arm, of in facts.items()} for name in names}
    return Parity(
        hashes={name: {arm: str(of.get(name, "")) for arm, of in records.items()} for name in HASHES},
        downstream={
            "vlm_data": {arm.name: arm.vlm.inputs.get("shards", "") for arm in study.arms},
            "benchmark": {arm.name: arm.benchmark.inputs.get("benchmark", "") for arm in study.arms},
        },
        differs=[Difference(name, of) for name, of in values.items() if len({repr(v) for v in of.values()}) > 1],
    )


def _params(stage: str, params: dict[str, Any]) -> dict[str, Any]:
    return {f"{stage} --{name}": value for name, value in params.items() if name != "arm"}


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
