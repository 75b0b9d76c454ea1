"""What the study can be checked by: parity, data, leaked pictures, tracking and manifests."""

import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from components.report.findings.parity import Parity
from components.report.page.content import Cell, Column, Part, Prose, Section, Table
from components.report.study import Arm, Run, Study
from components.report.wording import arm_name, compact, count, joined, percent, short_hash

NONE = Cell("\u2013", tone="empty")
SHARED = {
    "trunk_init": "initial weights of the trunk",
    "manifest": "training pictures",
    "sample_order": "order of the samples",
    "schedule": "learning-rate schedule",
    "vlm_data": "the language model's training data",
    "benchmark": "benchmark questions",
}
COUNTS = ("inputs", "samples", "rejected", "duplicates", "unused")


def parity_section(study: Study, parity: Parity) -> Section:
    """Returns the hashes that must be equal, and every value that is not."""
    names = joined([arm_name(arm.name) for arm in study.arms])
    verdict = (
        f"{names} share everything that is hashed below."
        if parity.is_equal
        else f"Not all that should be equal is: {names} do not share every hash below, so supervision is not all that "
        "differs."
    )
    columns = [Column("what", is_number=False), Column("", is_number=False)]
    columns += [Column(arm_name(arm.name), "sha256", is_number=False) for arm in study.arms]
    rows = []
    for name, of in (parity.hashes | parity.downstream).items():
        is_equal = "" not in of.values() and len(set(of.values())) == 1
        hashes = [_hashes(of[arm.name]) for arm in study.arms]
        said = Cell("equal" if is_equal else "different", tone="" if is_equal else "lead")
        rows.append([Cell(SHARED.get(name, name)), said, *hashes])
    each = "; a hash for each replicate that has its own" if len(study.replicates) > 1 else ""
    parts: list[Part] = [Prose(verdict), Table(f"What is the same for every arm{each}.", columns, rows)]
    if parity.differs:
        columns = [Column("value", is_number=False)]
        columns += [Column(arm_name(arm.name), is_number=False) for arm in study.arms]
        rows = [
            [Cell(of.name, tone="code"), *(Cell(_plain(of.values[arm.name])) for arm in study.arms)]
            for of in parity.differs
        ]
        parts.append(Table("What differs between the arms: all of it.", columns, rows))
    return Section("parity", "All else being equal", parts)


def data_section(study: Study) -> Section:
    """Returns the numbers of the data cards, and how many test pictures the encoders were trained on."""
    columns = [Column("data", is_number=False), *(Column(name) for name in COUNTS)]
    columns += [Column("left out because", is_number=False), Column("digest", is_number=False)]
    rows = []
    for manifest in study.data:
        reasons = ", ".join(f"{reason} {count(n)}" for reason, n in manifest.counts.get("reasons", {}).items())
        counts = [Cell(count(manifest.counts[name])) if name in manifest.counts else NONE for name in COUNTS]
        digest = Cell(short_hash(manifest.digest), tone="code")
        rows.append([Cell(manifest.summary["purpose"]), *counts, Cell(reasons) if reasons else NONE, digest])
    note = (
        "Beside each of these data lie data_card.html with samples of it, and rejects.jsonl with all that was refused."
    )
    caption = "The frozen data sets that every arm reads, in pictures or questions."
    return Section("data", "The data", [Table(caption, columns, rows), *_leaks(study), Prose(note, "note")])


def provenance_section(study: Study, commit: str) -> Section:
    """Returns every result that the page is made from, and where its curves are kept."""
    columns = [Column(name, is_number=False) for name in ("result", "arm", "replicate", "digest", "commit")]
    made = [
        (m, arm_name(arm.name), str(run.replicate)) for arm in study.arms for run in arm.runs for m in run.manifests
    ]
    made += [(study.analysis_manifest, "all", "all"), *((m, "all", "all") for m in study.data)]
    rows = []
    for manifest, arm, replicate in made:
        code = Cell(short_hash(manifest.code.get("commit", "")) or "unknown", tone="code")
        digest = Cell(short_hash(manifest.digest), tone="code")
        rows.append([Cell(manifest.stage), Cell(arm), Cell(replicate), digest, code])
    written = Prose(f"This page was written by commit {short_hash(commit) or 'unknown'}.")
    table = Table("Every result that this page is made from.", columns, rows, is_filtered=True)
    return Section("provenance", "Where it comes from", [written, _tracking(), table, _params_table(study)])


