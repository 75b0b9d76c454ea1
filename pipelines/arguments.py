"""The commands' options and their help."""

import argparse
from typing import NoReturn

from components.build_shards.params import SYNTHETIC
from components.runtime.errors import BadInput
from pipelines.design import ARMS, DEFAULT_ARMS, LABELLED_SETS
from pipelines.placement import DEPENDENCIES
from pipelines.plan import H100_TFLOPS, MFU
from pipelines.presets import PRESETS

ABOUT = "Run the study here or on a cluster, look after its runs, or plan what it takes."
EXAMPLES = """examples:
  python -m pipelines local --preset smoke
  python -m pipelines local --preset laptop --num-seeds 3 --run three-seeds
  python -m pipelines plan --preset paper --gpu-hour-price 2.5
  python -m pipelines doctor --preset paper --pools pools.yaml --out s3://bucket/study
  python -m pipelines submit --preset paper --pools pools.yaml --out s3://bucket/study/run-1

`python -m pipelines COMMAND --help` tells each command's options.
Exit codes: 0 done, 1 failed, 2 wrong use, 3 stopped.
"""
VERBS = {
    "local": ("run the study on this machine; run it again to continue", True),
    "compile": ("write the study as a package for Kubeflow Pipelines", True),
    "plan": ("print hardware, GPU-hours, cost and sizes, and check the numbers", True),
    "upload": ("put the study into a cluster's Kubeflow Pipelines, to be started from its page", True),
    "submit": ("start the study on a cluster's Kubeflow Pipelines", True),
    "status": ("list the runs on a cluster, or tell how one of them goes", False),
    "cancel": ("end a run: in Kubeflow Pipelines, its gangs, its pods; and make sure", False),
    "doctor": ("look at what a study needs of a cluster, and say what is missing", False),
}
EPILOGS = {
    "submit": """examples:
  python -m pipelines submit --preset paper --out s3://bucket/study/run-1 --pools pools.yaml \\
      --image cpu=registry/cpu@sha256:... --image train=registry/train@sha256:... \\
      --image vlm=registry/vlm@sha256:... --image launcher=registry/launcher@sha256:...

A run with the --out of one that failed goes on where that one ended: finished stages are not repeated. A run with the
--out of one that is still going on is refused.
""",
    "upload": """examples:
  python -m pipelines upload --preset small --pools pools.yaml --image train=registry/train@sha256:...

The version's name ends in the package's digest: uploading the same study again changes nothing.
""",
    "status": """examples:
  python -m pipelines status
  python -m pipelines status laptop

Exit code of a run's status: 0 done or going on, 1 failed, 3 cancelled.
""",
    "cancel": """examples:
  python -m pipelines cancel laptop
  python -m pipelines cancel 0d7cf5a8-6a33-4a0d-9d0b-0b9e3a3c9a57 --timeout 600

What the stages wrote stays, and another run with the same --out goes on from there. Exit code: 0 nothing is left,
1 something is, or a server doesn't answer.
""",
    "doctor": """examples:
  python -m pipelines doctor --preset paper --pools pools.yaml --out s3://bucket/study
  python -m pipelines doctor --preset paper --service-account pipeline-runner --preflight --out s3://bucket/study

All checks run, whatever the ones before them find. Exit code: 0 no problem, 1 at least one.
""",
}


