"""The last step, by one pod: nothing was lost, everything is counted, and the records of it are written."""

import collections
from typing import Any

from components.build_shards import records
from components.build_shards.decide import DUPLICATES, EXCLUDED, UNUSED, Decision
from components.build_shards.download import REASONS as DEAD
from components.build_shards.pack import Packer, shard_name
from components.build_shards.params import Params
from components.build_shards.work import Work
from components.core.data.sample_table import SAMPLES_NAME
from components.runtime.errors import StageFailure
from components.runtime.stage import Outcome, Stage

NO_FAULT = ("", "duplicate", "near_duplicate", EXCLUDED, UNUSED)  # colliding keys may be one: they start anew


def refuse_bad_source(decision: Decision, params: Params, stage: Stage) -> None:
    """Fails where too much was left out, or nothing is left; the reject log is written before.

    Of a published test split, one picture is too much.

    Raises:
        StageFailure: With a table of the reasons.
    """
    if not params.pod_index:
        records.write_rejects(decision, stage)
    if params.labelled_set:
        _refuse_cut_test_split(decision, params)
    counts = collections.Counter(decision.reasons.tolist())
    dead = {reason: n for reason, n in counts.items() if reason in DEAD}
    bad = {r: n for r, n in counts.items() if r not in (*NO_FAULT, *DEAD)}
    num_inputs = len(decision.reasons)
    for found, limit, name in (
        (bad, params.max_reject_fraction, "max_reject_fraction"),
        (dead, params.max_dead_fraction, "max_dead_fraction"),
    ):
        if sum(found.values()) > limit * num_inputs:
            raise StageFailure(
                f"{sum(found.values())} of {num_inputs} pictures were rejected ({_table(found)}), more than "
                f"--{name}={limit:g}: mend them ({records.REJECTS} names each), or raise the limit."
            )
    if not counts[""]:
        raise StageFailure(
            f"no picture is left for {params.purpose} "
            f"({', '.join(f'{reason} {n}' for reason, n in counts.items()) or 'the source is empty'})."
        )


def _refuse_cut_test_split(decision: Decision, params: Params) -> None:
    found = collections.Counter(decision.reasons[decision.is_test].tolist())
    num_test = sum(found.values())
    if num_lost := num_test - found.pop("", 0):
        raise StageFailure(
            f"{num_lost} of {num_test} test pictures of {params.labelled_set} were rejected ({_table(found)}), which "
            f"would make its numbers another set's: mend them ({records.REJECTS} names each)."
        )


def _table(found: dict[str, int]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in sorted(found.items(), key=lambda pair: -pair[1]))


def outcome(params: Params, stage: Stage, work: Work, packer: Packer, meaning: dict[str, Any]) -> Outcome:
    """Writes the records, checks that every input is accounted for, and returns the stage's outcome."""
    decision = packer.decision
    counts = _counts(decision)
    records.write_samples(packer, stage)
    records.write_card(params.purpose, counts, packer, work, stage)
    files = [records.REJECTS, SAMPLES_NAME, records.CARD]
    if params.purpose == "benchmark":
        num_questions = records.write_benchmark(packer, work, stage)
        return Outcome(
            kind="BenchmarkManifest",
            files=[records.BENCHMARK, *files],
            counts=counts | {"questions": num_questions},
            summary={"purpose": params.purpose, "groups": meaning["groups"]},
            metrics={"questions": float(num_questions)},
            scratch="work",
        )
    written = [work.written_shard(number) for number in range(packer.num_shards)]
    _check_shards(written, counts, stage)
    shards = [{"name": shard_name(n), "samples": record["samples"]} for n, record in enumerate(written)]
    return Outcome(
        kind="ShardsManifest",
        files=[shard["name"] for shard in shards] + files,
        described={shard_name(n): {"sha256": r["sha256"], "bytes": r["bytes"]} for n, r in enumerate(written)},
        counts=counts,
        summary={"purpose": params.purpose, "shards": shards} | {k: v for k, v in meaning.items() if k != "groups"},
        metrics={"samples": float(counts["samples"]), "rejected": float(counts["rejected"])},
        scratch="work",
    )


def _counts(decision: Decision) -> dict[str, Any]:
    found = collections.Counter(decision.reasons.tolist())
    num_samples, num_unused = found.pop("", 0), found.pop(UNUSED, 0)
    num_duplicates = sum(found[reason] for reason in DUPLICATES)
    return {
        "inputs": len(decision.reasons),
        "samples": num_samples,
        "rejected": sum(found.values()) - num_duplicates,
        "duplicates": num_duplicates,
        "unused": num_unused,
        "reasons": dict(sorted((reason, n) for reason, n in found.items() if n)),
    }


def _check_shards(written: list[dict[str, Any]], counts: dict[str, Any], stage: Stage) -> None:
    num_packed = sum(record["samples"] for record in written)
    num_accounted = num_packed + counts["rejected"] + counts["duplicates"] + counts["unused"]
    if num_accounted != counts["inputs"]:
        raise StageFailure(
            f"{counts['inputs']} inputs became {num_packed} samples, {counts['rejected']} rejects, "
            f"{counts['duplicates']} duplicates and {counts['unused']} unused, which doesn't add up: delete "
            f"{stage.out.uri}/work and run again."
        )
    for number, record in enumerate(written):
        found = stage.out.size(shard_name(number))
        if found != record["bytes"]:
            raise StageFailure(
                f"{stage.out.uri}/{shard_name(number)} has {found} bytes where {record['bytes']} were written: "
                f"delete {stage.out.uri}/work and run again."
            )
