"""A gang as a Volcano job: TorchX describes it, its Kubernetes scheduler's dry run writes it, we add what it lacks.

Nothing here talks to a cluster, and the same gang gives the same bytes. Checked against TorchX's nightly of 2026-10-26
and Volcano 1.15's admission webhook (pkg/webhooks/admission/jobs) and job controller (pkg/controllers/job).
"""

from typing import Any

from torchx.schedulers.kubernetes_scheduler import KubernetesScheduler, Opts, sanitize_for_serialization
from torchx.specs import AppDef, macros

from components.launch.app import KILL_MARGIN_S, PORT, SCRATCH, WAIT_FOR_PEERS_S, app_def, environment, pod_name
from components.launch.gang import Gang, Pool

SURVIVORS_LIVE = "2m0s"  # after a pod failed: long enough to read the others' logs, short enough for their GPUs
LOGS_GIB = 1  # what the kubelet keeps of a container's log counts as ephemeral storage
RANK0_HOST = "TORCHX_RANK0_HOST"
WRITTEN_BY_TORCHX = ("torchx.pytorch.org/app-name", "torchx.pytorch.org/replica-id", "torchx.pytorch.org/role-name")
NO_SIDECAR = "sidecar.istio.io/inject"  # newer Istio reads the label, older the annotation, which TorchX sets


def volcano_job(gang: Gang) -> dict[str, Any]:
    """Returns the gang as a `batch.volcano.sh/v1alpha1` Job, without a namespace."""
    pool = gang.pool
    options = Opts(
        queue=pool.queue,
        priority_class=pool.priority_class or None,
        service_account=pool.service_account or None,
        validate_spec=False,
    )
    dry_run = KubernetesScheduler("ceteris").submit_dryrun(pods_app(gang), options)
    job: Any = sanitize_for_serialization(dry_run.request.resource)
    job["metadata"] = {"name": gang.name, "labels": gang.labels()} | _owners(gang)
    job["spec"] |= {
        "minAvailable": gang.num_nodes,
        "maxRetry": 1,  # no policy restarts; the webhook turns 0 into 3, and only the last try keeps its failed pods
        "policies": [
            # else Volcano puts a lone new pod into a gang that can't take it in, or runs a finished one again
            {"event": "PodEvicted", "action": "TerminateJob"},
            {"event": "PodFailed", "action": "TerminateJob", "timeout": SURVIVORS_LIVE},
        ],
        "ttlSecondsAfterFinished": pool.ttl_seconds,
    }
    if pool.network_topology:
        job["spec"]["networkTopology"] = dict(pool.network_topology)
    for node, task in enumerate(job["spec"]["tasks"]):
        task["maxRetry"] = 1
        _complete(task["template"], gang, node)
    return job


def pods_app(gang: Gang) -> AppDef:
    """Returns TorchX's description of the gang as pods start it."""
    local = f"{pod_name(gang, macros.replica_id)}.{gang.name}" if gang.num_nodes > 1 else "localhost"
    meeting = [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=$$({RANK0_HOST}):{PORT}",  # the kubelet puts the variable's value in
        f"--rdzv-id={gang.name}",
        f"--rdzv-conf=join_timeout={WAIT_FOR_PEERS_S},read_timeout={WAIT_FOR_PEERS_S}",
        f"--local-addr={local}",  # ranks follow these names' order, in which the first pod is the first
    ]
    return app_def(gang, meeting, [_literal(word) for word in gang.argv])


def _literal(text: str) -> str:
    """Returns `text` so that neither the kubelet (`$$` is `$`) nor TorchX's macros (the same again) change it."""
    return text.replace("$", "$$$$")


def _owners(gang: Gang) -> dict[str, Any]:
    if gang.owner is None:
        return {}
    owner = {"apiVersion": gang.owner.api_version, "kind": gang.owner.kind}
    return {"ownerReferences": [owner | {"name": gang.owner.name, "uid": gang.owner.uid}]}


def _complete(template: dict[str, Any], gang: Gang, node: int) -> None:
    """Adds to one pod what TorchX's dry run has no words for."""
    pool, spec = gang.pool, template["spec"]
    (container,) = spec["containers"]
    by_torchx = template["metadata"]["labels"]
    labels = {key: by_torchx[key] for key in WRITTEN_BY_TORCHX} | gang.labels() | {NO_SIDECAR: "false"}
    template["metadata"]["labels"] = labels
    container |= {
        "env": _variables(gang, node),
        "resources": _resources(pool),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    container["volumeMounts"].append({"name": "scratch", "mountPath": SCRATCH})
    (shm,) = spec["volumes"]
    shm["emptyDir"]["sizeLimit"] = f"{pool.shm_gib}Gi"
    spec["volumes"].append({"name": "scratch", "emptyDir": {"sizeLimit": f"{pool.scratch_gib}Gi"}})
    sources = [{"secretRef": {"name": name}} for name in pool.env_from_secrets]
    sources += [{"configMapRef": {"name": name}} for name in pool.env_from_config_maps]
    if sources:
        container["envFrom"] = sources
    spec |= {
        "automountServiceAccountToken": False,  # nothing in a gang talks to the API server
        "enableServiceLinks": False,  # a Service called mlflow would set MLFLOW_PORT
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pool.user_id,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": pool.grace_seconds + KILL_MARGIN_S,
    }
    where = {
        "affinity": dict(pool.affinity),
        "imagePullSecrets": [{"name": name} for name in pool.image_pull_secrets],
        "nodeSelector": dict(pool.node_selector),
        "tolerations": [dict(each) for each in pool.tolerations],
    }
    for key, value in where.items():
        spec.pop(key, None)
        if value:
            spec[key] = value


def _variables(gang: Gang, node: int) -> list[dict[str, str]]:
    """Returns a pod's variables, sorted; the step's MLflow run belongs to rank 0, which is on the first node."""
    values = environment(gang) | (dict(gang.tracking) if node == 0 else {})
    # the first pod serves the meeting point, and needn't wait until its own name is known to the cluster's DNS
    values[RANK0_HOST] = f"{pod_name(gang, 0)}.{gang.name}" if node else "localhost"
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in sorted(values.items())]


def _resources(pool: Pool) -> dict[str, Any]:
    """Returns requests and limits, which are the same; /dev/shm is memory, /tmp and logs are ephemeral storage."""
    amounts = {
        "cpu": str(pool.cpus),
        "memory": f"{pool.memory_gib + pool.shm_gib}Gi",
        "ephemeral-storage": f"{pool.scratch_gib + LOGS_GIB}Gi",
    }
    if pool.gpus:
        amounts["nvidia.com/gpu"] = str(pool.gpus)
    amounts |= {name: str(amount) for name, amount in pool.devices.items()}
    return {"requests": dict(amounts), "limits": dict(amounts)}
