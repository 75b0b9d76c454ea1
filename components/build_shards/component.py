"""The KFP component of build_shards."""

from kfp import dsl

from components.build_shards.params import Params
from components.runtime.kubeflow import container_component

build_shards = container_component(Params, {"shards": dsl.Dataset, "data_card": dsl.HTML}, dependencies="cpu")
