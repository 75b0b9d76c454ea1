"""Runs the study on this machine: the compiled pipeline, KFP's own engine, a process for each container."""

import contextlib
import dataclasses
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kfp import components, local
from kfp.local.config import LocalExecutionConfig

from components.launch.order import CONTAINERS, PROCESSES
from components.runtime import errors
from components.runtime.endings import status
from components.runtime.storage import open_folder
from pipelines.containers import DockerEngine
from pipelines.design import Design
from pipelines.host import Host, containers_run_on
from pipelines.knobs import Knobs
from pipelines.package import write_package
from pipelines.placement import Hardware, Site
from pipelines.presets import Preset
from pipelines.run_folder import opened_run
from pipelines.scores import scores_table
from pipelines.tracking import Forwarder

GANG = "pretrain"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """How a run uses this machine.

    Attributes:
        is_docker: Each task is a container and not a process.
        num_nodes: Processes or containers that train one encoder together.
        images: Image by dependency set, of every set that a stage needs.
    """

    is_docker: bool = False
    num_nodes: int = 1
    images: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def site(self, folders: Sequence[str]) -> Site:
        """Returns where the package will run."""
        scheduler = CONTAINERS if self.is_docker else PROCESSES
        return Site(images=self.images, scheduler=scheduler if self.num_nodes > 1 else "", folders=tuple(folders))

    def hardware(self, asked: Mapping[str, Hardware]) -> dict[str, Hardware]:
        """Returns what the stages ask for, the encoders' training on this many nodes, each with one process."""
        if self.num_nodes == 1:
            return dict(asked)
        return dict(asked) | {GANG: dataclasses.replace(asked[GANG], num_nodes=self.num_nodes, num_gpus=0)}


def run_study(
    run: Path,
    *,
    design: Design,
    recipe: Preset,
    knobs: Knobs,
    settings: dict[str, Any],
    machine: Machine,
    screen: TextIO,
) -> int:
    """Runs the study, or what is left of it, and returns the exit code.

    Args:
        run: Folder of the run: logs, tracking and KFP's scratch, and the stages' results unless `settings` name
            another address.
        design: What is compared.
        recipe: The preset.
        knobs: Its numbers, with those of the command line.
        settings: What the run is started with: `out` (or nothing), `source`, `seed`, and whatever else must not
            change between two runs of the same name.
        machine: How the run uses this machine.
        screen: Where the lines about progress go; the result is printed.

    Raises:
        BadInput: The run can't be started; nothing has run.
    """
    out = open_folder(settings["out"] or str(run)).uri
    with opened_run(run, out, settings) as lock:
        folders = [str(run), *([] if "://" in out or Path(out).is_relative_to(run) else [out])]
        site = machine.site(folders)
        recipe = dataclasses.replace(recipe, hardware=machine.hardware(recipe.hardware))
        write_package(run / "study.yaml", design, recipe, knobs, site)
        engine = DockerEngine(run, folders, machine.images.values()) if machine.is_docker else None
        host = Host(run=run, lock=lock, out=out, order=design.tasks, screen=screen, engine=engine)
        tracking = Forwarder(run)
        tracking.start()
        start = time.monotonic()
        inputs = {"out_uri": out, "source_uri": settings["source"], "seed": settings["seed"]}
        run_package(run, inputs | {"compare_uri": settings["compare"]}, host)
        if host.exit_code == errors.EXIT_DONE:
            _print_result(out, time.monotonic() - start)
        else:
            _print_failure(host, screen)
        failure = tracking.finish(status(host.exit_code))
        if failure:
            screen.write(f"Warning: MLflow lacks the newest numbers ({failure}); the same command brings them.\n")
        return host.exit_code


def run_package(run: Path, arguments: dict[str, Any], host: Host) -> None:
    """Runs `<run>/study.yaml` through KFP's local engine, its containers on `host`, which then knows how it ended.

    Args:
        run: Folder of the run; nobody else works in it.
        arguments: The pipeline's inputs.
        host: Where the containers run.
    """
    package = components.load_component_from_file(str(run / "study.yaml"))
    scratch = run / "kfp"
    shutil.rmtree(scratch, ignore_errors=True)
    (run / "logs").mkdir(exist_ok=True)
    local.init(
        host.engine.runner() if host.engine else local.SubprocessRunner(use_venv=False),
        pipeline_root=str(scratch),
        workspace_root=str(scratch / "workspace"),
        raise_on_error=False,
    )
    try:
        with containers_run_on(host), _quiet_engine(run / "logs" / "kfp.log"):
            package(**arguments)
    finally:
        LocalExecutionConfig.instance = None


@contextlib.contextmanager
def _quiet_engine(log: Path) -> Iterator[None]:
    """Sends what KFP's engine prints and logs to a file, and its warnings of settings for a cluster nowhere."""
    with log.open("w") as file, contextlib.redirect_stdout(file), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _print_result(out: str, seconds: float) -> None:
    report = open_folder(out).folder("report")
    print(f"\nDone in {seconds:.0f} s.\n\n{scores_table(report.read_json('results.json'))}\n")
    print(f"Report:  {report.uri}/report.html\nNumbers: {report.uri}/results.json", flush=True)


def _print_failure(host: Host, screen: TextIO) -> None:
    for problem in host.problems:
        screen.write(f"{problem}\n")
    if host.exit_code == errors.EXIT_PREEMPTED:
        screen.write("Stopped; what was done is kept. The same command continues.\n")
    else:
        screen.write(f"Log: {host.log}\n")
    screen.flush()
