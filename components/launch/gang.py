"""A gang: one stage on several whole nodes at once, and the pools of nodes that it may run on."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from components.runtime.errors import BadInput
from components.runtime.params import unknown_name

LONGEST_NAME = 40  # a pod adds "-node-999-999" in Volcano's own check, and may have 63 characters
LONGEST_LABEL = 63
MOST_NODES = 999
RUN, STAGE, ARM, MANAGED = (f"ceteris.io/{key}" for key in ("run", "stage", "arm", "managed"))
TRACKING = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI")
SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|(ACCESS|API|PRIVATE|SECRET)_?KEY)(_|$)", re.I
)
SECRET_VALUE = re.compile(r"://[^/@\s]+@")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DEVICE = re.compile(r"[a-z0-9][-a-z0-9.]*/[A-Za-z0-9][-A-Za-z0-9_.]*")
HUGE_PAGES = re.compile(r"hugepages-\d+[KMG]i")
SIZE = re.compile(r"[1-9]\d*[KMG]i")
TOLERATION = {
    "key": lambda value: isinstance(value, str),
    "operator": lambda value: value in ("Exists", "Equal"),
    "value": lambda value: isinstance(value, str),
    "effect": lambda value: value in ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    "tolerationSeconds": lambda value: type(value) is int,
}
AFFINITIES = ("nodeAffinity", "podAffinity", "podAntiAffinity")


def _field(help: str, expected: str, accepts: Callable[[Any], bool], default: Any = dataclasses.MISSING) -> Any:
    metadata = {"help": help, "expected": expected, "accepts": accepts}
    if isinstance(default, dict | tuple):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _whole(help: str, low: int, default: Any = dataclasses.MISSING) -> Any:
    return _field(help, f"a whole number of at least {low}", lambda v: type(v) is int and v >= low, default)


def _name(help: str, default: str) -> Any:
    return _field(help, "a Kubernetes name", lambda v: v == "" or _is_dns_name(v), default)


def _names(help: str) -> Any:
    return _field(help, "a list of Kubernetes names", lambda v: isinstance(v, list) and all(map(_is_dns_name, v)), ())


def _is_dns_name(value: Any) -> bool:
    return isinstance(value, str) and DNS_NAME.fullmatch(value) is not None


def _are_devices(value: Any) -> bool:
    def is_right(name: Any, amount: Any) -> bool:
        if HUGE_PAGES.fullmatch(str(name)):
            return isinstance(amount, str) and SIZE.fullmatch(amount) is not None
        return DEVICE.fullmatch(str(name)) is not None and type(amount) is int and amount > 0

    return isinstance(value, dict) and all(is_right(name, amount) for name, amount in value.items())


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)


def _are_tolerations(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and all(key in TOLERATION and TOLERATION[key](item) for key, item in each.items())
        for each in value
    )


def _is_affinity(value: Any) -> bool:
    return isinstance(value, dict) and all(k in AFFINITIES and isinstance(v, dict) for k, v in value.items())


def _is_topology(value: Any) -> bool:
    checks: dict[str, Callable[[Any], bool]] = {
        "mode": lambda mode: mode in ("hard", "soft"),
        "highestTierAllowed": lambda tier: type(tier) is int and tier >= 0,
    }
    return isinstance(value, dict) and all(key in checks and checks[key](item) for key, item in value.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """What one pod of a gang gets, which is what a node has to give; how its nodes are found, and how long it may take.

    In the pools' file a field is written in camelCase, as the chart's values are.
    """

    name: str
    cpus: int = _whole("CPU cores of a pod", 1)
    memory_gib: int = _whole("memory of a pod's processes; /dev/shm comes on top", 1)
    gpus: int = _whole("GPUs of a pod, one process each; 0: one process without", 0, 0)
    devices: Mapping[str, int | str] = _field(
        "network devices and huge pages of a pod, by resource name",
        "a mapping of resource names such as rdma/hca to whole numbers, or of hugepages-2Mi to a size such as 5120Mi",
        _are_devices,
        {},
    )
    shm_gib: int = _whole("size of /dev/shm, which counts as memory", 1, 8)
    scratch_gib: int = _whole("size of /tmp, which is all that a pod can write to", 1, 32)
    user_id: int = _whole("the numeric user that the processes run as", 1, 1000)
    grace_seconds: int = _whole("time between the request to stop and the kill, to write a checkpoint", 1, 300)
    ttl_seconds: int = _whole("how long a finished job stays for a look at it", 0, 86_400)
    queue_timeout_seconds: int = _whole("how long a gang waits for its nodes", 1, 24 * 3600)
    run_timeout_seconds: int = _whole("how long all attempts of a gang may run together", 1, 14 * 24 * 3600)
    infrastructure_restarts: int = _whole("new attempts after a node or a pod was lost", 0, 20)
    code_restarts: int = _whole("new attempts after the program failed", 0, 2)
    node_selector: Mapping[str, str] = _field("labels of the nodes", "a mapping of text to text", _are_texts, {})
    tolerations: Sequence[Mapping[str, Any]] = _field(
        "taints of the nodes that are borne", "a list of Kubernetes tolerations", _are_tolerations, ()
    )
    affinity: Mapping[str, Any] = _field(
        "Kubernetes affinity", f"a mapping with the keys {', '.join(AFFINITIES)}", _is_affinity, {}
    )
    env: Mapping[str, str] = _field(
        "environment of every rank, such as NCCL's settings",
        "a mapping of variable names to text (quote numbers and true or false)",
        lambda v: _are_texts(v) and all(ENV_NAME.fullmatch(name) for name in v),
        {},
    )
    env_from_secrets: Sequence[str] = _names("Secrets whose keys become environment variables")
    env_from_config_maps: Sequence[str] = _names("ConfigMaps whose keys become environment variables")
    image_pull_secrets: Sequence[str] = _names("Secrets to pull the image with")
    service_account: str = _name("ServiceAccount of the pods; empty: the namespace's default", "")
    priority_class: str = _name("PriorityClass of the pods; empty: none", "")
    queue: str = _name("Volcano queue", "default")
    network_topology: Mapping[str, Any] = _field(
        "how near to one another the nodes must be",
        "a mapping with the keys mode (hard or soft) and highestTierAllowed (a whole number)",
        _is_topology,
        {},
    )

    @property
    def num_processes(self) -> int:
        """Ranks on one node."""
        return max(1, self.gpus)

    def as_mapping(self) -> dict[str, Any]:
        """Returns the pool as the pools' file has it, without its name; `read_pool` turns it back."""
        values = {key: getattr(self, field.name) for key, field in POOL_KEYS.items()}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


