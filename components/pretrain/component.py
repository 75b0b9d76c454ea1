"""The KFP component of pretrain."""

from kfp import dsl

from components.pretrain.params import Params
from components.runtime.kubeflow import container_component

pretrain = container_component(Params, {"checkpoint": dsl.Model, "metrics": dsl.Metrics}, dependencies="train")
