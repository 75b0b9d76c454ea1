"""Two miniature stages, `draw` and `tally`, as real processes under KFP's own engine."""

import dataclasses
import importlib
import inspect
import os
import sys
import types
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl
from kfp.dsl import pipeline_task

import components
from components.runtime.kubeflow import container_component
from pipelines.host import Host
from pipelines.local import run_package
from pipelines.run_folder import opened_run


@pytest.fixture(autouse=True)
def _stacks_without_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares KFP's compiler the source of every frame, which it never looks at: pytest's stack is deep, torch is large.

    It asks for its caller's name at each setting of each task.
    """
    quick = types.SimpleNamespace(**vars(inspect) | {"stack": lambda: inspect.stack(context=0)[1:]})
    monkeypatch.setattr(pipeline_task, "inspect", quick)


MAIN = """
from components.{stage}.params import Params
from components.runtime.stage import main

main(Params)
"""
DRAW = """
import dataclasses
from components.runtime.params import StageParams, knob

@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    '''Draws numbers.'''
    num_samples: int = knob(3, help="numbers to draw", low=1)
    ending: str = knob("well", help="how it ends", choices=("well", "badly", "refused", "killed", "slowly"))
"""
DRAW_STAGE = """
import os, signal, time
from components.runtime.errors import BadInput, Preempted
from components.runtime.stage import Outcome

def run(params, stage):
    if params.ending == "badly":
        raise ZeroDivisionError("nothing to divide")
    if params.ending == "refused":
        raise BadInput("--ending=refused is a wish: use well.")
    if params.ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if params.ending == "slowly" and not stage.out.exists("saved.json"):
        while not stage.stopping():
            time.sleep(0.02)
        stage.out.write_json("saved.json", {})
        raise Preempted("saved")
    for step in range(params.num_samples):
        stage.metrics(step, {"loss": 1 / (step + 1)})
    stage.out.write_json("numbers.json", list(range(params.num_samples)))
    return Outcome(kind="Numbers", files=["numbers.json"], counts={"samples": params.num_samples})
"""
TALLY = """
import dataclasses
from components.runtime.params import StageParams, knob, source

@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    '''Adds the numbers of every arm.'''
    numbers: str = source(help="numbers from draw", kind="Dataset", many=True)
    factor: float = knob(1.0, help="what the sum is multiplied by")
"""
TALLY_STAGE = """
from components.runtime.stage import Outcome

def run(params, stage):
    total = params.factor * sum(sum(folder.read_json("numbers.json")) for folder in stage.folders("numbers"))
    stage.out.write_json("total.json", total)
    return Outcome(kind="Total", files=["total.json"], metrics={"total": total})
"""
PACKAGE = """
import os
__path__.append(os.environ["REAL_COMPONENTS"])
"""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run of the miniature study ended."""

    exit_code: int
    host: Host
    screen: str
    run: Path


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ended]]:
    """Runs draw for two arms and tally over both, in `<tmp_path>/runs/mini`; keyword arguments are draw's ending."""
    stages = tmp_path / "components"
    for stage, params, work in (("draw", DRAW, DRAW_STAGE), ("tally", TALLY, TALLY_STAGE)):
        (stages / stage).mkdir(parents=True)
        for name, text in (
            ("__init__", ""),
            ("__main__", MAIN.format(stage=stage)),
            ("params", params),
            ("stage", work),
        ):
            (stages / stage / f"{name}.py").write_text(text)
    (stages / "__init__.py").write_text(PACKAGE)
    monkeypatch.setenv("REAL_COMPONENTS", str(Path(components.__file__).parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(components, "__path__", [*components.__path__, str(stages)])
    draw_params, tally_params = (importlib.import_module(f"components.{s}.params").Params for s in ("draw", "tally"))
    yield lambda **inputs: _run_miniature(tmp_path / "runs" / "mini", draw_params, tally_params, inputs)
    for name in [n for n in sys.modules if n.startswith(("components.draw", "components.tally"))]:
        del sys.modules[name]
    for stage in ("draw", "tally"):
        vars(components).pop(stage, None)


def _run_miniature(run: Path, draw_params: Any, tally_params: Any, inputs: dict[str, Any]) -> Ended:
    draw = container_component(draw_params, {"numbers": dsl.Dataset}, dependencies="data")
    tally = container_component(
        tally_params, {"total": dsl.Artifact, "metrics": dsl.Metrics}, {"numbers": ("one", "two")}, dependencies="data"
    )

    @dsl.pipeline(name="miniature")
    def study(out_uri: str, num_samples: int = 3, ending: str = "well") -> None:
        one, two = (
            draw(out_uri=f"{out_uri}/draw/{arm}", num_samples=num_samples, ending=ending)
            .set_display_name(f"draw {arm}")
            .outputs["numbers"]
            for arm in ("one", "two")
        )
        tally(out_uri=f"{out_uri}/tally", numbers_one=one, numbers_two=two, factor=2.0).set_display_name("tally")

    screen = StringIO()
    with opened_run(run, str(run), {}) as lock:
        compiler.Compiler().compile(study, str(run / "study.yaml"))
        order = ["draw/one", "draw/two", "tally"]
        host = Host(run=run, lock=lock, out=str(run), order=order, screen=screen)
        run_package(run, {"out_uri": str(run)} | inputs, host)
    return Ended(host.exit_code, host, screen.getvalue(), run)


@pytest.fixture(autouse=True)
def no_cluster_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the tester's own MLflow server out of the tests."""
    for name in [n for n in os.environ if n.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
