"""The pods' own command lines, run here: they find one another, in order, and the stage gets its words."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from components.launch.app import pod_name
from components.launch.volcano import volcano_job
from tests.launch.gangs import ARGV, gang, pool


def as_kubelet(pod: dict[str, Any], addresses: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Returns the command and variables that a container would start with, pods' names as addresses of this machine."""

    def here(text: str) -> str:
        for name, address in addresses.items():
            text = text.replace(name, address)
        return text

    (container,) = pod["containers"]
    env = {each["name"]: here(each["value"].replace("$$", "$")) for each in container["env"]}
    words = [word.replace("$(TORCHX_RANK0_HOST)", env["TORCHX_RANK0_HOST"]) for word in container["command"]]
    return [sys.executable, *(here(word.replace("$$", "$")) for word in words[1:])], env


@pytest.mark.slow  # three agents and as many ranks, each of which imports torch
def test_the_pods_meet_and_rank_0_is_the_first() -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    of_three = gang(num_nodes=3, pool=pool("t4"), argv=(*ARGV, "--text=$HOME $(HOME) ${app_id}"))
    addresses = {f"{pod_name(of_three, i)}.{of_three.name}": f"127.0.0.{i + 1}" for i in range(3)}
    addresses |= {":29500": f":{port}", "components.pretrain": "tests.launch.ranks"}
    running = []
    pods = [task["template"]["spec"] for task in volcano_job(of_three)["spec"]["tasks"]]
    for number, pod in reversed(list(enumerate(pods))):
        command, env = as_kubelet(pod, addresses)
        # of the variables, those that decide where ranks meet; the others are paths in a container
        few = {name: env[name] for name in ("TORCHX_RANK0_HOST", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")}
        started = subprocess.Popen(
            command, env=os.environ | few | {"POD": str(number)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(started)
    try:
        ends = [process.communicate(timeout=200) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0, 0], ends
    said = sorted(json.loads(line) for out, _ in ends for line in out.splitlines())
    assert said == [[i, 3, str(i), list(of_three.argv)] for i in range(3)]
