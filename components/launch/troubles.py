"""Why a gang doesn't start: what is missing before it is sent, and what its objects say while it waits."""

import enum
from collections.abc import Iterator

from components.launch.cluster import Cluster, Forbidden, Object
from components.launch.sight import Sight, dig, name_of, waiting

NOT_PULLED = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
NOT_MADE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"})
RULED_OUT = ("didn't match", "did not match", "untolerated taint", "had taint", "node(s) didn't satisfy")
BUSY = ("Insufficient", "insufficient", "overused", "quota", "queue resource")
MOUNT_EVENTS = frozenset({"FailedMount", "FailedAttachVolume"})


class Trouble(enum.StrEnum):
    """What sort of hindrance it is, which decides how long it is borne."""

    STUCK = "stuck"  # an image, a volume or a setting: time does not mend it
    PLACEMENT = "placement"  # no node of the cluster is allowed, unless one is added
    QUEUE = "queue"  # others are before us


def missing(cluster: Cluster, job: Object) -> list[str]:
    """Returns a sentence for each Secret and ConfigMap, or key of one, that the job names and that isn't there.

    What this service account may not read is passed over: the pods find out, and say it.
    """
    wanted: dict[tuple[str, str], set[str]] = {}
    for task in job["spec"]["tasks"]:
        for kind, name, key in _named(task["template"]["spec"]):
            wanted.setdefault((kind, name), set()).update({key} - {""})
    problems = []
    for (kind, name), keys in sorted(wanted.items()):
        try:
            found = cluster.read(kind, name)
        except Forbidden:
            continue
        if found is None:
            problems.append(
                f"The {kind} '{name}' that the node pool names is not in namespace {cluster.namespace}: create it, or "
                "correct the name."
            )
            continue
        lacking = sorted(keys - set(found.get("data") or {}) - set(found.get("binaryData") or {}))
        if lacking:
            problems.append(
                f"The {kind} '{name}' lacks the key {', '.join(lacking)}: add it, or correct the node pool."
            )
    return problems


def trouble(sight: Sight, events: list[Object]) -> tuple[Trouble, str] | None:
    """Returns the worst of what hinders the gang from starting, in the cluster's own words; None: nothing is said."""
    for pod, reason, message in waiting(sight):
        if reason in NOT_PULLED | NOT_MADE:
            return Trouble.STUCK, f"{name_of(pod)}: {reason}: {message}"
    for event in events:
        if event.get("reason") in MOUNT_EVENTS:
            return Trouble.STUCK, _told(event)
    said = list(_conditions(sight))
    grows = any(event.get("reason") == "TriggeredScaleUp" for event in events)
    ruled_out = [text for text in said if any(word in text for word in RULED_OUT)]
    if ruled_out and not grows and not any(word in text for text in said for word in BUSY):
        return Trouble.PLACEMENT, ruled_out[0]
    said += [_told(event) for event in events if event.get("type") == "Warning"]
    return (Trouble.QUEUE, said[0]) if said else None


def explanations(cluster: Cluster, sight: Sight) -> tuple[list[Object], list[str]]:
    """Returns the newest events about the gang, and the namespace's quotas that are nearly used up, as sentences."""
    waits = [pod for pod in sight.pods if dig(pod, "status", "phase") == "Pending"]
    about = [sight.name, *([name_of(sight.pod_group)] if sight.pod_group else []), *map(name_of, waits[:1])]
    try:
        events = [e for name in about for e in cluster.list("Event", fields=f"involvedObject.name={name}")]
        quotas = cluster.list("ResourceQuota")
    except Forbidden as error:
        return [], [str(error)]
    events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), reverse=True)
    lines = []
    for quota in quotas:
        hard, used = dig(quota, "status", "hard", default={}), dig(quota, "status", "used", default={})
        kinds = [kind for kind in hard if "gpu" in kind or kind == "pods"]
        lines += [f"quota {name_of(quota)}: {kind} {used.get(kind, '0')} of {hard[kind]} used" for kind in kinds]
    return events, lines


def _conditions(sight: Sight) -> Iterator[str]:
    """Yields what the scheduler says of the pods, then of the PodGroup."""
    for pod in sight.pods:
        for condition in dig(pod, "status", "conditions", default=None) or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False" and condition.get("message"):
                yield f"{name_of(pod)}: {condition['message']}"
    for condition in dig(sight.pod_group or {}, "status", "conditions", default=None) or []:
        if condition["type"] == "Unschedulable" and condition["status"] == "True":
            yield f"{condition.get('reason', 'Unschedulable')}: {condition.get('message', '')}"


def _told(event: Object) -> str:
    about = dig(event, "involvedObject", "name")
    return f"{about}: {event.get('reason', '')}: {event.get('message', '')}"


def _named(pod: Object) -> Iterator[tuple[str, str, str]]:
    """Yields kind, name and key (or nothing) of the Secrets and ConfigMaps that a pod can't start without."""
    kinds = (("Secret", "secret"), ("ConfigMap", "configMap"))
    for reference in pod.get("imagePullSecrets") or []:
        yield "Secret", reference["name"], ""
    for container in (pod.get("initContainers") or []) + pod["containers"]:
        for kind, word in kinds:
            for source in container.get("envFrom") or []:
                found = source.get(f"{word}Ref")
                if found and not found.get("optional"):
                    yield kind, found["name"], ""
            for variable in container.get("env") or []:
                found = (variable.get("valueFrom") or {}).get(f"{word}KeyRef")
                if found and not found.get("optional"):
                    yield kind, found["name"], found["key"]
    for volume in pod.get("volumes") or []:
        for kind, word in kinds:
            found = volume.get(word)
            if found and not found.get("optional"):
                yield kind, found["secretName" if word == "secret" else "name"], ""
