"""Ends a run for good: in Kubeflow Pipelines, then its gangs by their label, until nothing of it is left."""

import time
from typing import TextIO

from components.launch.cluster import Cluster
from components.launch.gang import run_selector
from components.runtime import errors
from components.runtime.errors import StageFailure
from pipelines.service import ACTIVE, Service

LOOK_EVERY_S = 2.0
OVER = ("Succeeded", "Failed")  # phases of a pod that holds nothing any more


def cancel(service: Service, cluster: Cluster, run: str, timeout_s: float, screen: TextIO) -> int:
    """Ends a run and returns the exit code: 0 when nothing of it is left.

    KFP is asked first: it tells a launcher to end, which would replace a job that is deleted under it.

    Args:
        service: Kubeflow Pipelines.
        cluster: The namespace of the run.
        run: Id or name of the run.
        timeout_s: How long to wait until all is gone.
        screen: Where the lines about progress go.

    Raises:
        BadInput: There is no such run.
        StageFailure: A server refuses, or doesn't answer.
    """
    found = service.find(run)
    name = f"{found.display_name} ({found.run_id})"
    if found.state in ACTIVE:
        try:
            service.terminate(found.run_id)
        except StageFailure:
            if service.find(found.run_id).state in ACTIVE:  # else it ended by itself meanwhile
                raise
        screen.write(f"Asked Kubeflow Pipelines to end {name}.\n")
    else:
        screen.write(f"{name} has ended already: {found.state}.\n")
    deadline = time.monotonic() + timeout_s
    deleted: set[str] = set()
    while True:
        for job in cluster.list("Job", labels=run_selector(found.run_id)):
            cluster.delete(job)
            if job["metadata"]["name"] not in deleted:
                screen.write(f"Deleted the job {job['metadata']['name']}.\n")
                deleted.add(job["metadata"]["name"])
        left = _left(service, cluster, found.run_id)
        if not left:
            screen.write("Nothing of it is left: no job, no pod.\n")
            return errors.EXIT_DONE
        if time.monotonic() > deadline:
            break
        time.sleep(min(LOOK_EVERY_S, timeout_s / 4))
    screen.write(
        f"After {timeout_s:g} s there is still {', '.join(left)}: repeat the command with a longer --timeout, or look "
        f"with `kubectl -n {cluster.namespace} get jobs.batch.volcano.sh,pods -l {run_selector(found.run_id)}`.\n"
    )
    return errors.EXIT_FAILED


def _left(service: Service, cluster: Cluster, run_id: str) -> list[str]:
    """Returns what a run still holds, in words."""
    state = service.find(run_id).state
    left = [f"the run in state {state}"] if state in ACTIVE else []
    left += [f"the job {job['metadata']['name']}" for job in cluster.list("Job", labels=run_selector(run_id))]
    pods = {
        pod["metadata"]["name"]
        for labels in (run_selector(run_id), f"pipeline/runid={run_id}")
        for pod in cluster.list("Pod", labels=labels)
        if pod.get("status", {}).get("phase", "Pending") not in OVER
    }
    return left + [f"the pod {name}" for name in sorted(pods)]
