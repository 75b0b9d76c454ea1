"""The KFP component of report, which reads one input per encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

from kfp import dsl

from components.report.params import Params
from components.runtime.kubeflow import container_component


def report(parts: Mapping[str, Sequence[str]]) -> Any:
    """Returns the component for these encoders, by the source that holds them."""
    outputs = {"results": dsl.Artifact, "page": dsl.HTML, "summary": dsl.Markdown}
    return container_component(Params, outputs, parts, dependencies="cpu")
