"""The KFP component of evaluate."""

from kfp import dsl

from components.evaluate.params import Params
from components.runtime.kubeflow import container_component

evaluate = container_component(Params, {"evaluation": dsl.Artifact, "metrics": dsl.Metrics}, dependencies="train")
