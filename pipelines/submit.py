"""Starts a study on a cluster, and refuses to start a second one into the same folder."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.runtime.errors import BadInput
from pipelines.design import Design
from pipelines.knobs import Knobs
from pipelines.package import write_package
from pipelines.placement import Site
from pipelines.presets import Preset
from pipelines.service import ACTIVE, Service, arguments_of

MOST_RUNS = 500  # that are looked through for one that writes to the same folder


def submit(
    service: Service,
    *,
    design: Design,
    recipe: Preset,
    knobs: Knobs,
    site: Site,
    arguments: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Any:
    """Returns the run that was started.

    Args:
        service: Kubeflow Pipelines.
        design: What is compared.
        recipe: The preset.
        knobs: Its numbers, with those of the command line.
        site: Images and node pools.
        arguments: The pipeline's inputs, `out_uri` among them.
        settings: Experiment, name, service account and caching of the run, as `Service.submit` takes them.

    Raises:
        BadInput: Another run writes to the same folder, or the package can't be made.
    """
    out = arguments["out_uri"].rstrip("/")
    for run in service.runs(MOST_RUNS):
        if run.state in ACTIVE and str(arguments_of(run).get("out_uri", "")).rstrip("/") == out:
            raise BadInput(
                f"--out={out} is being written by the run {run.display_name} ({run.run_id}): wait for it, end it with "
                f"`python -m pipelines cancel {run.run_id}`, or choose another --out."
            )
    with TemporaryDirectory() as folder:
        package = Path(folder) / "study.yaml"
        write_package(package, design, recipe, knobs, site)
        return service.submit(package, arguments=arguments, **settings)
