"""The command line: run the study here or on a cluster, look after its runs, or plan what it takes."""

import argparse
import contextlib
import datetime
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.build_shards.params import SYNTHETIC
from components.launch.gang import MOST_NODES, Pool, read_pools
from components.launch.order import KUBERNETES, RUN
from components.runtime import errors
from components.runtime.errors import BadInput, StageFailure
from components.runtime.manifest import MANIFEST_NAME
from components.runtime.params import from_text, unknown_name
from components.runtime.storage import open_folder
from pipelines import knobs as study_knobs
from pipelines.arguments import parsers
from pipelines.design import ARMS, Design
from pipelines.knobs import Knobs
from pipelines.placement import Site, default_image, images_by_tag, read_images
from pipelines.plan import plan_table
from pipelines.presets import PRESETS, Preset, preset

POSITIVE = {"mfu": "mfu", "gpu-tflops": "gpu_tflops"}
NEEDED = ("cpu", "train", "vlm")  # dependency sets of the stages; a gang's launcher comes on top
RUNNERS = ("host", "docker")
SHARED = ("s3",)  # what pods on several nodes can all reach


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    parser, verbs = parsers()
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
        acts = {"local": _local, "compile": _compile, "plan": _plan, "submit": _submit, "status": _status}
        return (acts | {"cancel": _cancel, "doctor": _doctor, "upload": _upload})[argv[0]](options, problems)
    except BadInput as error:
        print("\n".join(error.problems), file=sys.stderr)
        return errors.EXIT_BAD_INPUT
    except StageFailure as error:
        print(error, file=sys.stderr)
        return errors.EXIT_FAILED
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
    num_nodes = _number(int, "--nodes", options.nodes, problems)
    if not 1 <= num_nodes <= MOST_NODES:
        problems.append(f"--nodes={options.nodes} is not from 1 to {MOST_NODES}: give how many train together.")
    if options.runner not in RUNNERS:
        problems.append(unknown_name(f"--runner={options.runner}", [f"--runner={name}" for name in RUNNERS]))
    images = _images(options, problems)
    recipe, design, knobs = _study(options, problems, source, seed)
    from pipelines.local import Machine, run_study  # KFP's engine, which the other commands don't need

    if options.runner == "docker" and os.getuid() == 0:
        os.umask(0o002)  # the containers' user is another one of our group
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
        }
        | ({"nodes": num_nodes} if num_nodes > 1 else {}),
        machine=Machine(
            is_docker=options.runner == "docker",
            num_nodes=num_nodes,
            images={name: images.get(name, default_image(name)) for name in NEEDED},
        ),
        screen=sys.stderr,
    )


def _compile(options: argparse.Namespace, problems: list[str]) -> int:
    site = _site(options, problems)
    recipe, design, knobs = _study(options, problems, SYNTHETIC, 0)
    from pipelines.package import write_package

    write_package(Path(options.out), design, recipe, knobs, site)
    seeds = f", {design.num_seeds} seeds each," if design.num_seeds > 1 else ""
    print(f"Wrote {options.out}: the study of {' and '.join(design.arms)}{seeds} with the preset {options.preset}.")
    _warn_of_tags(recipe, site)
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


def _upload(options: argparse.Namespace, problems: list[str]) -> int:
    name = f"ceteris-{options.preset}" if options.name is None else options.name
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?", name):
        problems.append(f"--name={name} is no pipeline's name: use at most 50 lower-case letters, digits and hyphens.")
    site = _site(options, problems)
    recipe, design, knobs = _study(options, problems, SYNTHETIC, 0)
    from pipelines.service import Service
    from pipelines.upload import upload

    service = Service(options.host, options.namespace)
    version, page, is_new = upload(service, name=name, design=design, recipe=recipe, knobs=knobs, site=site)
    _warn_of_tags(recipe, site)
    print(f"{'Uploaded' if is_new else 'It is there already:'} {version}.\n{page}")
    return errors.EXIT_DONE


def _submit(options: argparse.Namespace, problems: list[str]) -> int:
    for name, address in (("--out", options.out), ("--source", options.source), ("--compare", options.compare)):
        if address.partition("://")[0] not in SHARED and (name == "--out" or address not in ("", SYNTHETIC)):
            problems.append(f"{name}={address} is no place that all pods reach: give s3://bucket/folder.")
    if not options.experiment.strip():
        problems.append("--experiment is empty: give the name of a study.")
    seed = _number(int, "--seed", options.seed, problems)
    site = _site(options, problems)
    recipe, design, knobs = _study(options, problems, options.source, seed)
    from pipelines.service import Service
    from pipelines.submit import submit

    service = Service(options.host, options.namespace)
    arguments = {"out_uri": options.out.rstrip("/"), "source_uri": options.source, "seed": seed}
    name = options.preset if options.run is None else options.run
    run = submit(
        service,
        design=design,
        recipe=recipe,
        knobs=knobs,
        site=site,
        arguments=arguments | {"compare_uri": options.compare},
        settings={
            "experiment": options.experiment,
            "name": name,
            "caching": False if options.no_cache else None,
            "service_account": options.service_account,
        },
    )
    _warn_of_tags(recipe, site)
    print(f"Started {name} ({run.run_id}), which writes to {arguments['out_uri']}.\n{service.link(run.run_id)}\n")
    print(f"  python -m pipelines status {run.run_id}\n  python -m pipelines cancel {run.run_id}")
    return errors.EXIT_DONE


