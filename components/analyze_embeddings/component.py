"""The KFP component of analyze_embeddings, which reads one input per arm."""

from collections.abc import Sequence
from typing import Any

from kfp import dsl

from components.analyze_embeddings.params import Params
from components.runtime.kubeflow import container_component


def analyze_embeddings(arms: Sequence[str]) -> Any:
    """Returns the component for these arms."""
    outputs = {"analysis": dsl.Artifact, "metrics": dsl.Metrics}
    return container_component(Params, outputs, arms, dependencies="train")
