"""The KFP component of benchmark_vlm."""

from kfp import dsl

from components.benchmark_vlm.params import Params
from components.runtime.kubeflow import container_component

benchmark_vlm = container_component(Params, {"scores": dsl.Artifact, "metrics": dsl.Metrics}, dependencies="vlm")