def _status(options: argparse.Namespace, problems: list[str]) -> int:
    most = _number(int, "--most", options.most, problems)
    if most < 1:
        problems.append(f"--most={options.most} is below 1: give how many runs to list.")
    if problems:
        raise BadInput(*problems)
    from pipelines import status
    from pipelines.service import Service

    service, now = Service(options.host, options.namespace), datetime.datetime.now(datetime.UTC)
    if options.run is None:
        print(status.runs_table(service.runs(most), now))
        return errors.EXIT_DONE
    run = service.find(options.run)
    print(status.run_text(run, service.link(run.run_id), now))
    return status.exit_code(run.state)


def _cancel(options: argparse.Namespace, problems: list[str]) -> int:
    timeout_s = _number(float, "--timeout", options.timeout, problems)
    if timeout_s <= 0:
        problems.append(f"--timeout={options.timeout} is not above 0: give seconds.")
    if problems:
        raise BadInput(*problems)
    from pipelines.cancel import cancel
    from pipelines.kube import Kube
    from pipelines.service import Service

    cluster = Kube(options.namespace).cluster
    return cancel(Service(options.host, options.namespace), cluster, options.run, timeout_s, sys.stdout)


def _doctor(options: argparse.Namespace, problems: list[str]) -> int:
    site = _site(options, problems)
    if options.preflight and options.out.partition("://")[0] not in SHARED:
        problems.append("--preflight writes what it measured: give --out=s3://bucket/folder.")
    if options.preset not in PRESETS:
        problems.append(unknown_name(f"--preset={options.preset}", [f"--preset={known}" for known in PRESETS]))
    _address("--out", options.out, problems)
    if problems:
        raise BadInput(*problems)
    recipe = preset(options.preset)
    from pipelines import doctor
    from pipelines.kube import Kube
    from pipelines.service import Service

    namespace, account = options.namespace, options.service_account
    user = f"system:serviceaccount:{namespace}:{account}" if account else ""
    patient = doctor.Patient(
        service=lambda: Service(options.host, namespace),
        kube=lambda: Kube(namespace, user),
        out=options.out,
        mlflow=options.mlflow or os.environ.get("MLFLOW_TRACKING_URI", ""),
        site=site,
        hardware=recipe.hardware,
        needed=_needed(recipe),
        preflight=_launch if options.preflight else None,
    )
    num_wrong = 0
    for name, finding in doctor.examine(patient):
        num_wrong += finding.outcome == doctor.WRONG
        print(f"{finding.outcome:5}{name:11}{finding.said}", flush=True)
        if finding.remedy:
            print(
                f"{'':16}{'To mend it' if finding.outcome == doctor.WRONG else 'To look'}: {finding.remedy}", flush=True
            )
    print(f"\n{num_wrong or 'No'} problem{'' if num_wrong == 1 else 's'} found.")
    return errors.EXIT_FAILED if num_wrong else errors.EXIT_DONE


def _launch(command: Sequence[str]) -> int:
    """Runs the launcher as a pipeline's step would, under a run of its own, and returns its exit code."""
    run = f"doctor-{secrets.token_hex(4)}"
    return subprocess.call([sys.executable, *command[1:]], env=os.environ | {RUN: run})


def _site(options: argparse.Namespace, problems: list[str]) -> Site:
    """Returns the images and node pools that the options name."""
    pools: dict[str, Pool] = {}
    try:
        pools = read_pools(Path(options.pools).read_text()) if options.pools else {}
    except BadInput as error:
        problems += [f"--pools={options.pools}: {problem}" for problem in error.problems]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        problems.append(f"--pools={options.pools} can't be read ({reason}): give the file of node pools.")
    return Site(images=_images(options, problems), pools=pools, scheduler=KUBERNETES)


def _images(options: argparse.Namespace, problems: list[str]) -> dict[str, str]:
    try:
        return read_images(options.image)
    except BadInput as error:
        problems += error.problems
        return {}


def _needed(recipe: Preset) -> list[str]:
    return [*NEEDED, *(["launcher"] if any(asked.is_gang for asked in recipe.hardware.values()) else [])]


def _warn_of_tags(recipe: Preset, site: Site) -> None:
    if tags := images_by_tag(site, _needed(recipe)):
        print(
            f"Warning: {', '.join(tags)}: not named by digest, so their tasks are never taken from KFP's cache.",
            file=sys.stderr,
        )


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
