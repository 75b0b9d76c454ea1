"""MLflow's pod as the chart renders it, run as processes here: init containers in order, then the server."""

import base64
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.charts.rendering import Object

START_S = 180


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def running(pod: Object, folder: Path, secrets: Mapping[str, Mapping[str, str]], port: int) -> Iterator[str]:
    """Yields the address of the server once its probes succeed.

    Args:
        pod: The pod's template.
        folder: Where its volumes lie, each below its name, and its log.
        secrets: Keys and values by the Secrets' names.
        port: The port that the pod is told to listen on.
    """
    for container in pod["spec"].get("initContainers", []):
        command, environ = _process(container, folder, secrets)
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=START_S, check=False)
        assert done.returncode == 0, f"{container['name']}: {done.stderr}"
    (container,) = pod["spec"]["containers"]
    command, environ = _process(container, folder, secrets)
    address = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True, cwd=folder)
    try:
        _wait(server, address + container["startupProbe"]["httpGet"]["path"], folder / "server.log")
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def ask(
    address: str, user: tuple[str, str] | None = None, *, host: str = "", data: bytes | None = None
) -> tuple[int, str]:
    """Returns status and text of a request."""
    request = urllib.request.Request(address, data=data)
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(user).encode()).decode())
    if host:
        request.add_header("Host", host)
    if data:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _process(container: Object, folder: Path, secrets: Mapping[str, Mapping[str, str]]) -> tuple[list[str], Any]:
    """Returns the command line and the whole environment of a container, its mounts moved below the folder."""
    values: dict[str, str] = {}
    for variable in container["env"]:
        chosen = variable.get("valueFrom", {}).get("secretKeyRef")
        if chosen is None:
            values[variable["name"]] = variable["value"]
        elif chosen["key"] in secrets[chosen["name"]] or not chosen.get("optional"):
            values[variable["name"]] = secrets[chosen["name"]][chosen["key"]]
    words = [*container["command"], *container.get("args", [])]
    words = [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word) for word in words]
    here = {mount["mountPath"]: folder / mount["name"] for mount in container["volumeMounts"]}
    for path in here.values():
        path.mkdir(exist_ok=True)
    mounts = re.compile("|".join(re.escape(path) for path in here))

    def moved(text: str) -> str:
        return mounts.sub(lambda found: str(here[found[0]]), text)

    words, values = [moved(word) for word in words], {name: moved(value) for name, value in values.items()}
    assert words[0] == "python"
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return [sys.executable, *words[1:]], inherited | {"PYTHONDONTWRITEBYTECODE": "1"} | values


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            if ask(address, host="10.20.30.40:5000")[0] == 200:  # the kubelet asks by the pod's number
                return
        time.sleep(0.3)
    raise TimeoutError(log.read_text()[-3000:])
