"""The command line: run the study here, compile it for a cluster, or plan what it takes."""

import argparse
import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from components.build_shards.params import SYNTHETIC
from components.runtime import errors
from components.runtime.errors import BadInput, StageFailure
from components.runtime.manifest import MANIFEST_NAME
from components.runtime.params import from_text, unknown_name
from components.runtime.storage import open_folder
from pipelines import knobs as study_knobs
from pipelines.design import ARMS, DEFAULT_ARMS, LABELLED_SETS, Design
from pipelines.knobs import Knobs
from pipelines.plan import H100_TFLOPS, MFU, plan_table
from pipelines.presets import PRESETS, Preset, preset

SETS = ("cpu", "train", "vlm")
POSITIVE = {"mfu": "mfu", "gpu-tflops": "gpu_tflops"}
EXAMPLES = """examples:
  python -m pipelines local --preset smoke
  python -m pipelines local --preset laptop --num-seeds 3 --run three-seeds
  python -m pipelines local --preset laptop --run deeper --set pretrain.depth=6
  python -m pipelines compile --preset paper --out study.yaml
  python -m pipelines plan --preset paper --gpu-hour-price 2.5
"""


class _Parser(argparse.ArgumentParser):
    """argparse that refuses in a sentence, as every other refusal here."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message[:1].upper()}{message[1:]}: look at `{self.prog} --help`.")


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    parser, verbs = _parsers()
    if not argv or argv[0] in ("-h", "--help"):
        parser.print_help()
        return errors.EXIT_DONE
    try:
        if argv[0] not in verbs:
            raise BadInput(unknown_name(argv[0], list(verbs)))
        options, unknown = verbs[argv[0]].parse_known_args(argv[1:])
        flags = [flag for action in verbs[argv[0]]._actions for flag in action.option_strings]
        problems = [unknown_name(word.partition("=")[0], flags) for word in unknown if word.startswith("-")]
        problems += [f"'{word}' belongs to no option: look at --help." for word in unknown if not word.startswith("-")]
        return {"local": _local, "compile": _compile, "plan": _plan}[argv[0]](options, problems)
    except BadInput as error:
        print("\n".join(error.problems), file=sys.stderr)
        return errors.EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return errors.EXIT_PREEMPTED


def _local(options: argparse.Namespace, problems: list[str]) -> int:
    source = options.source
    if source != SYNTHETIC and "://" not in source:
        source = str(Path(source).absolute())
        if not Path(source).is_dir():
            problems.append(f"--source={options.source} is no folder: give a folder of pictures, or `{SYNTHETIC}`.")
    name = options.preset if options.run is None else options.run
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        problems.append(f"--run={name} is no name for a folder: use letters, digits, dots, hyphens and underscores.")
    seed = _number(int, "--seed", options.seed, problems)
    out = _address("--out", options.out, problems)
    compare = _report_of(options, problems) if options.compare else ""
    recipe, design, knobs = _study(options, problems, source, seed)
    from pipelines.local import run_study  # KFP's engine, which the other commands don't need

    return run_study(
        Path(options.runs).absolute() / name,
        design=design,
        recipe=recipe,
        knobs=knobs,
        settings={
            "preset": options.preset,
            "arms": list(design.arms),
            "num_seeds": design.num_seeds,
            "first_replicate": design.first_replicate,
            "labelled": dict(design.labelled),
            "set": sorted(options.set),
            "source": source,
            "seed": seed,
            "out": out,
            "compare": compare,
        },
        screen=sys.stderr,
    )


def _compile(options: argparse.Namespace, problems: list[str]) -> int:
    images = dict(word.partition("=")[::2] for word in options.image)
    problems += [unknown_name(f"--image {s}", [f"--image {known}" for known in SETS]) for s in images if s not in SETS]
    problems += [f"--image {s} is empty: write --image {s}=repository@sha256:..." for s, i in images.items() if not i]
    recipe, design, knobs = _study(options, problems, SYNTHETIC, 0)
    from pipelines.package import write_package

    write_package(Path(options.out), design, recipe, knobs, images)
    seeds = f", {design.num_seeds} seeds each," if design.num_seeds > 1 else ""
    print(f"Wrote {options.out}: the study of {' and '.join(design.arms)}{seeds} with the preset {options.preset}.")
    return errors.EXIT_DONE


def _plan(options: argparse.Namespace, problems: list[str]) -> int:
    rates = {
        name: _number(float, f"--{name.replace('_', '-')}", getattr(options, name), problems)
        for name in ("mfu", "gpu_tflops", "gpu_hour_price")
    }
    problems += [f"--{name}={rates[key]:g} is not above 0." for name, key in POSITIVE.items() if rates[key] <= 0]
    recipe, design, knobs = _study(options, problems, SYNTHETIC, 0)
    print(f"{options.preset}: {recipe.about}\n{recipe.cost}\n{recipe.score}\n")
    print(plan_table(design, knobs, recipe.hardware, **rates))
    return errors.EXIT_DONE


def _study(options: argparse.Namespace, problems: list[str], source: str, seed: int) -> tuple[Preset, Design, Knobs]:
    """Returns the preset, the design and the knobs that the options name; all that is wrong with them comes at once."""
    arms = tuple(arm.strip() for arm in options.arms.split(",") if arm.strip())
    num_seeds = _number(int, "--num-seeds", options.num_seeds, problems)
    first_replicate = _number(int, "--first-replicate", options.first_replicate, problems)
    sets = (word.partition("=") for word in options.labelled)
    labelled = tuple((name, _address(f"--labelled {name}", uri, problems)) for name, _, uri in sets)
    design = Design(arms=arms, num_seeds=num_seeds, first_replicate=first_replicate, labelled=labelled)
    wrong = list(design.problems())
    problems += wrong
    recipe = PRESETS["smoke"]  # in place of an unknown one, so that the rest is looked at too
    try:
        recipe = preset(options.preset)
    except BadInput as error:
        problems += error.problems
    knobs: Knobs = {}
    try:
        knobs = study_knobs.with_overrides(recipe.knobs, options.set)
    except BadInput as error:
        problems += error.problems
    problems += study_knobs.problems(knobs, Design(arms=ARMS) if wrong else design, source, seed)
    if problems:
        raise BadInput(*problems)
    return recipe, design, knobs


def _address(name: str, uri: str, problems: list[str]) -> str:
    """Returns an address that means the same in every folder."""
    try:
        return open_folder(uri).uri if uri else ""
    except BadInput as error:
        problems += [f"{name}: {problem}" for problem in error.problems]
        return uri


def _report_of(options: argparse.Namespace, problems: list[str]) -> str:
    """Returns the address of the report that --compare names: by its run, or by the address itself."""
    of_run = Path(options.runs).absolute() / options.compare / "report"
    address = str(of_run) if (of_run / MANIFEST_NAME).exists() else _address("--compare", options.compare, problems)
    with contextlib.suppress(BadInput, StageFailure):
        if not open_folder(address).exists(MANIFEST_NAME):
            problems.append(
                f"--compare={options.compare} names no finished report: give a run in {options.runs} that has one, or "
                "the address of a report's folder."
            )
    return address


def _number(kind: type, name: str, text: str, problems: list[str]) -> Any:
    try:
        return from_text(kind, text)
    except ValueError:
        problems.append(f"{name}={text} is not {'a whole number' if kind is int else 'a number'}.")
        return kind(1)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="python -m pipelines", description=__doc__, epilog=EXAMPLES, formatter_class=layout)
    commands = parser.add_subparsers(metavar="command")
    recipes = "presets:\n" + "\n".join(f"  {name:8}{p.about} {p.cost}" for name, p in PRESETS.items())
    verbs: dict[str, argparse.ArgumentParser] = {}
    for verb, text in (
        ("local", "run the study on this machine; run it again to continue"),
        ("compile", "write the study as a package for Kubeflow Pipelines"),
        ("plan", "print hardware, GPU-hours, cost and sizes, and check the numbers"),
    ):
        verbs[verb] = commands.add_parser(
            verb, help=text, description=text, epilog=recipes, formatter_class=layout, allow_abbrev=False
        )
        add = verbs[verb].add_argument
        add("--preset", default="laptop", metavar="NAME", help=f"{', '.join(PRESETS)} (default: laptop)")
        add(
            "--arms",
            default=",".join(DEFAULT_ARMS),
            help=f"arms to compare, of {', '.join(ARMS)} (default: %(default)s)",
        )
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
    add = verbs["local"].add_argument
    add("--run", metavar="NAME", help="name of the run (default: the preset's)")
    add("--runs", default="runs", metavar="FOLDER", help="folder of all runs (default: %(default)s)")
    add("--out", default="", metavar="URI", help="where stages write: a path, or s3://... (default: the run's folder)")
    add("--compare", default="", metavar="RUN", help="run, or address of a report, to lay beside this one's")
    add("--source", default=SYNTHETIC, help="folder of pictures (default: %(default)s, the synthetic world)")
    add("--seed", default="0", help="seed of everything random (default: %(default)s)")
    add = verbs["compile"].add_argument
    add("--out", default="study.yaml", metavar="FILE", help="file to write (default: %(default)s)")
    add("--image", action="append", default=[], metavar="SET=IMAGE", help=f"image of {', '.join(SETS)}; repeatable")
    add = verbs["plan"].add_argument
    add("--gpu-hour-price", default="0", metavar="PRICE", help="price of one GPU-hour (default: no cost column)")
    add("--mfu", default=str(MFU), help="share of the GPU's peak that training reaches (default: %(default)s)")
    add("--gpu-tflops", default=str(H100_TFLOPS), help="the GPU's dense bf16 peak (default: %(default)s, an H100)")
    return parser, verbs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
