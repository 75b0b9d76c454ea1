"""Runs the pipeline's containers in Docker, by KFP's runner, with a name, an end and an exit code that are certain."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from kfp import local
from kfp.local import docker_task_handler

from components.launch.containers import gpus, mounts, run_options, variables
from components.runtime.errors import BadInput, StageFailure

SIGNALLED = 128  # Docker's exit code for a process that a signal ended, less the signal
STOP_TIMEOUT_S = 330  # for what a killed runner has left behind: a checkpoint is saved within that


class DockerEngine:
    """Starts a container for each task, and leaves none behind."""

    def __init__(self, run: Path, folders: Sequence[str], images: Iterable[str]) -> None:
        """Makes sure that Docker answers and has the images.

        Args:
            run: The run's folder, which tells its containers from others'.
            folders: What the containers may write to.
            images: What they are made from.

        Raises:
            BadInput: Docker doesn't answer, or an image can't be had.
        """
        self._run, self._folders = run, folders
        try:
            self._docker = docker.from_env()
            runtimes = self._docker.info()["Runtimes"]
        except DockerException as error:
            raise BadInput(f"Docker does not answer ({error}): start it, or leave out --runner docker.") from error
        self._gpus = gpus(runtimes)
        self._patient = docker.from_env(timeout=None)  # follows a stage that says nothing for an hour
        if problems := [problem for image in sorted(set(images)) if (problem := self._lacks(image))]:
            raise BadInput(*problems)

    def runner(self) -> local.DockerRunner:
        """Returns KFP's runner, with what is the same for every container."""
        options = run_options() | ({"device_requests": self._gpus} if self._gpus else {})
        return local.DockerRunner(**options)

    def start(
        self, image: str, command: Sequence[str], options: Mapping[str, Any], env: Mapping[str, str], log: Path
    ) -> "Container":
        """Starts a task's container.

        Args:
            image: Its image.
            command: Its command line.
            options: The runner's.
            env: Its variables beside those that this machine hands on.
            log: The task's log; what the container prints is kept beside it, where no terminal shows it.

        Raises:
            StageFailure: Docker refuses.
        """
        task = env["CETERIS_TASK"].replace("/", "-")
        name = f"ceteris-{hashlib.sha256(str(self._run).encode()).hexdigest()[:8]}-{task}"
        self._remove(name)
        is_terminal = sys.stderr.isatty()
        try:
            container = self._patient.containers.run(
                image,
                list(command),
                name=name,
                detach=True,
                tty=is_terminal,
                environment=variables(os.environ) | dict(env),
                mounts=mounts(command, self._folders),
                **options,
            )
        except APIError as error:
            raise StageFailure(f"Docker refuses the container of {task} ({error.explanation}).") from error
        return Container(container, None if is_terminal else log.with_suffix(".out"))

    def _lacks(self, image: str) -> str:
        try:
            self._docker.images.get(image)
        except ImageNotFound:
            try:
                self._docker.images.pull(image)
            except (APIError, ImageNotFound) as error:
                return f"The image {image} is neither here nor in a registry ({error.explanation}): run `make images`."
        return ""

    def _remove(self, name: str) -> None:
        """Ends what a killed runner has left behind."""
        with contextlib.suppress(NotFound):
            container = self._docker.containers.get(name)
            container.stop(timeout=STOP_TIMEOUT_S)
            container.remove(force=True)


class Container:
    """A task's container that runs."""

    def __init__(self, container: Any, output: Path | None) -> None:
        self._container, self._output = container, output

    def wait(self) -> int:
        """Returns the exit code at its end, below 0 for a signal's number; meanwhile its output is shown or kept."""
        with contextlib.ExitStack() as stack:
            screen = stack.enter_context(self._output.open("wb")) if self._output else sys.stderr.buffer
            for part in self._container.logs(stream=True, follow=True):
                screen.write(part)
                screen.flush()
        code = int(self._container.wait()["StatusCode"])
        self._container.remove(force=True)
        return code if code <= SIGNALLED else SIGNALLED - code

    def ask(self) -> None:
        """Asks it to save and end."""
        self._signal("SIGTERM")

    def kill(self) -> None:
        """Ends it at once."""
        self._signal("SIGKILL")

    def _signal(self, name: str) -> None:
        with contextlib.suppress(APIError):  # it has ended meanwhile
            docker.from_env().containers.get(self._container.id).kill(name)


@contextlib.contextmanager
def replaced_start(start: Any) -> Iterator[None]:
    """Lets KFP's Docker handler start a container by `start(image, command, options)`, which returns its exit code.

    KFP's own function lets Docker remove a container at its end, and takes the exit code for 0 where that was quicker
    than the question.
    """

    def run(client: Any, image: str, command: Sequence[str], volumes: Any, **options: Any) -> int:
        return int(start(image, command, options))

    before = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = run
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = before
