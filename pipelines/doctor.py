"""What a study needs of a cluster, looked at one after the other, and everything reported."""

import dataclasses
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import kfp

from components.launch.gang import Pool
from components.runtime.errors import BadInput, StageFailure
from components.runtime.storage import open_folder
from pipelines.kube import Kube
from pipelines.patience import CALL_TIMEOUT_S, reason_of
from pipelines.placement import Hardware, Site, default_image, gang_argument, is_by_digest
from pipelines.service import Service

BATCH, SCHEDULING = "batch.volcano.sh", "scheduling.volcano.sh"
VOLCANO = (
    (f"/apis/{BATCH}/v1alpha1", "jobs", "Job"),
    (f"/apis/{SCHEDULING}/v1beta1", "queues", "Queue"),
    (f"/apis/{SCHEDULING}/v1beta1", "podgroups", "PodGroup"),
)
RIGHTS = (  # what components.launch does in the namespace of the runs
    (BATCH, "jobs", ("create", "get", "list", "watch", "delete")),
    (SCHEDULING, "podgroups", ("get",)),
    ("", "pods", ("get", "list")),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
    ("", "resourcequotas", ("list",)),
    ("", "secrets", ("get",)),
    ("", "configmaps", ("get",)),
    ("argoproj.io", "workflows", ("get",)),
)
OK, WRONG, SKIPPED = "ok", "FAIL", "skip"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found: its outcome, a sentence, and where it failed what helps."""

    outcome: str
    said: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patient:
    """What is looked at.

    Attributes:
        service: Connects to Kubeflow Pipelines.
        kube: Connects to Kubernetes.
        out: Folder that studies write below; empty: none is looked at.
        mlflow: Address of MLflow; empty: none is looked at.
        site: Images and node pools.
        hardware: What each stage asks for.
        needed: Dependency sets whose images are needed.
        preflight: Runs the launcher's command line and returns its exit code; None: the command is only shown.
    """

    service: Callable[[], Service]
    kube: Callable[[], Kube]
    out: str
    mlflow: str
    site: Site
    hardware: Mapping[str, Hardware]
    needed: Sequence[str]
    preflight: Callable[[Sequence[str]], int] | None


def examine(patient: Patient) -> Iterator[tuple[str, Finding]]:
    """Yields every check's name and findings, in an order in which each is helped by those before it."""
    checks: tuple[tuple[str, Callable[[Patient], Iterator[Finding]]], ...] = (
        ("pipelines", _pipelines),
        ("volcano", _volcano),
        ("rights", _rights),
        ("queue", _queues),
        ("quota", _quota),
        ("bucket", _bucket),
        ("mlflow", _mlflow),
        ("images", _images),
        ("preflight", _preflight),
    )
    for name, check in checks:
        try:
            for finding in check(patient):
                yield name, finding
        except (BadInput, StageFailure) as error:
            said, _, remedy = " ".join(str(error).split()).rpartition(": ")
            yield name, Finding(WRONG, f"{said}.", remedy)


def _pipelines(patient: Patient) -> Iterator[Finding]:
    service = patient.service()
    version = str(service.health().get("tag_name", ""))
    service.runs(1)
    yield Finding(OK, f"Kubeflow Pipelines answers at {service.address}.")
    theirs, ours = _minor(version), _minor(kfp.__version__)
    if not theirs:
        yield Finding(SKIPPED, f"The backend does not tell its version; the SDK is {kfp.__version__}.")
    elif theirs[0] != ours[0] or theirs < ours:
        yield Finding(
            WRONG,
            f"The backend is {version} and the SDK {kfp.__version__}, whose packages it may not understand.",
            f"upgrade the backend to {kfp.__version__}, or compile with kfp {theirs[0]}.{theirs[1]}.",
        )
    else:
        yield Finding(OK, f"The backend is {version}, the SDK {kfp.__version__}.")


def _minor(version: str) -> tuple[int, ...]:
    parts = version.lstrip("v").split(".")[:2]
    return tuple(int(part) for part in parts) if len(parts) == 2 and all(part.isdigit() for part in parts) else ()


def _volcano(patient: Patient) -> Iterator[Finding]:
    kube = patient.kube()
    missing = []
    for path, plural, kind in VOLCANO:
        found = kube.get(path) or {}
        if plural not in [resource["name"] for resource in found.get("resources", [])]:
            missing.append(f"{kind} ({plural}.{path.split('/')[2]})")
    if missing:
        remedy = "install Volcano 1.10 or newer: https://volcano.sh/en/docs/installation."
        yield Finding(WRONG, f"The cluster does not know {', '.join(missing)}.", remedy)
    else:
        yield Finding(OK, "The cluster knows Volcano's Job, Queue and PodGroup.")


