"""From PodMonitors and pods to what Prometheus scrapes: as the Prometheus operator 0.93 and Prometheus's discovery do.

The operator turns a PodMonitor into relabelings (generatePodMonitorConfig in pkg/prometheus/promcfg.go); discovery
makes a target of each port of a container, or of the container itself where it has none (discovery/kubernetes/pod.go).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

Object = dict[str, Any]


def scrape_config(monitor: Object, pods: Sequence[Object], ips: dict[str, str], interval: str) -> Object:
    """Returns the job that scrapes the pods of a PodMonitor, with the pods written down as they are discovered."""
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    about = monitor["metadata"]
    return {
        "job_name": f"podMonitor/{about['namespace']}/{about['name']}/0",
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "metrics_path": endpoint["path"],
        "static_configs": [target for pod in pods for target in _targets(pod, ips[pod["metadata"]["name"]])],
        "relabel_configs": [
            {"action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)"},
            *_selected(monitor["spec"]["selector"]),
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            {"target_label": "job", "replacement": f"{about['namespace']}/{about['name']}"},
            *({_snake(key): value for key, value in each.items()} for each in endpoint["relabelings"]),
        ],
    }


def _selected(selector: Object) -> Iterator[Object]:
    for key, value in selector.get("matchLabels", {}).items():
        labels = [f"__meta_kubernetes_pod_label_{_clean(key)}", f"__meta_kubernetes_pod_labelpresent_{_clean(key)}"]
        yield {"action": "keep", "source_labels": labels, "regex": f"({value});true"}
    for each in selector.get("matchExpressions", []):
        action = {"Exists": "keep", "DoesNotExist": "drop"}[each["operator"]]
        labels = [f"__meta_kubernetes_pod_labelpresent_{_clean(each['key'])}"]
        yield {"action": action, "source_labels": labels, "regex": "true"}


def _targets(pod: Object, ip: str) -> Iterator[Object]:
    about = {
        "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
        "__meta_kubernetes_pod_name": pod["metadata"]["name"],
        "__meta_kubernetes_pod_ip": ip,
        "__meta_kubernetes_pod_phase": "Running",
    }
    for key, value in pod["metadata"]["labels"].items():
        about[f"__meta_kubernetes_pod_label_{_clean(key)}"] = value
        about[f"__meta_kubernetes_pod_labelpresent_{_clean(key)}"] = "true"
    for is_init in (False, True):
        for container in pod["spec"].get("initContainers" if is_init else "containers", []):
            own = about | {
                "__meta_kubernetes_pod_container_name": container["name"],
                "__meta_kubernetes_pod_container_init": str(is_init).lower(),
            }
            for port in container.get("ports", []):
                number = str(port["containerPort"])
                named = {
                    "__meta_kubernetes_pod_container_port_name": port["name"],
                    "__meta_kubernetes_pod_container_port_number": number,
                }
                yield {"targets": [f"{ip}:{number}"], "labels": own | named}
            if not container.get("ports"):
                yield {"targets": [ip], "labels": own}


def _clean(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)
