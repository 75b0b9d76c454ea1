"""Command line of the launcher: a gang stage's step of the pipeline, which ends as the gang ends."""

import os
import sys
from collections.abc import Sequence

from components.launch.cluster import Cluster, KubernetesCluster, connect
from components.launch.gang import Gang, Owner, gang_name, tracking_of
from components.launch.lifecycle import Limits, run_gang
from components.launch.local_cluster import Engine, LocalCluster
from components.launch.order import CONTAINERS, KUBERNETES, POD, RUN, WORKFLOW, Order, digest, read_order, usage
from components.launch.stopping import Stop
from components.launch.volcano import volcano_job
from components.runtime import errors, metrics
from components.runtime.endings import exit_code
from components.runtime.errors import BadInput
from components.runtime.logs import Log
from components.runtime.stage import Stage, result, say_done, write_kfp_outputs

ARGO = "argoproj.io/v1alpha1"


def main(argv: Sequence[str]) -> int:
    """Runs one launcher and returns its exit code."""
    if "--help" in argv or "-h" in argv:
        print(usage())
        return errors.EXIT_DONE
    log = Log("launch")
    return exit_code(log, lambda: launch(read_order(argv), log))


def launch(order: Order, log: Log) -> int:
    """Runs a stage as a gang, where its result isn't there yet, and returns the stage's exit code.

    Raises:
        BadInput: The order can't be carried out; nothing runs.
        StageFailure: The cluster or the storage is away for too long.
    """
    stage = Stage(order.values, log)
    if done := result(order.values, stage):
        say_done(stage, done)
        write_kfp_outputs(order.kfp, stage.out, done)
        return errors.EXIT_DONE
    if problem := metrics.serve():
        log.event("metrics_not_served", problem=problem)
    stop = Stop(os.environ.get(POD, ""))
    stop.listen()
    cluster, gang = _gang(order, stage, stop)
    code = run_gang(volcano_job(gang), cluster, stage.out, log=log, limits=Limits.of(gang.pool), stop=stop)
    if code == errors.EXIT_DONE and (made := result(order.values, stage)):
        write_kfp_outputs(order.kfp, stage.out, made)
    return code


def _gang(order: Order, stage: Stage, stop: Stop) -> tuple[Cluster, Gang]:
    shape, values = order.shape, stage.resolved(order.values)
    run_id, name = os.environ.get(RUN, ""), values.stage_name()
    if not run_id:
        raise BadInput(f"{RUN} is not set: give the id of the run, by which its gangs are found again.")
    cluster, owner = None, None
    if shape.scheduler == KUBERNETES:
        api, namespace = connect()
        cluster = KubernetesCluster(namespace, api)
        owner = _owner(cluster, os.environ.get(WORKFLOW, ""))
    gang = Gang(
        stage=name,
        argv=values.argv(),
        image=shape.image,
        num_nodes=shape.num_nodes,
        pool=shape.pool,
        run_id=run_id,
        arm=shape.arm,
        name=gang_name(run_id, name, shape.arm, digest(values)),
        owner=owner,
        tracking=tracking_of(os.environ),
    )
    return cluster or LocalCluster(_engine(gang, order, stop)), gang


def _engine(gang: Gang, order: Order, stop: Stop) -> Engine:
    if order.shape.scheduler == CONTAINERS:
        from components.launch.local_containers import Containers

        return Containers(gang, order.shape.folders)
    from components.launch.local_processes import Processes

    return Processes(gang, stop)


def _owner(cluster: Cluster, workflow: str) -> Owner | None:
    """Returns the Argo Workflow of the run, with which Kubernetes deletes the gang; None: it was started by hand."""
    if not workflow:
        return None
    found = cluster.read("Workflow", workflow)
    if found is None:
        raise BadInput(f"{WORKFLOW}={workflow} is not in namespace {cluster.namespace}: its run is over.")
    return Owner(api_version=ARGO, kind="Workflow", name=workflow, uid=found["metadata"]["uid"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
