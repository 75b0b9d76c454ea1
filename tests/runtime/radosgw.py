"""Ceph's S3 gateway over the smallest cluster that serves it: one monitor, and one store in memory."""

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
START_S = 120
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}
run dir = {path}
admin socket = {path}/$name.socket
log file = {path}/$name.log
pid file = {path}/$name.pid
keyring = {path}/keyring
mon data = {path}/mon
osd data = {path}/osd
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
paxos propose interval = 0.05
paxos min wait = 0.01
mon allow pool size one = true
mon data avail warn = 1
mon data avail crit = 0
osd objectstore = memstore
memstore device bytes = 1073741824
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw rados pool pg num min = 1
"""


def missing_programs() -> list[str]:
    """Returns which of Ceph's programs this machine doesn't have."""
    return [name for name in PROGRAMS if not shutil.which(name)]


@contextlib.contextmanager
def radosgw(path: Path, access_key: str, secret_key: str) -> Iterator[str]:
    """Yields the address of a gateway with one user; everything it writes lies in `path`, and ends with it."""
    port, gateway_port = _free_port(), _free_port()
    fsid = str(uuid.uuid4())
    configuration = path / "ceph.conf"
    configuration.write_text(CONFIGURATION.format(fsid=fsid, port=port, path=path))
    keyring, monitors = path / "keyring", path / "monmap"
    chosen = ["-c", str(configuration)]

    def run(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=START_S).stdout

    with contextlib.ExitStack() as servers:

        def serve(*command: str) -> None:
            log = servers.enter_context((path / f"{command[0]}.out").open("wb"))
            servers.enter_context(_server([*command, "-f", *chosen], log.fileno()))

        run("ceph-authtool", "--create-keyring", str(keyring), "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        rights = [word for server in ("mon", "osd") for word in ("--cap", server, "allow *")]
        run("ceph-authtool", str(keyring), "--gen-key", "-n", "client.admin", *rights)
        run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{port}]", "--fsid", fsid, str(monitors))
        run("ceph-mon", *chosen, "--mkfs", "-i", "a", "--monmap", str(monitors), "--keyring", str(keyring))
        serve("ceph-mon", "-i", "a")
        store = str(uuid.uuid4())
        number = run("ceph", *chosen, "osd", "new", store).strip()
        (path / "osd").mkdir()
        run("ceph-osd", *chosen, "-i", number, "--mkfs", "--osd-uuid", store)
        serve("ceph-osd", "-i", number)
        keys = ["--access-key", access_key, "--secret-key", secret_key]
        run("radosgw-admin", *chosen, "user", "create", "--uid", "tester", "--display-name", "tester", *keys)
        serve("radosgw", "-n", "client.admin", "--rgw-frontends", f"beast endpoint=127.0.0.1:{gateway_port}")
        endpoint = f"http://127.0.0.1:{gateway_port}"
        _wait_for(endpoint)
        yield endpoint


@contextlib.contextmanager
def _server(command: list[str], log: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()  # nothing of it is to stay
        process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(endpoint: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(endpoint, timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError(f"{endpoint} didn't answer within {START_S} s")