POOL_KEYS = {_camel(field.name): field for field in dataclasses.fields(Pool) if field.name != "name"}


def read_pools(text: str) -> dict[str, Pool]:
    """Returns the pools in a YAML or JSON text, by name: `pools: {<name>: {cpus: 96, memoryGib: 768, ...}}`.

    Raises:
        BadInput: One sentence for every wrong key and value.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"The pools' file is no YAML ({' '.join(str(error).split())}): correct it.") from error
    pools = found.get("pools") if isinstance(found, dict) else None
    if not isinstance(pools, dict) or not pools or set(found) != {"pools"}:
        raise BadInput(f"The pools' file holds {_shown(found)}, not one mapping of names to pools: write `pools:`.")
    made: dict[str, Pool] = {}
    problems: list[str] = []
    for name, values in pools.items():
        try:
            made[str(name)] = read_pool(str(name), values)
        except BadInput as error:
            problems.extend(error.problems)
    if problems:
        raise BadInput(*problems)
    return made


def read_pool(name: str, values: Any) -> Pool:
    """Returns one pool from what the pools' file says of it.

    Raises:
        BadInput: One sentence for every wrong key and value.
    """
    where = f"pools.{name}"
    if not DNS_LABEL.fullmatch(name):
        raise BadInput(f"{where} is no pool's name: use lower-case letters, digits and hyphens, a letter first.")
    if not isinstance(values, dict):
        raise BadInput(f"{where}={_shown(values)} is not a mapping: give at least its cpus and memoryGib.")
    problems = [unknown_name(f"{where}.{k}", [f"{where}.{n}" for n in POOL_KEYS]) for k in values if k not in POOL_KEYS]
    for key, field in POOL_KEYS.items():
        if key not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                problems.append(f"{where}.{key} is missing: give {field.metadata['help']}.")
        elif not field.metadata["accepts"](values[key]):
            expected = field.metadata["expected"]
            problems.append(f"{where}.{key}={_shown(values[key])} is not {expected}: correct it in the pools' file.")
    if not problems:
        problems = _open_secrets(f"{where}.env", values.get("env", {}))
    if problems:
        raise BadInput(*problems)
    given: dict[str, Any] = {field.name: values[key] for key, field in POOL_KEYS.items() if key in values}
    given = {field: tuple(value) if isinstance(value, list) else value for field, value in given.items()}
    return Pool(name=name, **given)


def _open_secrets(where: str, env: Mapping[str, str]) -> list[str]:
    """Returns a sentence for each variable that would write a secret into a job that all may read."""
    return [
        f"{where}.{name} looks like a secret: put it into a Secret, and name that in the pool's envFromSecrets."
        for name, value in env.items()
        if (SECRET_NAME.search(name) and not name.endswith("_FILE")) or SECRET_VALUE.search(value)
    ]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """The object with which Kubernetes deletes the gang: the pipeline run's Workflow, which outlives its steps."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gang:
    """One stage on `num_nodes` nodes of a pool.

    Attributes:
        stage: The stage's folder name.
        argv: The stage's own command line.
        image: Image of every pod, best by digest.
        num_nodes: Pods, one to a node.
        pool: What each pod gets.
        run_id: The pipeline run.
        arm: What tells the task from the stage's other ones, such as `clip`; empty: nothing.
        name: From `gang_name`.
        owner: None: the job stays until its TTL, or until something deletes it.
        tracking: MLflow's variables of the pipeline step, which go to rank 0 alone; from `tracking_of`.
    """

    stage: str
    argv: Sequence[str]
    image: str
    num_nodes: int
    pool: Pool
    run_id: str
    arm: str
    name: str
    owner: Owner | None
    tracking: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        assert DNS_LABEL.fullmatch(self.name) and len(self.name) <= LONGEST_NAME, self.name
        problems = []
        if not 1 <= self.num_nodes <= MOST_NODES:
            problems.append(f"num_nodes={self.num_nodes} is not a whole number from 1 to {MOST_NODES}: change it.")
        if not self.image or re.search(r"\s", self.image):
            problems.append(f"image={self.image!r} names no image: give repository@sha256:digest.")
        for name in sorted(set(self.tracking) - set(TRACKING)):
            problems.append(f"{name} is not for rank 0: only {', '.join(TRACKING)} are; use the pool's env or Secrets.")
        problems += _open_secrets("tracking", self.tracking)
        if problems:
            raise BadInput(*problems)

    @property
    def task(self) -> str:
        """The stage and what tells it from others, such as `pretrain/clip`: its folder, and its name in MLflow."""
        return f"{self.stage}/{self.arm}" if self.arm else self.stage

    def labels(self) -> dict[str, str]:
        """Returns the labels of the job and of its pods, by which they are found again."""
        return {
            RUN: label_value(self.run_id),
            STAGE: label_value(self.stage),
            ARM: label_value(self.arm),
            MANAGED: "true",
            "app.kubernetes.io/name": "ceteris",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/component": label_value(self.stage),
            "app.kubernetes.io/part-of": "ceteris",
            "app.kubernetes.io/managed-by": "ceteris-launcher",
        }


