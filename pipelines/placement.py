"""What each stage asks of a cluster, as data, and the one place that writes it into a pipeline."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from kfp import kubernetes

ACCELERATOR = "nvidia.com/gpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """What one task of a stage runs on.

    Attributes:
        num_cpus: CPU cores of one node.
        memory_gib: Memory of one node.
        num_gpus: GPUs of one node.
        num_nodes: Nodes that work together.
    """

    num_cpus: int
    memory_gib: int
    num_gpus: int = 0
    num_nodes: int = 1

    @property
    def is_gang(self) -> bool:
        """Whether several processes work together, which is a job of its own beside the pipeline."""
        return self.num_gpus * self.num_nodes > 1


LAUNCHER = Hardware(num_cpus=1, memory_gib=2)  # the pipeline's step while a gang works elsewhere
CPU = Hardware(num_cpus=2, memory_gib=4)
ONE_GPU = Hardware(num_cpus=12, memory_gib=96, num_gpus=1)

LAPTOP = {
    "build_shards": CPU,
    "pretrain": CPU,
    "extract_features": CPU,
    "evaluate": CPU,
    "analyze_embeddings": CPU,
    "train_vlm": CPU,
    "benchmark_vlm": CPU,
    "report": CPU,
}
ONE_GPU_NODE = LAPTOP | {
    "build_shards": Hardware(num_cpus=16, memory_gib=32),
    "pretrain": ONE_GPU,
    "extract_features": ONE_GPU,
    "evaluate": ONE_GPU,
    "analyze_embeddings": Hardware(num_cpus=4, memory_gib=16),
    "train_vlm": ONE_GPU,
    "benchmark_vlm": ONE_GPU,
}
GPU_CLUSTER = ONE_GPU_NODE | {
    "build_shards": Hardware(num_cpus=32, memory_gib=64),
    "pretrain": Hardware(num_cpus=96, memory_gib=768, num_gpus=8, num_nodes=2),
    "train_vlm": Hardware(num_cpus=96, memory_gib=768, num_gpus=8),
}


def place(task: Any, hardware: Hardware | None, images: Mapping[str, str]) -> Any:
    """Returns the task with its requests for CPU, memory and GPU, and with the image of its dependency set.

    Args:
        task: A KFP pipeline task.
        hardware: What it asks for; None asks for nothing.
        images: Image by dependency set, where it isn't the default one.
    """
    dependencies = task.container_spec.image.partition("/")[2].partition(":")[0]
    if dependencies in images:
        task.set_container_image(images[dependencies])
    if hardware is None:
        return task
    pod = LAUNCHER if hardware.is_gang else hardware
    task.set_cpu_request(str(pod.num_cpus)).set_cpu_limit(str(pod.num_cpus))
    task.set_memory_request(f"{pod.memory_gib}Gi").set_memory_limit(f"{pod.memory_gib}Gi")
    if pod.num_gpus:
        task.set_accelerator_type(ACCELERATOR).set_accelerator_limit(pod.num_gpus)
        # a pod's own 64 MB of /dev/shm are too few for workers that hand over batches
        kubernetes.empty_dir_mount(
            task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=f"{pod.memory_gib // 4}Gi"
        )
    return task
