"""TorchX's description of a gang: one role, a replica to a node, each of them a torchrun around the stage."""

from collections.abc import Sequence

from torchx.specs import AppDef, Resource, Role

from components.launch.gang import Gang
from components.runtime import metrics

ROLE = "node"
PORT = 29500
WAIT_FOR_PEERS_S = 1800  # nodes that pull an image of 10 GB for the first time start minutes apart
KILL_MARGIN_S = 30  # between torchrun's kill of its workers and the kill of torchrun
SCRATCH = "/tmp"
WRITABLE = {  # the root file system is read-only, and the user has no entry in /etc/passwd
    "HOME": SCRATCH,
    "HF_HOME": f"{SCRATCH}/huggingface",
    "MPLCONFIGDIR": f"{SCRATCH}/matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": f"{SCRATCH}/inductor",
    "TRITON_CACHE_DIR": f"{SCRATCH}/triton",
    "USER": "ceteris",
    "XDG_CACHE_HOME": f"{SCRATCH}/cache",
}


def app_def(gang: Gang, meeting: Sequence[str], argv: Sequence[str], python: str = "python") -> AppDef:
    """Returns the gang as TorchX knows one.

    Args:
        gang: The gang.
        meeting: torchrun's words for where the nodes meet.
        argv: The stage's command line, written so that what starts it leaves it as it is.
        python: The interpreter.
    """
    pool = gang.pool
    torchrun = [
        f"--nnodes={gang.num_nodes}",
        f"--nproc-per-node={pool.num_processes}",
        *meeting,
        "--max-restarts=0",
    ]
    role = Role(
        name=ROLE,
        image=gang.image,
        num_replicas=gang.num_nodes,
        min_replicas=gang.num_nodes,
        entrypoint=python,
        args=["-m", "torch.distributed.run", *torchrun, "-m", f"components.{gang.stage}", *argv],
        port_map={"c10d": PORT} | {f"metrics-{n}": metrics.PORT + n for n in range(pool.num_processes)},
        resource=Resource(cpu=pool.cpus, gpu=pool.gpus, memMB=pool.memory_gib << 10),
    )
    return AppDef(name=gang.name, roles=[role])


def pod_name(gang: Gang, node: int | str) -> str:
    """Returns the name of a node's pod or container, which is its host name too."""
    return f"{gang.name}-{ROLE}-{node}-0"


def identity(gang: Gang) -> dict[str, str]:
    """Returns the variables by which every rank knows what it is a part of."""
    return {
        "CETERIS_IMAGE": gang.image,
        "CETERIS_RUN": gang.run_id,
        "CETERIS_TASK": gang.task,
        "PYTHONUNBUFFERED": "1",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(gang.pool.grace_seconds),  # torchrun kills its workers after 30 s
    }


def environment(gang: Gang) -> dict[str, str]:
    """Returns the variables of every container; the pool's own ones have the last word on caches and NCCL."""
    counted = {
        metrics.GPUS_VARIABLE: str(gang.pool.gpus),
        metrics.PORT_VARIABLE: str(metrics.PORT),  # the first rank's; each adds its number on the node
    }
    return WRITABLE | dict(gang.pool.env) | counted | identity(gang)