def _rights(patient: Patient) -> Iterator[Finding]:
    kube = patient.kube()
    missing: dict[tuple[str, str], list[str]] = {}
    for group, resource, verbs in RIGHTS:
        if lacking := [verb for verb in verbs if not kube.may(verb, group, resource)]:
            missing[group, resource] = lacking
    if not missing:
        yield Finding(OK, f"The launcher's rights in the namespace {kube.namespace} are there.")
        return
    words = [
        f"{', '.join(verbs)} {resource}{f'.{group}' if group else ''}" for (group, resource), verbs in missing.items()
    ]
    rules = [{"apiGroups": [group], "resources": [name], "verbs": verbs} for (group, name), verbs in missing.items()]
    yield Finding(
        WRONG,
        f"In the namespace {kube.namespace} these rights are missing: {'; '.join(words)}.",
        f"bind a Role to the account of the pipelines' steps with rules: {json.dumps(rules)}",
    )


def _queues(patient: Patient) -> Iterator[Finding]:
    kube = patient.kube()
    names = sorted({pool.queue for pool, _ in _gangs(patient)} or {"default"})
    for name in names:
        queue = kube.get(f"/apis/{SCHEDULING}/v1beta1/queues/{name}")
        state = ((queue or {}).get("status") or {}).get("state", "Open")
        if queue is None:
            yield Finding(
                WRONG, f"The Volcano queue {name} is not there.", f"create it, or change the pool's queue ({name})."
            )
        elif state != "Open":
            yield Finding(
                WRONG, f"The Volcano queue {name} is {state}.", f"open it: `vcctl queue operate -a open -n {name}`."
            )
        else:
            limits = (queue.get("spec") or {}).get("capability") or {}
            yield from _room(
                patient, f"The Volcano queue {name}", name, limits, (queue["status"] or {}).get("allocated") or {}
            )


def _room(
    patient: Patient, where: str, queue: str, hard: Mapping[str, Any], used: Mapping[str, Any]
) -> Iterator[Finding]:
    """Yields whether the gangs of a queue (empty: of any) fit below a limit, now and at all."""
    too_large, busy = [], []
    for pool, nodes in _gangs(patient):
        if queue and pool.queue != queue:
            continue
        for resource, wanted in _wanted(pool, nodes).items():
            limit = next((hard[key] for key in (resource, f"requests.{resource}") if key in hard), None)
            taken = next((used[key] for key in (resource, f"requests.{resource}") if key in used), "0")
            if limit is not None and wanted > _amount(limit):
                too_large.append(f"{_shown(wanted, resource)} {resource} of {limit}")
            elif limit is not None and wanted > _amount(limit) - _amount(taken):
                busy.append(f"{_shown(wanted, resource)} {resource}, of {limit} are {taken} taken")
    if too_large:
        remedy = "raise the limit, or choose a preset or a pool that asks for less."
        yield Finding(
            WRONG, f"{where} never has room for a gang that wants {'; '.join(dict.fromkeys(too_large))}.", remedy
        )
    elif busy:
        yield Finding(
            OK, f"{where} is full at present, so that gangs wait: they want {'; '.join(dict.fromkeys(busy))}."
        )
    else:
        yield Finding(OK, f"{where} has room.")


def _quota(patient: Patient) -> Iterator[Finding]:
    kube = patient.kube()
    found = (kube.get(f"/api/v1/namespaces/{kube.namespace}/resourcequotas") or {}).get("items", [])
    if not found:
        yield Finding(OK, f"The namespace {kube.namespace} has no quota.")
    for quota in found:
        status = quota.get("status") or {}
        where = f"The quota {quota['metadata']['name']} of the namespace {kube.namespace}"
        yield from _room(patient, where, "", status.get("hard") or {}, status.get("used") or {})


def _gangs(patient: Patient) -> list[tuple[Pool, int]]:
    """Returns the pools that gangs run on, each with the most nodes that one asks for."""
    nodes: dict[str, int] = {}
    for asked in patient.hardware.values():
        if asked.is_gang and asked.pool in (patient.site.pools or {}):
            nodes[asked.pool] = max(nodes.get(asked.pool, 0), asked.num_nodes)
    return [((patient.site.pools or {})[name], number) for name, number in nodes.items()]


