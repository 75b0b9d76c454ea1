"""What the launcher is asked to do: `--stage=<name>`, the stage's own parameters, and the gang's shape in `--gang`."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.launch.gang import Pool, read_pool
from components.runtime import params
from components.runtime.errors import BadInput
from components.runtime.params import StageParams, unknown_name
from components.runtime.stage import split_kfp_argument

RUN, WORKFLOW, POD = "CETERIS_RUN", "CETERIS_WORKFLOW", "CETERIS_POD"  # variables of the step
STAGES = ("preflight", "pretrain", "train_vlm")  # those whose processes can work together
KUBERNETES, PROCESSES, CONTAINERS = "kubernetes", "local_cwd", "local_docker"  # TorchX's words for where
SCHEDULERS = (KUBERNETES, PROCESSES, CONTAINERS)
USAGE = """usage: python -m components.launch --stage=STAGE --name=value ... --gang=JSON

Runs a stage on several nodes at once, follows it, and ends as it ends.

  --stage=STAGE  one of {stages}; its own parameters stand beside it, as for
                 `python -m components.STAGE`
  --gang=JSON    {{"num_nodes": 2, "image": "registry/train@sha256:...", "pool": {{"name": "h100", "cpus": 96, ...}},
                 "arm": "clip", "scheduler": "kubernetes"}}: `pool` is an entry of the pools' file, `arm` tells the
                 task from the stage's others, `scheduler` is one of {schedulers};
                 `folders` are what containers of local_docker may write to

Variables: CETERIS_RUN (the run, required), CETERIS_WORKFLOW (the Argo Workflow that owns the gang), CETERIS_POD (this
pod), MLFLOW_* (go on to rank 0). Exit codes: 0 the manifest is there, 1 failed, 2 bad input, 3 stopped.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """How many of what, and where.

    Attributes:
        arm: What tells the task from the stage's other ones; empty: nothing.
        image: Image of every node; processes have none.
        num_nodes: Nodes that work together.
        pool: What each node gets.
        scheduler: One of SCHEDULERS.
        folders: What containers on this machine may write to; what else their command names they may read.
    """

    arm: str
    image: str
    num_nodes: int
    pool: Pool
    scheduler: str = KUBERNETES
    folders: Sequence[str] = ()

    def argument(self) -> str:
        """Returns the `--gang` that `read_shape` turns back."""
        given = {"arm": self.arm, "image": self.image, "num_nodes": self.num_nodes, "scheduler": self.scheduler}
        pool = {"name": self.pool.name} | self.pool.as_mapping()
        return "--gang=" + json.dumps(given | {"folders": list(self.folders), "pool": pool}, sort_keys=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """One task to launch.

    Attributes:
        values: The stage's parameters.
        shape: The gang.
        kfp: What KFP's `--executor_input` holds; nothing outside of a pipeline.
    """

    values: StageParams
    shape: Shape
    kfp: Mapping[str, Any]


def usage() -> str:
    """Returns the text of `--help`."""
    return USAGE.format(stages=", ".join(STAGES), schedulers=", ".join(SCHEDULERS))


def read_order(argv: Sequence[str]) -> Order:
    """Returns what a command line asks for.

    Raises:
        BadInput: A sentence for everything that is wrong with it.
    """
    kfp, words = split_kfp_argument(argv)
    own: dict[str, str] = {}
    rest, problems = [], []
    for word in words:
        name, _, text = word.partition("=")
        if name not in ("--stage", "--gang"):
            rest.append(word)
        elif name in own:
            problems.append(f"{name} is given twice: keep one.")
        else:
            own[name] = text
    values = shape = None
    try:
        shape = read_shape(own.get("--gang", ""))
    except BadInput as error:
        problems += error.problems
    stage = own.get("--stage", "")
    if stage not in STAGES:
        problems.append(unknown_name(f"--stage={stage}", [f"--stage={name}" for name in STAGES]))
    else:
        try:
            values = params.parse(importlib.import_module(f"components.{stage}.params").Params, rest)
        except BadInput as error:
            problems += error.problems
    if problems or values is None or shape is None:
        raise BadInput(*problems)
    return Order(values=values, shape=shape, kfp=kfp)


def read_shape(text: str) -> Shape:
    """Returns the shape in `--gang`.

    Raises:
        BadInput: A sentence for everything that is wrong with it.
    """
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise BadInput(f"--gang={text} is no JSON object: look at --help.")
    known = [field.name for field in dataclasses.fields(Shape)]
    problems = [unknown_name(f"--gang {name}", [f"--gang {n}" for n in known]) for name in given if name not in known]
    checks = {
        "arm": (isinstance(given.get("arm", ""), str), "text"),
        "image": (isinstance(given.get("image"), str), "an image's name"),
        "num_nodes": (type(given.get("num_nodes")) is int, "a whole number"),
        "scheduler": (given.get("scheduler", KUBERNETES) in SCHEDULERS, f"one of {', '.join(SCHEDULERS)}"),
        "folders": (_are_texts(given.get("folders", [])), "a list of folders"),
    }
    problems += [
        f"--gang {name}={json.dumps(given.get(name))} is not {expected}: correct it."
        for name, (is_right, expected) in checks.items()
        if not is_right
    ]
    try:
        pool = dict(given["pool"])
        found = read_pool(str(pool.pop("name", "")), pool)
    except BadInput as error:
        problems += [f"--gang {problem}" for problem in error.problems]
    except (KeyError, TypeError, ValueError):
        problems.append("--gang pool is no entry of the pools' file: give its name, cpus, memoryGib and so on.")
    if problems:
        raise BadInput(*problems)
    rest = {name: value for name, value in given.items() if name != "pool"}
    return Shape(**{"arm": ""} | rest | {"pool": found, "folders": tuple(given.get("folders", []))})


def digest(values: StageParams) -> str:
    """Returns the sha256 of a whole command line, its addresses included."""
    return hashlib.sha256("\0".join(values.argv()).encode()).hexdigest()


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
