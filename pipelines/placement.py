"""What each stage asks of a cluster, as data, and the one place that writes it into a pipeline."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kfp import dsl, kubernetes

from components.launch.gang import ARM, STAGE, Pool, label_value
from components.launch.order import POD, RUN, WORKFLOW, Shape
from components.runtime import metrics
from components.runtime.errors import BadInput
from components.runtime.kubeflow import IMAGE
from components.runtime.params import unknown_name

ACCELERATOR = "nvidia.com/gpu"
DEPENDENCIES = ("cpu", "launcher", "train", "vlm")
BY_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
FROM_SECRETS = (  # what a stage may read from a Secret or ConfigMap; KFP wants each by name
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "HF_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
FROM_CONFIG_MAPS = ("AWS_ENDPOINT_URL", "AWS_REGION", "MLFLOW_TRACKING_URI", "HF_ENDPOINT", "HF_HOME")
RETRIES = 4  # with the waits below over half an hour, which is a node that is replaced
RETRY_WAIT_S, RETRY_FACTOR, LONGEST_WAIT_S = 60, 3.0, 1200
WORKFLOW_TTL_S = 7 * 24 * 3600  # pods and their logs; the run itself stays in KFP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """What one task of a stage runs on.

    Attributes:
        num_cpus: CPU cores of one node.
        memory_gib: Memory of one node.
        num_gpus: GPUs of one node.
        num_nodes: Nodes that work together.
        pool: The node pool, where the cluster's file has one of that name.
    """

    num_cpus: int
    memory_gib: int
    num_gpus: int = 0
    num_nodes: int = 1
    pool: str = "cpu"

    @property
    def is_gang(self) -> bool:
        """Whether several processes work together, which is a job of its own beside the pipeline."""
        return max(1, self.num_gpus) * self.num_nodes > 1


LAUNCHER = Hardware(num_cpus=1, memory_gib=2)  # the pipeline's step while a gang works elsewhere
CPU = Hardware(num_cpus=2, memory_gib=4)
ONE_GPU = Hardware(num_cpus=12, memory_gib=96, num_gpus=1, pool="gpu")

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
    "pretrain": Hardware(num_cpus=96, memory_gib=768, num_gpus=8, num_nodes=2, pool="gang"),
    "train_vlm": Hardware(num_cpus=96, memory_gib=768, num_gpus=8, pool="gang"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """Where a package will run.

    Attributes:
        images: Image by dependency set, where it isn't the default one.
        pools: The cluster's node pools by name; None: this machine, where a stage is tried once.
        scheduler: Where gangs run, one of the launcher's; empty: nowhere, a stage is one process.
        folders: On this machine: what a gang's containers may write to.
    """

    images: Mapping[str, str] = dataclasses.field(default_factory=dict)
    pools: Mapping[str, Pool] | None = None
    scheduler: str = ""
    folders: Sequence[str] = ()

    def config(self) -> dsl.PipelineConfig:
        """Returns how long the cluster keeps what a finished run leaves."""
        return dsl.PipelineConfig(ttl_seconds_after_finished=None if self.pools is None else WORKFLOW_TTL_S)

    def problems(self, hardware: Mapping[str, Hardware]) -> list[str]:
        """Returns a sentence for each stage that asks for more than its node pool gives."""
        found: dict[str, None] = {}
        for stage, asked in hardware.items():
            pool = (self.pools or {}).get(asked.pool)
            if asked.is_gang and self.pools and pool is None:
                names = [f"pools.{name}" for name in self.pools]
                found[f"{stage} needs the node pool {asked.pool}: " + unknown_name(f"pools.{asked.pool}", names)] = None
            elif pool is not None and asked.num_gpus and pool.gpus < (1 if asked.is_gang else asked.num_gpus):
                found[
                    f"{stage} needs GPUs and the node pool {asked.pool} has {pool.gpus} a node: give "
                    f"pools.{asked.pool} its gpus, or choose another preset."
                ] = None
        return list(found)


def default_image(dependencies: str) -> str:
    """Returns the image of a dependency set where none is named."""
    return IMAGE.format(dependencies=dependencies)


def read_images(words: list[str]) -> dict[str, str]:
    """Returns images by dependency set from words such as `train=registry/train@sha256:...`.

    Raises:
        BadInput: A sentence for each unknown set and each set without an image.
    """
    images = dict(word.partition("=")[::2] for word in words)
    known = [f"--image {name}" for name in DEPENDENCIES]
    problems = [unknown_name(f"--image {name}", known) for name in images if name not in DEPENDENCIES]
    problems += [f"--image {n} is empty: write --image {n}=repository@sha256:..." for n, i in images.items() if not i]
    if problems:
        raise BadInput(*problems)
    return images


def place(task: Any, stage: str, variant: str, hardware: Hardware | None, site: Site) -> Any:
    """Returns the task with the image, the requests, the nodes and the retries that it needs.

    On a cluster a gang stage becomes its launcher: the same arguments behind `--stage`, and the gang's shape.

    Args:
        task: A KFP pipeline task.
        stage: Its stage's folder name.
        variant: What tells it from the stage's other tasks.
        hardware: What it asks for; None asks for nothing.
        site: Where it will run.
    """
    dependencies = task.container_spec.image.partition("/")[2].partition(":")[0]
    image = site.images.get(dependencies, task.container_spec.image)
    task.set_container_image(image)
    if site.pools is not None:
        wait, longest = f"{RETRY_WAIT_S}s", f"{LONGEST_WAIT_S}s"
        task.set_retry(RETRIES, backoff_duration=wait, backoff_factor=RETRY_FACTOR, backoff_max_duration=longest)
        _watch(task, stage, variant)
    if hardware is None:
        return task
    launched = hardware.is_gang and bool(site.scheduler)
    if launched:
        _launch(task, stage, variant, image, hardware, site)
    pod = LAUNCHER if hardware.is_gang else hardware
    task.set_cpu_request(str(pod.num_cpus)).set_cpu_limit(str(pod.num_cpus))
    task.set_memory_request(f"{pod.memory_gib}Gi").set_memory_limit(f"{pod.memory_gib}Gi")
    if pod.num_gpus:
        task.set_accelerator_type(ACCELERATOR).set_accelerator_limit(pod.num_gpus)
        task.set_env_variable(metrics.GPUS_VARIABLE, str(pod.num_gpus))
        # a pod's own 64 MB of /dev/shm are too few for workers that hand over batches
        kubernetes.empty_dir_mount(
            task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=f"{pod.memory_gib // 4}Gi"
        )
    pool = (site.pools or {}).get(pod.pool)
    if pool is not None:
        _stand_on(task, pool)
    return task


def is_by_digest(image: str) -> bool:
    """Returns whether the image is named by its content, so that the name never stands for another one."""
    return BY_DIGEST.fullmatch(image) is not None


def images_by_tag(site: Site, needed: Sequence[str]) -> list[str]:
    """Returns which of the dependency sets' images are not named by digest, so that their tasks are never cached."""
    images = {name: site.images.get(name, default_image(name)) for name in needed}
    return [f"{name}={image}" for name, image in images.items() if not is_by_digest(image)]


