"""The KFP component of extract_features."""

from kfp import dsl

from components.extract_features.params import Params
from components.runtime.kubeflow import container_component

extract_features = container_component(Params, {"features": dsl.Dataset}, dependencies="train")