def gang_name(run_id: str, stage: str, arm: str, params_digest: str) -> str:
    """Returns the job's name: the same for the same task of the same run, another one for anything else.

    At most 40 characters, a DNS label that begins with a letter (a Service has the same name).

    Args:
        run_id: The pipeline run.
        stage: The stage's folder name.
        arm: What tells the task from the stage's other ones.
        params_digest: Digest of the whole command line, with its addresses: `StageParams.digest` leaves those out,
            and two encoders' language models differ in nothing else.
    """
    digest = hashlib.sha256("\0".join((run_id, stage, arm, params_digest)).encode()).hexdigest()[:16]
    words = re.sub(r"[^a-z0-9]+", "-", f"{stage}-{arm}".lower()).strip("-")
    readable = (words if words[:1].isalpha() else f"g-{words}")[: LONGEST_NAME - len(digest) - 1].strip("-")
    return f"{readable}-{digest}"


def label_value(text: str) -> str:
    """Returns `text` as a Kubernetes label's value; where that changes it, a digest keeps it apart from others."""
    cut = re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:LONGEST_LABEL].strip("-_.")
    if cut == text:
        return text
    return f"{cut[: LONGEST_LABEL - 9].rstrip('-_.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def run_selector(run_id: str) -> str:
    """Returns the label selector of everything that a run launched."""
    return f"{MANAGED}=true,{RUN}={label_value(run_id)}"


def tracking_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns MLflow's variables in a step's environment; credentials are not among them."""
    return {name: environ[name] for name in TRACKING if environ.get(name)}
