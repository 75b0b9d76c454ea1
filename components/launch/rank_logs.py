"""The logs of all ranks: shown line by line with the rank before it, and kept in storage for when the pods are gone."""

import collections
import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TextIO

from components.launch.cluster import LOG_BYTES, Cluster, Object
from components.runtime.storage import Folder

TAIL_LINES = 200
MOST_PARTS = 64  # at one look: 256 MiB of a rank's log


class RankLogs:
    """Follows one attempt's pods by asking, so that nothing hangs on a connection; a context manager."""

    def __init__(self, cluster: Cluster, folder: Folder, screen: TextIO) -> None:
        """Begins with nothing.

        Args:
            cluster: Where the pods are.
            folder: Where `<rank>.log` is kept.
            screen: Where the lines are shown.
        """
        self._cluster, self._folder, self._screen = cluster, folder, screen
        self._spool = tempfile.TemporaryDirectory(prefix="ceteris-logs-")
        self._last: dict[int, str] = {}
        self.tails: dict[int, collections.deque[str]] = {}

    def follow(self, pods: list[Object]) -> None:
        """Shows what the pods, given in rank order, have said since the last time."""
        for rank, pod in enumerate(pods):
            for _ in range(MOST_PARTS):
                if not self._read(rank, pod):
                    break

    def keep(self) -> None:
        """Writes what is known of each rank's log to storage, where it isn't more than what is known here."""
        for path in sorted(self._path(0).parent.glob("*.log")):
            with contextlib.suppress(FileNotFoundError):
                if self._folder.size(path.name) > path.stat().st_size:
                    continue
            with path.open("rb") as source, self._folder.writer(path.name) as target:
                shutil.copyfileobj(source, target)

    def close(self) -> None:
        """Forgets what is on this machine."""
        self._spool.cleanup()

    def _read(self, rank: int, pod: Object) -> bool:
        """Reads one part; returns whether there may be more."""
        last = self._last.get(rank, "")
        data = self._cluster.log(pod, since=last)
        tail = self.tails.setdefault(rank, collections.deque(maxlen=TAIL_LINES))
        num_new = 0
        with self._path(rank).open("a") as file:
            for line in data[: data.rfind(b"\n") + 1].decode(errors="replace").splitlines():
                time, _, text = line.partition(" ")
                if time <= last:
                    continue
                self._last[rank] = time
                num_new += 1
                tail.append(text)
                file.write(text + "\n")
                self._screen.write(f"[rank {rank}] {text}\n")
        self._screen.flush()
        return num_new > 0 and len(data) >= LOG_BYTES

    def _path(self, rank: int) -> Path:
        return Path(self._spool.name) / f"{rank}.log"
