"""A launcher whose gang has come to its end, still there to be scraped: `python -m tests.monitoring.launcher_process`.

It counts, too, what no small training does: pictures from the network, storage that falters, a second look into the
node's cache, a device's peak.
"""

import sys
import time
from pathlib import Path

from components.runtime import metrics
from tests.launch.api_server import api_server
from tests.launch.launchers import Launch, crash
from tests.launch.simulated_cluster import Plan

RARE = {
    "images_read": {},
    "images_rejected": {"reason": "decode"},
    "downloads": {"outcome": "ok"},
    "download_retries": {"reason": "timeout"},
    "storage_retries": {"operation": "read", "reason": "SlowDown"},
    "cache_hits": {},
    "cache_failures": {"reason": "ENOSPC"},
}


def main(folder: Path) -> None:
    """Serves; runs a gang that crashes once; waits."""
    problem = metrics.serve()
    assert not problem, problem
    metrics.gauge("train_flops_ratio", 0.4)
    with api_server() as server:
        server.plans = [Plan(ends=crash()), Plan()]
        assert Launch(server, folder).run() == 0
    while True:
        for name, labels in RARE.items():
            metrics.count(name, **labels)
        time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