class _Parser(argparse.ArgumentParser):
    """argparse that refuses in a sentence, as every other refusal here."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message[:1].upper()}{message[1:]}: look at `{self.prog} --help`.")


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Returns the parser of the whole command line, and each command's own."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="python -m pipelines", description=ABOUT, epilog=EXAMPLES, formatter_class=layout)
    commands = parser.add_subparsers(metavar="command")
    recipes = "presets:\n" + "\n".join(f"  {name:8}{p.about} {p.cost}" for name, p in PRESETS.items())
    verbs: dict[str, argparse.ArgumentParser] = {}
    for verb, (text, is_study) in VERBS.items():
        epilog = "\n".join(filter(None, (EPILOGS.get(verb), recipes if is_study else "")))
        verbs[verb] = commands.add_parser(
            verb, help=text, description=f"{text[:1].upper()}{text[1:]}.", epilog=epilog, formatter_class=layout,
            allow_abbrev=False,
        )  # fmt: skip
        if is_study:
            _add_study(verbs[verb])
    _add_local(verbs["local"])
    add = verbs["compile"].add_argument
    add("--out", default="study.yaml", metavar="FILE", help="file to write (default: %(default)s)")
    _add_site(verbs["compile"])
    add = verbs["plan"].add_argument
    add("--gpu-hour-price", default="0", metavar="PRICE", help="price of one GPU-hour (default: no cost column)")
    add("--mfu", default=str(MFU), help="share of the GPU's peak that training reaches (default: %(default)s)")
    add("--gpu-tflops", default=str(H100_TFLOPS), help="the GPU's dense bf16 peak (default: %(default)s, an H100)")
    add = verbs["upload"].add_argument
    add("--name", metavar="NAME", help="name of the pipeline (default: ceteris-PRESET)")
    _add_site(verbs["upload"])
    _add_submit(verbs["submit"])
    add = verbs["status"].add_argument
    add("run", nargs="?", metavar="RUN", help="id or name of a run (default: all of them)")
    add("--most", default="20", metavar="N", help="most runs to list (default: %(default)s)")
    add = verbs["cancel"].add_argument
    add("run", metavar="RUN", help="id or name of the run")
    add("--timeout", default="300", metavar="SECONDS", help="how long to wait until all is gone (default: %(default)s)")
    _add_doctor(verbs["doctor"])
    for verb in ("upload", "submit", "status", "cancel", "doctor"):
        _add_service(verbs[verb])
    return parser, verbs


def _add_study(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--preset", default="laptop", metavar="NAME", help=f"{', '.join(PRESETS)} (default: laptop)")
    add("--arms", default=",".join(DEFAULT_ARMS), help=f"arms to compare, of {', '.join(ARMS)} (default: %(default)s)")
    add("--num-seeds", default="1", metavar="N", help="trainings of each arm, on the same data (default: 1)")
    add("--first-replicate", default="0", metavar="N", help="number of the first of them, added to the seed")
    add(
        "--labelled",
        action="append",
        default=[],
        metavar="SET=URI",
        help=f"a published set to probe on, of {', '.join(LABELLED_SETS)}; repeatable",
    )
    add("--set", action="append", default=[], metavar="STAGE.KNOB=VALUE", help="change a number; repeatable")


def _add_local(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", metavar="NAME", help="name of the run (default: the preset's)")
    add("--runs", default="runs", metavar="FOLDER", help="folder of all runs (default: %(default)s)")
    add("--out", default="", metavar="URI", help="where stages write: a path, or s3://... (default: the run's folder)")
    add("--compare", default="", metavar="RUN", help="run, or address of a report, to lay beside this one's")
    add("--source", default=SYNTHETIC, help="folder of pictures (default: %(default)s, the synthetic world)")
    add("--seed", default="0", help="seed of everything random (default: %(default)s)")
    add("--runner", default="host", metavar="NAME", help="host: stages are processes; docker: hardened containers")
    add("--nodes", default="1", metavar="N", help="processes or containers that train an encoder together (default: 1)")
    _add_images(parser)


def _add_submit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", required=True, metavar="URI", help="folder that the stages write below: s3://bucket/study/run")
    add("--experiment", default="encoder-study", metavar="NAME", help="KFP's experiment (default: %(default)s)")
    add("--run", metavar="NAME", help="name of the run (default: the preset's)")
    add("--source", default=SYNTHETIC, help="folder of pictures (default: %(default)s, the synthetic world)")
    add("--seed", default="0", help="seed of everything random (default: %(default)s)")
    add("--compare", default="", metavar="URI", help="folder of a report to lay beside this one's")
    add("--no-cache", action="store_true", help="take no task from KFP's cache; finished stages are found all the same")
    add("--service-account", default="", metavar="NAME", help="account of the steps (default: the server's)")
    _add_site(parser)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--preset", default="paper", metavar="NAME", help="whose hardware is wanted (default: %(default)s)")
    add("--out", default="", metavar="URI", help="folder to write, read and delete a few bytes below")
    add("--mlflow", default="", metavar="URL", help="address of MLflow (default: $MLFLOW_TRACKING_URI)")
    add("--service-account", default="", metavar="NAME", help="whose rights to look at (default: one's own)")
    add("--preflight", action="store_true", help="launch a gang that tries all-reduce and /dev/shm on every node")
    _add_site(parser)


def _add_site(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_images(parser)
    add("--pools", default="", metavar="FILE", help="the cluster's node pools, by the names cpu, gpu, gang")


def _add_images(parser: argparse.ArgumentParser) -> None:
    text = f"image of {', '.join(DEPENDENCIES)}; repeatable (default: ceteris/SET:dev)"
    parser.add_argument("--image", action="append", default=[], metavar="SET=IMAGE", help=text)


def _add_service(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="", metavar="URL", help="address of KFP (default: $KF_PIPELINES_ENDPOINT, or the cluster's)")
    add("--namespace", default="kubeflow", metavar="NAME", help="namespace of the runs (default: %(default)s)")
