"""The frame around every stage: argv in, one manifest out, one exit code."""

import dataclasses
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from components.runtime import errors, metrics, params, process
from components.runtime.endings import exit_code, status
from components.runtime.errors import BadInput, StageFailure
from components.runtime.logs import Log, Progress
from components.runtime.manifest import (
    MANIFEST_NAME,
    Manifest,
    code_version,
    describe_file,
    read_manifest,
    write_manifest,
)
from components.runtime.params import P, StageParams
from components.runtime.storage import Folder, open_folder
from components.runtime.tracking import Tracking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage's `run` returns; the frame makes the manifest from it.

    A process that only did its share of a stage returns None instead, and another one writes the manifest.

    Attributes:
        kind: The manifest's kind.
        files: The names written under `stage.out` that the result consists of.
        described: sha256 and size of files where they are known; the others are read back for it.
        counts: How many of what.
        summary: Deterministic facts for the next stages.
        cost: Facts that differ from run to run; `seconds` is added.
        metrics: The stage's headline numbers, for MLflow and KFP.
        scratch: A folder under `stage.out` that is of no use any more; empty: none.
    """

    kind: str
    files: Sequence[str]
    described: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    counts: dict[str, Any] = dataclasses.field(default_factory=dict)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    cost: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    scratch: str = ""


class Stage:
    """What a running stage is given beside its parameters."""

    def __init__(self, values: StageParams, log: Log) -> None:
        self._log = log
        self.out = open_folder(values.out_uri)
        self.inputs: dict[str, Manifest] = {}
        self.input_lists: dict[str, list[Manifest]] = {}
        self._folders: dict[str, list[Folder]] = {}
        self._named = {name: values.named(name) for name in values.sources() if values.named(name)}
        for name, field in values.sources().items():
            pointed = [_pointed_to(address) for address in values.addresses(name)]
            self._folders[name] = [folder for folder, _ in pointed]
            manifests = [_input(name, folder, digest) for folder, digest in pointed]
            self.input_lists[name] = manifests
            if manifests and not field.metadata["many"]:
                self.inputs[name] = manifests[0]
        self._stop = process.StopSignal()
        self.tracking: Tracking | None = None

    def folder(self, name: str) -> Folder:
        """Returns the folder that the source field `name` points to."""
        return self._folders[name][0]

    def folders(self, name: str) -> list[Folder]:
        """Returns the folders of a source field that takes several."""
        return self._folders[name]

    def resolved(self, values: P) -> P:
        """Returns the parameters with folders in the sources, where KFP gave pointers that lie in one pod only."""
        found = {name: ",".join(folder.uri for folder in folders) for name, folders in self._folders.items() if folders}
        return dataclasses.replace(values, **found)

    def input_digests(self) -> dict[str, str]:
        """Returns the digest of what each source field points to, or the name that it gives of something else."""
        digests = {name: ",".join(m.digest for m in found) for name, found in self.input_lists.items() if found}
        return digests | self._named

    def log(self, event: str, **facts: Any) -> None:
        """Says that something happened."""
        self._log.event(event, **facts)

    def progress(self, total: int, unit: str) -> Progress:
        """Returns a progress display over `total` units."""
        return self._log.progress(total, unit)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Adds one point at `step` to each of the run's curves."""
        if self.tracking:
            self.tracking.spool.metrics(step, values)

    def stopping(self) -> bool:
        """Returns whether the stage was asked to stop: then save and raise `Preempted`."""
        return self._stop.is_set