def _params_table(study: Study) -> Table:
    """Returns every parameter of every stage; an arm's own column holds it where the arms differ."""
    columns = [Column(name, is_number=False) for name in ("parameter", "stage", "all arms")]
    columns += [Column(arm_name(arm.name), is_number=False) for arm in study.arms]
    of_stage: dict[str, list[dict[str, Any]]] = {}
    for arm in study.arms:
        run = arm.runs[0]
        for manifest in (run.checkpoint, run.vlm, run.benchmark):
            of_stage.setdefault(manifest.stage, []).append(manifest.params)
        for number, manifest in enumerate(run.evaluations, start=1):
            stage = f"evaluate {number}" if len(run.evaluations) > 1 else "evaluate"
            of_stage.setdefault(stage, []).append(manifest.params)
    of_stage[study.analysis_manifest.stage] = [study.analysis_manifest.params]
    for manifest in study.data:
        of_stage[f"{manifest.stage} {manifest.summary['purpose']}"] = [manifest.params]
    rows = []
    for stage, params in of_stage.items():
        for name in sorted({name for of in params for name in of}):
            values = [_plain(of.get(name, "")) for of in params]
            is_shared = len(set(values)) == 1
            own = [NONE] * len(study.arms) if is_shared else [Cell(value) for value in values]
            rows.append([Cell(name, tone="code"), Cell(stage), Cell(values[0]) if is_shared else NONE, *own])
    return Table("Every parameter, of the first replicate.", columns, rows, is_filtered=True)


def _hashes(joined_by_commas: str) -> Cell:
    """Returns the hash of every replicate; one where all have the same."""
    if not joined_by_commas:
        return Cell("not recorded", tone="empty")
    found = list(dict.fromkeys(joined_by_commas.split(",")))
    return Cell(" ".join(of[:8] if len(found) > 1 else short_hash(of) for of in found), tone="code")


def _leaks(study: Study) -> list[Part]:
    """Returns the test pictures that are also training pictures, where evaluate looked for them."""
    found: dict[str, tuple[int, int]] = {}
    for _, run in _runs(study):
        for manifest in run.evaluations:
            leaked = manifest.summary.get("leaked") or {}
            if leaked:
                name = ", ".join(manifest.summary.get("factors", [])) or short_hash(manifest.summary.get("shards", ""))
                found[name] = (leaked["num_in_train"], leaked["num_test"])
    if not found:
        return [Prose("Whether test pictures occur among the training pictures was not checked.", "note")]
    of = [f"{count(n)} of {count(total)} ({percent(n / total)} %)" for n, total in found.values() if total]
    texts = joined(of) if len(of) == 1 else joined([f"{o} of {name}" for o, name in zip(of, found, strict=False)])
    return [Prose(f"Test pictures that occur, byte for byte, among the training pictures: {texts}.")]


def _tracking() -> Prose:
    """Returns where MLflow has the curves: a link where its server is known, else the command that shows them."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    found = "Each run there carries the digest below as its tag ceteris.digest."
    if uri.startswith(("http://", "https://")):
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ceteris")
        address = f"{uri.rstrip('/')}/#/experiments?experimentSearchFilter={quote(experiment)}"
        return Prose(f"Every curve of this study is in MLflow. {found}", link=(f"Experiment {experiment}", address))
    command = "mlflow ui --backend-store-uri sqlite:///runs/<name>/mlflow.db"
    return Prose(f"Every curve of this study is in the run's MLflow data base; {command} shows it. {found}")


def _runs(study: Study) -> Sequence[tuple[Arm, Run]]:
    return [(arm, run) for arm in study.arms for run in arm.runs]


def _plain(value: Any) -> str:
    if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and value >= 10_000):
        return f"{value:,.6g}" if abs(value) < 1e7 else compact(value)
    return str(value)