def gang_argument(hardware: Hardware, site: Site, image: str, arm: str) -> str:
    """Returns the launcher's `--gang`: nodes, pool, image and what tells the task from the stage's others.

    Where the site has no pool of that name, the gang's nodes are any that have what the hardware asks for.
    """
    cpus, memory, gpus = hardware.num_cpus, hardware.memory_gib, hardware.num_gpus
    pool = (site.pools or {}).get(hardware.pool) or Pool(name=hardware.pool, cpus=cpus, memory_gib=memory, gpus=gpus)
    return Shape(
        arm=arm,
        image=image,
        num_nodes=hardware.num_nodes,
        pool=pool,
        scheduler=site.scheduler,
        folders=site.folders,
    ).argument()


def _launch(task: Any, stage: str, variant: str, image: str, hardware: Hardware, site: Site) -> None:
    """Turns a stage's task into the step that launches it as a gang."""
    argument = gang_argument(hardware, site, image, variant)
    spec = task.container_spec
    spec.command = ["python", "-m", "components.launch"]
    spec.args = [f"--stage={stage}", *spec.args, argument]
    task.set_container_image(site.images.get("launcher", default_image("launcher")))
    if site.pools is None:
        return
    # KFP resolves the run's id in a task's inputs only, and there it would be a part of the cache's key
    kubernetes.use_field_path_as_env(task, RUN, "metadata.labels['pipeline/runid']")
    kubernetes.use_field_path_as_env(task, WORKFLOW, "metadata.labels['workflows.argoproj.io/workflow']")
    kubernetes.use_field_path_as_env(task, POD, "metadata.name")


def _watch(task: Any, stage: str, variant: str) -> None:
    """Lets Prometheus find a step's pod: KFP declares no ports, so the port is a convention, and labels select it."""
    task.set_env_variable(metrics.PORT_VARIABLE, str(metrics.PORT))
    labels = {"app.kubernetes.io/part-of": "ceteris", STAGE: label_value(stage), ARM: label_value(variant)}
    for key, value in labels.items():
        if value:
            kubernetes.add_pod_label(task, key, value)


def _stand_on(task: Any, pool: Pool) -> None:
    """Sends a step to the nodes of a pool, and gives it the pool's environment."""
    for key, value in pool.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for each in pool.tolerations:
        given = {("toleration_seconds" if key == "tolerationSeconds" else key): item for key, item in each.items()}
        kubernetes.add_toleration(task, **given)
    if "nodeAffinity" in pool.affinity:
        kubernetes.add_node_affinity_json(task, pool.affinity["nodeAffinity"])
    if pool.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(pool.image_pull_secrets))
    for name, value in pool.env.items():
        task.set_env_variable(name, value)
    for name in pool.env_from_secrets:
        kubernetes.use_secret_as_env(task, name, {key: key for key in FROM_SECRETS}, optional=True)
    for name in pool.env_from_config_maps:
        kubernetes.use_config_map_as_env(task, name, {key: key for key in FROM_CONFIG_MAPS}, optional=True)
