"""Deletes gangs that nobody waits for any more: a CronJob runs it, for launchers that were killed before they could.

python -m components.launch.reaper [--dry-run]
"""

import argparse
import sys
from collections.abc import Sequence

from components.launch.cluster import Cluster, KubernetesCluster, Object, connect
from components.launch.gang import MANAGED
from components.launch.sight import dig, name_of
from components.runtime.endings import exit_code
from components.runtime.logs import Log

WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
OVER = frozenset({"Succeeded", "Failed", "Error"})


def reap(cluster: Cluster, log: Log, *, is_dry: bool = False) -> list[str]:
    """Deletes the managed jobs whose owner is gone or whose run is over, and returns their names.

    A job without an owner was started by hand and is left alone, as is one of which anything is not known for sure.

    Raises:
        StageFailure: The API server is away, or a right is missing; the rest is left for the next time.
    """
    reaped = []
    for job in cluster.list("Job", labels=MANAGED):
        reason = "" if job["metadata"].get("deletionTimestamp") else orphaned(cluster, job)
        if reason:
            log.event("would_reap" if is_dry else "reaped", job=name_of(job), reason=reason)
            if not is_dry:
                cluster.delete(job)
            reaped.append(name_of(job))
    return reaped


def orphaned(cluster: Cluster, job: Object) -> str:
    """Returns why nobody waits for a job; empty: somebody does, or it has no owner."""
    for owner in job["metadata"].get("ownerReferences") or []:
        if owner["kind"] not in ("Workflow", "Pod"):
            continue
        shown = f"{owner['kind']} {owner['name']}"
        found = cluster.read(owner["kind"], owner["name"])
        if found is None or found["metadata"]["uid"] != owner["uid"]:
            return f"its owner {shown} is gone"
        if owner["kind"] == "Pod":  # an evicted step is tried again: only its workflow says that all is over
            name = dig(found, "metadata", "labels", WORKFLOW_LABEL)
            if not name:
                continue
            shown = f"Workflow {name}"
            found = cluster.read("Workflow", name)
            if found is None:
                return f"its run's {shown} is gone"
        if (phase := dig(found, "status", "phase")) in OVER:
            return f"its run's {shown} is over ({phase})"
    return ""


def main(argv: Sequence[str]) -> int:
    """Sweeps one namespace once and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.launch.reaper", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    options = parser.parse_args(argv)
    log = Log("reaper")

    def sweep() -> None:
        api, namespace = connect()
        reaped = reap(KubernetesCluster(namespace, api), log, is_dry=options.dry_run)
        log.event("swept", num_reaped=len(reaped), namespace=namespace)

    return exit_code(log, sweep)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
