"""Runs the pipeline's containers as processes of this machine: the task handler that KFP's local engine lacks."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TextIO

from kfp.local import graph_utils, status, subprocess_task_handler
from kfp.local.task_handler_interface import ITaskHandler

from components.runtime import errors
from components.runtime.errors import StageFailure
from pipelines.containers import DockerEngine, replaced_start

LAUNCHER = "components.launch"
LINE_WIDTH = 44
POLITE_SIGNALS = 2  # the stage saves at the first and breaks off at the second; a third one kills
CLUSTER_SETTINGS = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


class Running(Protocol):
    """A task's process or container."""

    def wait(self) -> int:
        """Returns the exit code at its end, below 0 for a signal's number."""
        ...

    def ask(self) -> None:
        """Asks it to save and end."""
        ...

    def kill(self) -> None:
        """Ends it at once."""
        ...


class Process:
    """A task's process."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, lock: int) -> None:
        """Starts it, in a group of its own, so that Ctrl-C reaches it through us, once."""
        with contextlib.ExitStack() as stack:
            # a terminal shows the stage's bar; elsewhere its lines are in the log already
            screen = None if sys.stderr.isatty() else stack.enter_context(log.with_suffix(".out").open("wb"))
            self._child = subprocess.Popen(
                command, env=env, stdout=screen, stderr=screen, process_group=0, pass_fds=[lock]
            )

    def wait(self) -> int:
        return self._child.wait()

    def ask(self) -> None:
        if self._child.poll() is None:
            self._child.terminate()

    def kill(self) -> None:
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)


class Host:
    """Starts one process or container per task, says what becomes of it, and remembers how the first failure ended.

    Attributes:
        exit_code: What the run as a whole ends with so far, one of `errors`.
        problems: Why, as the stage said it.
        log: The failed stage's log.
    """

    def __init__(
        self,
        *,
        run: Path,
        lock: int,
        out: str,
        order: Sequence[str],
        screen: TextIO,
        engine: DockerEngine | None = None,
    ) -> None:
        """Prepares to run tasks.

        Args:
            run: Folder for logs and tracking.
            lock: Descriptor of the run's lock, which a stage holds on to even where it outlives us.
            out: The address below which the tasks write; a task's name is the rest of its own address.
            order: The tasks' names in the order in which a reader expects them.
            screen: Where the lines for a person go.
            engine: Starts a container for each task but gangs' launchers; None: all are processes.
        """
        self.engine = engine
        self.exit_code = errors.EXIT_DONE
        self.problems: list[str] = []
        self.log = run
        self._run, self._lock, self._out, self._order, self._screen = run, lock, out, order, screen
        self._num_started = self._num_signals = 0
        self._running: Running | None = None

    def execute(self, command: Sequence[str], image: str = "", options: Mapping[str, Any] | None = None) -> bool:
        """Runs a container's command line and returns whether it succeeded.

        Args:
            command: The command line; a process has this Python in place of the image's.
            image: The container's image.
            options: What KFP's runner gives every container.
        """
        if self._num_signals:
            self.exit_code = errors.EXIT_PREEMPTED
            return False
        self._num_started += 1
        task = next(w for w in command if w.startswith("--out_uri=")).removeprefix(f"--out_uri={self._out}/")
        shown = f"[{self._num_started:2}/{len(self._order)}] {task.replace('/', ' ')} "
        shown = shown.ljust(LINE_WIDTH, ".")
        self._screen.write(shown)
        self._screen.flush()
        log = self._run / "logs" / f"{task}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        read_from = log.stat().st_size if log.exists() else 0
        start = time.monotonic()
        try:
            code = self._wait(self._start(command, image, options or {}, task, log))
        except StageFailure as error:
            self._screen.write("\n")
            self.exit_code, self.problems, self.log = errors.EXIT_FAILED, [str(error)], log
            return False
        events = _events(log, read_from)
        ended = f"{time.monotonic() - start:.0f} s"
        if code:
            self._remember_failure(code, events, log)
            ended = f"{'stopped' if self.exit_code == errors.EXIT_PREEMPTED else 'failed'} after {ended}"
        elif any(event["event"] == "already_done" for event in events):
            ended = "already done"
        self._screen.write(f"\r\x1b[K{shown} {ended}\n" if self._screen.isatty() else f" {ended}\n")
        self._screen.flush()
        return code == 0

    def in_order(self, tasks: Mapping[str, Any]) -> dict[str, Any]:
        """Returns KFP's tasks by name, in the order that the host was given (their display names have spaces)."""
        places = {task.replace("/", " "): place for place, task in enumerate(self._order)}
        return dict(sorted(tasks.items(), key=lambda item: (places.get(item[1].task_info.name, len(places)), item[0])))

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Asks the running stage to save and stop, and starts no further one."""
        self._num_signals += 1
        if self._running is not None:
            if self._num_signals <= POLITE_SIGNALS:
                self._running.ask()
            else:
                self._running.kill()

    def _start(self, command: Sequence[str], image: str, options: Mapping[str, Any], task: str, log: Path) -> Running:
        about = {
            "CETERIS_LOG_FILE": str(log),
            "CETERIS_SPOOL": str(self._run / "tracking" / f"{task}.jsonl"),
            "CETERIS_TASK": task,
            "CETERIS_RUN": self._run.name,
        }
        if self.engine is not None and LAUNCHER not in command:
            return self.engine.start(image, command, options, about, log)
        env = {name: value for name, value in os.environ.items() if name not in CLUSTER_SETTINGS} | about
        return Process([sys.executable, *command[1:]], env, log, self._lock)

    def _wait(self, running: Running) -> int:
        self._running = running
        if self._num_signals:
            running.ask()
        try:
            return running.wait()
        finally:
            self._running = None

    def _remember_failure(self, code: int, events: Sequence[dict[str, Any]], log: Path) -> None:
        self.log = log
        known = (errors.EXIT_BAD_INPUT, errors.EXIT_PREEMPTED)
        self.exit_code = errors.EXIT_PREEMPTED if self._num_signals else code if code in known else errors.EXIT_FAILED
        self.problems = [str(event["problem"]) for event in events if event["event"] in ("bad_input", "failed")]
        if not self.problems and self.exit_code == errors.EXIT_FAILED:
            self.problems = [_unexplained(code, log.with_suffix(".out"))]


def _unexplained(code: int, output: Path) -> str:
    """Returns a sentence for a stage that ended without one."""
    if code == -signal.SIGKILL:
        return "The stage was killed (SIGKILL), most likely for want of memory: use smaller batches or free memory."
    lines = output.read_text(errors="replace").strip().splitlines() if output.exists() else []
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"The stage ended {how} and said nothing more than: {lines[-1] if lines else 'nothing'}"


def _events(log: Path, offset: int) -> list[dict[str, Any]]:
    """Returns the events that a stage wrote to its log beyond `offset`; an unfinished line is no event."""
    if not log.exists():
        return []
    events = []
    for line in log.read_bytes()[offset:].decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return events


class _HostTask(ITaskHandler):
    """One task of KFP's engine, given to a host."""

    def __init__(self, host: Host, *, full_command: Sequence[str], **unused: Any) -> None:
        self.host, self.command = host, full_command

    def run(self) -> status.Status:
        return status.Status.SUCCESS if self.host.execute(self.command) else status.Status.FAILURE


@contextlib.contextmanager
def containers_run_on(host: Host) -> Iterator[None]:
    """Lets KFP's engine hand container components to `host` in a fixed order, and signals reach it.

    KFP has no way to register a task handler: its dispatcher looks up the handler of `SubprocessRunner`, which refuses
    container components, by name each time; that name is replaced here. KFP sorts a graph's tasks by their edges alone
    and starts from a hash order that differs from process to process; it is given the host's order to start from.
    """
    sort_tasks = graph_utils.topological_sort_tasks
    before = {number: signal.signal(number, host.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    handler = functools.partial(_HostTask, host)
    try:
        with (
            replaced_start(lambda image, command, options: 0 if host.execute(command, image, options) else 1),
            _replaced(subprocess_task_handler, "SubprocessTaskHandler", handler),
            _replaced(graph_utils, "topological_sort_tasks", lambda tasks: sort_tasks(host.in_order(tasks))),
        ):
            yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
