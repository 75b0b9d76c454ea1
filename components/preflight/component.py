"""The KFP component of preflight."""

from kfp import dsl

from components.preflight.params import Params
from components.runtime.kubeflow import container_component

preflight = container_component(Params, {"found": dsl.Artifact, "metrics": dsl.Metrics}, dependencies="train")