def _wanted(pool: Pool, nodes: int) -> dict[str, float]:
    one = {
        "cpu": float(pool.cpus),
        "memory": (pool.memory_gib + pool.shm_gib) * 2.0**30,
        "nvidia.com/gpu": float(pool.gpus),
    }
    return {resource: amount * nodes for resource, amount in one.items() if amount}


def _amount(quantity: Any) -> float:
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(str(quantity)))


def _shown(amount: float, resource: str) -> str:
    return f"{amount / 2**30:g}Gi" if resource == "memory" else f"{amount:g}"


def _bucket(patient: Patient) -> Iterator[Finding]:
    if not patient.out:
        yield Finding(SKIPPED, "No folder was looked at.", "give --out=s3://bucket/folder.")
        return
    folder = open_folder(patient.out).folder(f"doctor-{secrets.token_hex(8)}")
    try:
        folder.write("probe", b"Ceteris")
        if folder.read("probe") != b"Ceteris" or folder.names() != ["probe"]:
            yield Finding(WRONG, f"{folder.uri} gives back something else than was written.", "use another store.")
        if folder.write_once("once", b"first") and not folder.write_once("once", b"second"):
            yield Finding(OK, f"{patient.out} can be written, read and listed, and keeps conditional writes apart.")
        else:
            yield Finding(
                WRONG,
                f"{patient.out} ignores conditional writes (If-None-Match), so that two arms may overwrite each other.",
                "use a store that has them, such as AWS S3, Ceph or MinIO in a version of 2025.",
            )
    finally:
        folder.clear()


def _mlflow(patient: Patient) -> Iterator[Finding]:
    if not patient.mlflow:
        yield Finding(SKIPPED, "No MLflow was looked at.", "give --mlflow=http://..., or set MLFLOW_TRACKING_URI.")
        return
    address = f"{patient.mlflow.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(address, timeout=CALL_TIMEOUT_S) as answer:
            text = answer.read(100).decode(errors="replace")
    except (urllib.error.URLError, OSError, ValueError) as error:
        said = f"MLflow does not answer at {address} ({reason_of(error)}); studies go on without it."
        yield Finding(WRONG, said, "correct the address, or look at its deployment and at `--allowed-hosts`.")
        return
    if text.strip() != "OK":
        yield Finding(WRONG, f"What answers at {address} is not MLflow ({text[:40]!r}).", "correct the address.")
    else:
        yield Finding(OK, f"MLflow answers at {patient.mlflow}.")


def _images(patient: Patient) -> Iterator[Finding]:
    images = {name: patient.site.images.get(name, default_image(name)) for name in patient.needed}
    wrong = [f"{name}={image}" for name, image in images.items() if not is_by_digest(image)]
    if wrong:
        yield Finding(
            WRONG,
            f"These images are not named by digest, so that nodes may run different ones and no task is cached: "
            f"{', '.join(wrong)}.",
            "give --image SET=repository@sha256:..., as `docker buildx imagetools inspect IMAGE` shows it.",
        )
    else:
        yield Finding(OK, f"All {len(images)} images are named by digest.")


def preflight_command(patient: Patient) -> list[str]:
    """Returns the launcher's command line for a gang that reduces over all ranks and looks at /dev/shm."""
    asked = max((h for h in patient.hardware.values() if h.is_gang), key=lambda h: h.num_nodes, default=None)
    if asked is None:
        return []
    pool = (patient.site.pools or {}).get(asked.pool)
    out = f"{patient.out.rstrip('/')}/preflight-{secrets.token_hex(4)}"
    image = patient.site.images.get("train", default_image("train"))
    shape = gang_argument(asked, patient.site, image, "")
    shm = [f"--min_shm_gib={pool.shm_gib}"] if pool is not None else []
    return ["python", "-m", "components.launch", "--stage=preflight", f"--out_uri={out}", *shm, shape]


def _preflight(patient: Patient) -> Iterator[Finding]:
    command = preflight_command(patient)
    if not command:
        yield Finding(SKIPPED, "No stage of this preset works over several processes.")
        return
    if not patient.out:
        yield Finding(SKIPPED, "No gang was tried.", "give --out=s3://bucket/folder, where it writes what it measured.")
        return
    shown = " ".join(f"'{word}'" if "{" in word else word for word in command)
    if patient.preflight is None:
        yield Finding(SKIPPED, "No gang was tried.", f"add --preflight, or run: {shown}")
        return
    code = patient.preflight(command)
    if code:
        yield Finding(
            WRONG, f"The gang that tries all-reduce and /dev/shm ended with exit code {code}.", f"run: {shown}"
        )
    else:
        yield Finding(OK, "A gang reduced over all its ranks, and its /dev/shm is large enough.")
