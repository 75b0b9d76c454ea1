"""The KFP component of report, which reads one input per arm."""

from collections.abc import Sequence
from typing import Any

from kfp import dsl

from components.report.params import Params
from components.runtime.kubeflow import container_component


def report(arms: Sequence[str]) -> Any:
    """Returns the component for these arms."""
    outputs = {"results": dsl.Artifact, "page": dsl.HTML, "summary": dsl.Markdown}
    return container_component(Params, outputs, arms, dependencies="cpu")
