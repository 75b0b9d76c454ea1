"""The nodes of a gang as Docker containers of this machine, through TorchX's scheduler `local_docker`."""

import datetime
import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

import docker
from torchx.schedulers.docker_scheduler import LABEL_APP_ID, LABEL_REPLICA_ID, DockerScheduler, Opts

from components.launch.app import KILL_MARGIN_S, PORT, app_def, environment, pod_name
from components.launch.attempts import ATTEMPT
from components.launch.containers import mounts, run_options, variables
from components.launch.gang import Gang
from components.launch.local_cluster import Replica
from components.runtime.errors import StageFailure

UID = "ceteris.io/uid"
OVER = ("exited", "dead")


class Containers:
    """One gang's containers, which outlive their launcher; `local_cluster.Engine` says what the methods do."""

    def __init__(self, gang: Gang, folders: Sequence[str]) -> None:
        """Starts nothing yet.

        Args:
            gang: The gang.
            folders: What its containers may write to.

        Raises:
            StageFailure: Docker doesn't answer.
        """
        self._gang, self._folders = gang, folders
        try:
            self._docker = docker.from_env()
        except docker.errors.DockerException as error:
            raise StageFailure(f"Docker does not answer ({error}): start it, and look at `docker info`.") from error
        self._asked_at = 0.0

    def start(self, attempt: str) -> None:
        gang, pool = self._gang, self._gang.pool
        # the ranks follow the nodes' numbers; containers of one network find one another by name
        master = pod_name(gang, 0)
        meeting = ["--node-rank=${replica_id}", f"--master-addr={master}", f"--master-port={PORT}"]
        app = app_def(gang, meeting, [word.replace("$", "$$") for word in gang.argv])
        app.roles[0].image = self._image()
        scheduler = DockerScheduler("ceteris")
        dry_run = scheduler.submit_dryrun(app, Opts())
        dry_run.request.app_id = gang.name
        uid = uuid.uuid4().hex
        for node, container in enumerate(dry_run.request.containers):
            name, options = pod_name(gang, node), container.kwargs
            labels: Any = options["labels"]
            given = {"name": name, "hostname": name} | run_options()
            given |= {
                "labels": labels | gang.labels() | {LABEL_APP_ID: gang.name, UID: uid, ATTEMPT: attempt},
                "environment": variables(os.environ) | environment(gang) | {"CETERIS_LOG_FILE": ""},
                "mounts": mounts(container.command, self._folders),
                "nano_cpus": min(pool.cpus, os.cpu_count() or 1) * 10**9,
                "mem_limit": f"{pool.memory_gib + pool.shm_gib}g",
                "shm_size": f"{pool.shm_gib}g",
            }
            options |= given
        self._asked_at = 0.0
        try:
            scheduler.schedule(dry_run)
        except docker.errors.APIError as error:
            self.stop()
            raise StageFailure(f"Docker refuses the containers of {gang.name} ({error.explanation}).") from error

    def replicas(self) -> list[Replica]:
        return sorted((self._replica(found) for found in self._containers()), key=lambda found: found.node)

    def stop(self) -> None:
        is_first, self._asked_at = not self._asked_at, self._asked_at or time.time()
        is_late = time.time() - self._asked_at > self._gang.pool.grace_seconds + KILL_MARGIN_S
        for container in self._containers():
            try:
                if container.status in OVER or is_late:
                    container.remove(force=True)
                elif is_first:
                    container.kill("SIGTERM")
            except docker.errors.APIError:
                continue  # it has ended or is gone meanwhile; the next look tells
        if not self._containers():
            self._asked_at = 0.0

    def log(self, node: int, since: str) -> bytes:
        when = datetime.datetime.fromisoformat(since[:19]) if since else None
        for container in self._containers():
            if int(container.labels[LABEL_REPLICA_ID]) == node:
                return bytes(container.logs(timestamps=True, since=when))
        return b""

    def _containers(self) -> list[Any]:
        chosen = {"label": f"{LABEL_APP_ID}={self._gang.name}"}
        return list(self._docker.containers.list(all=True, filters=chosen, ignore_removed=True))

    def _image(self) -> str:
        """Returns the image's id where it is here already, which spares the question to a registry."""
        try:
            return str(self._docker.images.get(self._gang.image).id)
        except docker.errors.ImageNotFound:
            return self._gang.image

    def _replica(self, container: Any) -> Replica:
        labels, state = container.labels, container.attrs["State"]
        is_over = container.status in OVER
        return Replica(
            node=int(labels[LABEL_REPLICA_ID]),
            name=container.name,
            uid=labels[UID],
            attempt=labels[ATTEMPT],
            started_at=_seconds(container.attrs["Created"]),
            code=state["ExitCode"] if is_over else None,
            ended_at=_seconds(state["FinishedAt"]) if is_over else 0.0,
            reason="OOMKilled" if state["OOMKilled"] else "",
            is_leaving=bool(self._asked_at),
        )


def _seconds(time: str) -> float:
    """Returns Docker's time, which has nanoseconds, in seconds since 1970."""
    return datetime.datetime.fromisoformat(time[:19] + "+00:00").timestamp()