def main(params_class: type[StageParams], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs the stage of `params_class` with a command line, and exits with one of the codes in `errors`."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars would stand between our lines
    sys.exit(run_stage(params_class, sys.argv[1:] if argv is None else argv))


def run_stage(params_class: type[StageParams], argv: Sequence[str]) -> int:
    """Runs a stage and returns its exit code; every end is one sentence in the log."""
    if "--help" in argv or "-h" in argv:
        name = params_class.stage_name()
        print(f"usage: python -m components.{name} --name=value ...\n\n{params.table(params_class)}")
        return errors.EXIT_DONE
    log = Log(params_class.stage_name())
    kfp, own = split_kfp_argument(argv)
    tracking: list[Tracking] = []
    code = exit_code(log, lambda: _run(params_class, own, kfp, log, tracking))
    for started in tracking:
        started.finish(status(code))
        if started.failure:
            log.event("tracking_failed", problem=started.failure, spool=str(started.spool.path))
    return code


def _run(
    params_class: type[StageParams], argv: Sequence[str], kfp: dict[str, Any], log: Log, tracking: list[Tracking]
) -> None:
    values = params.parse(params_class, argv)
    stage = Stage(values, log)
    if done := result(values, stage):
        say_done(stage, done)
        write_kfp_outputs(kfp, stage.out, done)
        return
    stage.tracking = Tracking(os.environ.get("CETERIS_TASK", values.stage_name()))
    tracking.append(stage.tracking)
    stage.tracking.spool.params(values.knobs())
    stage.tracking.spool.tags({"ceteris.stage": values.stage_name(), "ceteris.out": stage.out.uri})
    log.event("started", out=stage.out.uri)
    if problem := metrics.serve():
        log.event("metrics_not_served", problem=problem)
    metrics.gauge("stage_start_timestamp_seconds", time.time())
    _sweep(stage.out, log)
    process.keep_freed_memory()
    start, start_cpu = time.monotonic(), _cpu_seconds()
    outcome: Outcome | None = importlib.import_module(f"components.{values.stage_name()}.stage").run(values, stage)
    cost = {"seconds": time.monotonic() - start, "cpu_seconds": _cpu_seconds() - start_cpu}
    if outcome is None:
        log.event("share_done", out=stage.out.uri, seconds=round(cost["seconds"], 1))
        return
    manifest = Manifest(
        kind=outcome.kind,
        stage=values.stage_name(),
        params=values.knobs(),
        inputs=stage.input_digests(),
        files={name: outcome.described.get(name) or describe_file(stage.out, name) for name in outcome.files},
        counts=outcome.counts,
        summary=outcome.summary | ({"metrics": outcome.metrics} if outcome.metrics else {}),
        cost=outcome.cost | {k: round(v, 3) for k, v in cost.items()} | {"counters": metrics.totals()},
        code=code_version(),
    )
    write_manifest(stage.out, manifest)
    if outcome.scratch:
        stage.out.folder(outcome.scratch).clear()
    if outcome.metrics:
        stage.tracking.spool.metrics(0, outcome.metrics)
    stage.tracking.spool.tags({"ceteris.manifest": f"{stage.out.uri}/manifest.json", "ceteris.digest": manifest.digest})
    write_kfp_outputs(kfp, stage.out, manifest)
    log.event("done", out=stage.out.uri, digest=manifest.digest[:12], seconds=round(cost["seconds"], 1))


def say_done(stage: Stage, done: Manifest) -> None:
    """Says that nothing is left to do."""
    stage.log("already_done", out=stage.out.uri, digest=done.digest[:12], commit=done.code.get("commit", "")[:12])


def result(values: StageParams, stage: Stage) -> Manifest | None:
    """Returns the stage's manifest, where it is there already.

    Raises:
        BadInput: What is there was made from something else.
    """
    done = read_manifest(stage.out)
    if done is not None:
        _check_same(done, values, stage)
    return done


def _sweep(out: Folder, log: Log) -> None:
    """Removes what killed writers left long ago; a store that doesn't let us is no reason to stop."""
    try:
        num_removed = out.sweep_uploads()
    except StageFailure as error:
        log.event("not_swept", problem=str(error))
        return
    if num_removed:
        log.event("swept", unfinished_uploads=num_removed)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _pointed_to(address: str) -> tuple[Folder, str]:
    """Returns the folder at an address, and the digest of the manifest that should be there where that is known.

    The address is the folder itself, its manifest, or the pointer file that KFP hands on.
    """
    if address.endswith(f"/{MANIFEST_NAME}"):
        return open_folder(address.removesuffix(f"/{MANIFEST_NAME}")), ""
    if "://" not in address and Path(address).is_file():
        pointer = json.loads(Path(address).read_text())
        return open_folder(pointer["folder"]), pointer["digest"]
    return open_folder(address), ""


def _input(name: str, folder: Folder, digest: str) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise BadInput(
            f"--{name}={folder.uri} holds no {MANIFEST_NAME}: run the stage that writes it, or correct the address."
        )
    if digest and manifest.digest != digest:
        raise BadInput(
            f"--{name}={folder.uri} holds another result ({manifest.digest[:12]}) than the pipeline was given "
            f"({digest[:12]}): submit it again with --no-cache, or under another out_uri."
        )
    return manifest


def _check_same(done: Manifest, values: StageParams, stage: Stage) -> None:
    """Refuses to return a result that was made from something else."""
    wanted = values.knobs()
    differences = [
        f"{name} is {params.as_text(done.params.get(name))} there and {params.as_text(wanted.get(name))} here"
        for name in sorted(wanted.keys() | done.params.keys())
        if done.params.get(name) != wanted.get(name)
    ]
    inputs = stage.input_digests()
    differences += [f"the input {name} is another one" for name in inputs if done.inputs.get(name) != inputs[name]]
    if done.stage != values.stage_name():
        differences = [f"it was written by {done.stage}"]
    if differences:
        raise BadInput(
            f"--out_uri={values.out_uri} holds another result ({'; '.join(differences)}): "
            "choose another out_uri or run name, or delete that folder."
        )


def split_kfp_argument(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Returns what KFP's `--executor_input` holds, nothing where there is none, and the other words."""
    name = "--executor_input="
    given = [word.removeprefix(name) for word in argv if word.startswith(name)]
    return (json.loads(given[0]) if given else {}), [word for word in argv if not word.startswith(name)]


def write_kfp_outputs(kfp: Mapping[str, Any], out: Folder, manifest: Manifest) -> None:
    """Gives KFP what it keeps: a pointer to the result for the next stages, copies of what its UI shows.

    The result itself stays where it is: KFP's launcher refuses artefacts outside its own bucket, and would copy
    shards and checkpoints into every pod that names them as input.
    """
    if not kfp:
        return
    artifacts: dict[str, Any] = {}
    outputs = kfp["outputs"]
    for name, found in outputs.get("artifacts", {}).items():
        artifact = found["artifacts"][0]
        path = Path(artifact.get("customPath") or _local_path(artifact["uri"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = artifact["type"]["schemaTitle"].removeprefix("system.")
        suffix = {"HTML": ".html", "Markdown": ".md"}.get(kind)
        if kind == "Metrics":
            artifact["metadata"] = manifest.summary.get("metrics", {})
            path.write_text(json.dumps(artifact["metadata"]))
        elif suffix:
            shown = next((n for n in manifest.files if n.endswith(suffix)), None)
            path.write_bytes(out.read(shown) if shown else b"")
        else:
            artifact["metadata"] = {"folder": out.uri, "digest": manifest.digest, "kind": manifest.kind}
            path.write_text(json.dumps(artifact["metadata"]))
        artifacts[name] = {"artifacts": [artifact]}
    target = Path(outputs["outputFile"])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"artifacts": artifacts}))


def _local_path(uri: str) -> str:
    """Returns where KFP mounts an artefact's address inside a container."""
    mounts = {"gs": "gcs", "minio": "minio", "s3": "s3"}
    scheme, _, rest = uri.partition("://")
    return f"/{mounts[scheme]}/{rest}" if scheme in mounts else uri
