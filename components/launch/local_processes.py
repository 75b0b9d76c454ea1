"""The nodes of a gang as processes of this machine, through TorchX's scheduler `local_cwd`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
from torchx.schedulers.local_scheduler import CWDImageProvider, LocalScheduler, Opts

from components.launch.app import KILL_MARGIN_S, ROLE, app_def, identity, pod_name
from components.launch.gang import Gang
from components.launch.local_cluster import Replica
from components.launch.stopping import Stop

GANG = "CETERIS_GANG"
LOGS = ("stdout.log", "stderr.log")


class Processes:
    """One gang's agents; `local_cluster.Engine` says what the methods do."""

    def __init__(self, gang: Gang, stop: Stop) -> None:
        """Starts nothing yet.

        Args:
            gang: The gang.
            stop: Takes the signals back, which TorchX's scheduler claims when it is made.
        """
        self._gang = gang
        self._folder = tempfile.TemporaryDirectory(prefix="ceteris-gang-")
        self._scheduler = _Agents(Path(self._folder.name))
        stop.listen()
        self._uid = self._attempt = ""
        self._started_at = self._asked_at = 0.0
        self._ended_at: dict[int, float] = {}
        self._lines: dict[int, _Lines] = {}

    def start(self, attempt: str) -> None:
        gang = self._gang
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        # the ranks follow the nodes' numbers, and one machine's name does for all
        meeting = ["--node-rank=${replica_id}", "--master-addr=localhost", f"--master-port={port}"]
        app = app_def(gang, meeting, [word.replace("$", "$$") for word in gang.argv], python=sys.executable)
        threads = max(1, (os.cpu_count() or 1) // (gang.num_nodes * gang.pool.num_processes))
        app.roles[0].env = (
            {"OMP_NUM_THREADS": str(threads)}
            | _own("OMP_NUM_THREADS")
            | {name: value.replace("$", "$$") for name, value in gang.pool.env.items()}
        )
        app.roles[0].env |= identity(gang) | {GANG: gang.name, "CETERIS_LOG_FILE": ""}
        self._uid, self._attempt, self._started_at, self._asked_at = uuid.uuid4().hex, attempt, time.time(), 0.0
        self._ended_at.clear()
        self._lines.clear()
        self._scheduler.agents.clear()
        log_dir = str(Path(self._folder.name) / attempt)
        request = self._scheduler.submit_dryrun(app, Opts(log_dir=log_dir))
        self._scheduler.schedule(request)
        for node in range(gang.num_nodes):
            self._lines[node] = _Lines(Path(request.request.log_dir) / ROLE / str(node))

    def replicas(self) -> list[Replica]:
        found = []
        for node, agent in enumerate(self._scheduler.agents):
            code = agent.poll()
            if code is not None:
                self._ended_at.setdefault(node, time.time())
            found.append(
                Replica(
                    node=node,
                    name=pod_name(self._gang, node),
                    uid=self._uid,
                    attempt=self._attempt,
                    started_at=self._started_at,
                    code=code,
                    ended_at=self._ended_at.get(node, 0.0),
                    is_leaving=bool(self._asked_at),
                )
            )
        return found + ([] if self._scheduler.agents else self._left_behind())

    def stop(self) -> None:
        # an agent saves its workers itself; a signal to the whole group would be their second one, which breaks off
        is_first, self._asked_at = not self._asked_at, self._asked_at or time.time()
        patience_s = self._gang.pool.grace_seconds + KILL_MARGIN_S
        number = signal.SIGTERM if is_first else signal.SIGKILL if time.time() - self._asked_at > patience_s else 0
        agents = self._scheduler.agents
        pids = [agent.pid for agent in agents if agent.poll() is None] if agents else _agents_of(self._gang.name)
        for pid in _pids_of(self._gang.name) if number == signal.SIGKILL else pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if not pids:
            agents.clear()
            self._asked_at = 0.0

    def log(self, node: int, since: str) -> bytes:
        return self._lines[node].after(since) if node in self._lines else b""

    def _left_behind(self) -> list[Replica]:
        """Returns what a launcher that was killed has left running; two trainings must not write to one folder."""
        name = self._gang.name
        return [
            Replica(node=0, name=f"{name}-pid-{pid}", uid="", attempt="", started_at=0.0) for pid in _agents_of(name)
        ]


class _Agents(LocalScheduler):
    """TorchX's scheduler, which shows its processes."""

    def __init__(self, folder: Path) -> None:
        super().__init__("ceteris", CWDImageProvider)
        self.agents: list[subprocess.Popen[bytes]] = []

    def run_local_job(self, *args: Any, **kwargs: Any) -> "subprocess.Popen[bytes]":
        agent = super().run_local_job(*args, **kwargs)
        self.agents.append(agent)
        return agent


class _Lines:
    """The lines of an agent's output so far, numbered as they are found."""

    def __init__(self, folder: Path) -> None:
        self._read_to = {folder / name: 0 for name in LOGS}
        self._lines: list[bytes] = []
        self._first = 0

    def after(self, mark: str) -> bytes:
        """Returns the lines behind a mark, which are the ones not yet asked for."""
        for path, offset in self._read_to.items():
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read_to[path] += len(whole)
            self._lines += whole.splitlines(keepends=True)
        asked_for = int(mark) - self._first if mark else 0
        self._lines, self._first = self._lines[asked_for:], self._first + asked_for
        return b"".join(b"%012d %s" % (self._first + n, line) for n, line in enumerate(self._lines, start=1))


def _own(name: str) -> dict[str, str]:
    return {name: os.environ[name]} if name in os.environ else {}


def _agents_of(gang: str) -> list[int]:
    """Returns a gang's processes, whoever started them, less those whose parent is one of them."""
    found = _pids_of(gang)
    return [pid for pid, parent in found.items() if parent not in found]


def _pids_of(gang: str) -> dict[int, int]:
    """Returns the processes of a gang that run, each with its parent."""
    found: dict[int, int] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(GANG) == gang and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process.ppid()
        except psutil.Error:
            continue
    return found
