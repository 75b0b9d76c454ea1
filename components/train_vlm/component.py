"""The KFP component of train_vlm."""

from kfp import dsl

from components.runtime.kubeflow import container_component
from components.train_vlm.params import Params

train_vlm = container_component(Params, {"vlm": dsl.Model, "metrics": dsl.Metrics}, dependencies="vlm")
