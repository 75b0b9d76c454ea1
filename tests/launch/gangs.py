"""Gangs and pools as the tests of the launcher use them; `python -m tests.launch.gangs` writes their golden files."""

from pathlib import Path
from typing import Any

import yaml

from components.launch.gang import Gang, Owner, Pool, gang_name, read_pools
from components.launch.volcano import volcano_job

GOLDEN = Path(__file__).parent / "golden"
SHAPES = {"1x1": ("t4", 1), "2x8": ("h100", 2), "4x8-rdma": ("h100-rdma", 4)}

POOLS = """
pools:
  t4:
    cpus: 7
    memoryGib: 24
    gpus: 1
    shmGib: 4
  h100:
    cpus: 96
    memoryGib: 768
    gpus: 8
    shmGib: 64
    scratchGib: 500
    nodeSelector: {cloud.example/pool: h100}
    tolerations:
      - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
    envFromSecrets: [bucket-keys]
    envFromConfigMaps: [bucket-address]
    imagePullSecrets: [registry]
    serviceAccount: trainer
    queue: training
  h100-rdma:
    cpus: 176
    memoryGib: 1536
    gpus: 8
    devices: {rdma/hca_shared_devices_a: 8, hugepages-2Mi: 5120Mi}
    shmGib: 128
    scratchGib: 1000
    graceSeconds: 600
    ttlSeconds: 3600
    nodeSelector: {cloud.example/pool: h100-rdma}
    tolerations:
      - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
      - {key: reserved, operator: Equal, value: training, effect: NoExecute}
    affinity:
      nodeAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms:
            - matchExpressions:
                - {key: cloud.example/healthy, operator: In, values: ["true"]}
    env: {NCCL_IB_HCA: mlx5, NCCL_NET_GDR_LEVEL: PHB, NCCL_SOCKET_IFNAME: eth0}
    envFromSecrets: [bucket-keys]
    priorityClass: training-high
    queue: training
    networkTopology: {mode: hard, highestTierAllowed: 2}
"""
RUN_ID = "0b6f6f2e-4f3c-4f0a-9d5e-2f1f0c9a7b11"
DIGEST = "ab" * 32
ARGV = ("--out_uri=s3://studies/first/pretrain/clip", "--arm=clip", "--shards=s3://studies/first/build_shards/pretrain")
OWNER = Owner(api_version="argoproj.io/v1alpha1", kind="Workflow", name="encoder-study-x7k2p", uid="7d1c2b9e-0000-4000")
TRACKING = {
    "MLFLOW_EXPERIMENT_ID": "4",
    "MLFLOW_RUN_ID": "c0ffee00c0ffee00c0ffee00c0ffee00",
    "MLFLOW_TRACKING_URI": "http://mlflow.ceteris.svc:5000",
}
IMAGE = f"registry.example/train@sha256:{'0' * 64}"


def pool(name: str = "h100") -> Pool:
    """Returns one of the pools above."""
    return read_pools(POOLS)[name]


def gang(pool_name: str = "h100", num_nodes: int = 2, **changed: object) -> Gang:
    """Returns a gang that trains CLIP, with what is changed."""
    values: dict = {
        "stage": "pretrain",
        "argv": ARGV,
        "image": IMAGE,
        "num_nodes": num_nodes,
        "pool": pool(pool_name),
        "run_id": RUN_ID,
        "arm": "clip",
        "name": gang_name(RUN_ID, "pretrain", "clip", DIGEST),
        "owner": OWNER,
        "tracking": TRACKING,
    }
    return Gang(**values | changed)


def job_of(shape: str) -> dict[str, Any]:
    """Returns the Volcano job of one of the shapes."""
    return volcano_job(gang(*SHAPES[shape]))


def as_text(job: dict[str, Any]) -> str:
    """Returns a job as YAML."""
    return yaml.dump(job, Dumper=_WithoutAnchors, width=120)


class _WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


if __name__ == "__main__":
    for shape in SHAPES:
        (GOLDEN / f"{shape}.yaml").write_text(as_text(job_of(shape)))
