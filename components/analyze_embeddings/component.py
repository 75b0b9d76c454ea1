"""The KFP component of analyze_embeddings, which reads one input per encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

from kfp import dsl

from components.analyze_embeddings.params import Params
from components.runtime.kubeflow import container_component


def analyze_embeddings(parts: Mapping[str, Sequence[str]]) -> Any:
    """Returns the component for these encoders, by the source that holds them."""
    outputs = {"analysis": dsl.Artifact, "metrics": dsl.Metrics}
    return container_component(Params, outputs, parts, dependencies="train")
