"""The Volcano job of a gang: golden files, the schemas of Kubernetes and Volcano, Pod Security "restricted"."""

import copy
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from components.launch.app import pod_name
from components.launch.gang import MOST_NODES, gang_name, read_pool
from components.launch.volcano import volcano_job
from tests.launch.gangs import ARGV, DIGEST, GOLDEN, RUN_ID, SHAPES, TRACKING, as_text, gang, job_of, pool
from tests.launch.pod_security import violations

HERE = Path(__file__).parent
SCHEMA = jsonschema.Draft202012Validator(json.loads((HERE / "volcano_job.schema.json").read_text()))
KUBERNETES = [f"1.{minor}" for minor in range(29, 37)]


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [task["template"]["spec"] for task in job["spec"]["tasks"]]


def env(pod: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["containers"][0]["env"]}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_job_is_the_golden_file(shape: str) -> None:
    assert as_text(job_of(shape)) == (GOLDEN / f"{shape}.yaml").read_text(), "run `python -m tests.launch.gangs`"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_gang_gives_the_same_bytes(shape: str) -> None:
    assert as_text(job_of(shape)) == as_text(job_of(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_job_fits_volcanos_types(shape: str) -> None:
    SCHEMA.validate(job_of(shape))


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_pods_fit_kubernetes_schema(shape: str, version: str) -> None:
    for task in job_of(shape)["spec"]["tasks"]:
        template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": task["template"]}
        assert kubernetes_validate.validate(template, version, strict=True) == version


def test_the_schemas_refuse_what_is_wrong() -> None:
    good = job_of("2x8")
    for path, value in (
        ("metadata.name", "9lives"),
        ("spec.queue", "Queue"),
        ("spec.maxRetries", 1),
        ("spec.networkTopology", {"mode": "near"}),
        ("spec.policies", [{"event": "PodFailed", "action": "RestartJob"}]),
    ):
        bad = copy.deepcopy(good)
        outer, _, key = path.partition(".")
        bad[outer][key] = value
        assert list(SCHEMA.iter_errors(bad)), path
    template = copy.deepcopy(good["spec"]["tasks"][0]["template"])
    template["spec"]["containers"][0]["securityContext"]["dropCapabilities"] = True
    wrong = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": template}
    with pytest.raises(kubernetes_validate.utils.ValidationError):
        kubernetes_validate.validate(wrong, "1.36", strict=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pod_is_restricted_and_cannot_write_its_root(shape: str) -> None:
    for pod in pods(job_of(shape)):
        assert list(violations(pod)) == []
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert pod["securityContext"]["runAsUser"] > 0 and pod["automountServiceAccountToken"] is False


def test_the_check_of_restricted_finds_each_breach() -> None:
    def breach(change: Any) -> list[str]:
        pod = copy.deepcopy(pods(job_of("1x1"))[0])
        change(pod, pod["containers"][0])
        return list(violations(pod))

    assert breach(lambda pod, _: pod.update(hostNetwork=True))
    assert breach(lambda pod, _: pod["volumes"].append({"name": "h", "hostPath": {"path": "/"}}))
    assert breach(lambda pod, _: pod["securityContext"].pop("runAsNonRoot"))
    assert breach(lambda pod, _: pod["securityContext"].pop("seccompProfile"))
    assert breach(lambda pod, _: pod["securityContext"].update(runAsUser=0))
    assert breach(lambda _, container: container["securityContext"].update(privileged=True))
    assert breach(lambda _, container: container["securityContext"].pop("allowPrivilegeEscalation"))
    assert breach(lambda _, container: container["securityContext"].pop("capabilities"))
    assert breach(lambda _, container: container["securityContext"]["capabilities"].update(add=["IPC_LOCK"]))
    assert breach(lambda _, container: container["ports"][0].update(hostPort=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_requested_is_the_limit_and_counts_shared_memory(shape: str) -> None:
    wanted = pool(SHAPES[shape][0])
    for pod in pods(job_of(shape)):
        resources = pod["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["requests"]["memory"] == f"{wanted.memory_gib + wanted.shm_gib}Gi"
        assert resources["requests"]["cpu"] == str(wanted.cpus)
        assert resources["requests"]["nvidia.com/gpu"] == str(wanted.gpus)
        shm, scratch = pod["volumes"]
        assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{wanted.shm_gib}Gi"}
        assert scratch["emptyDir"] == {"sizeLimit": f"{wanted.scratch_gib}Gi"}
        mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
        assert mounts == {shm["name"]: "/dev/shm", scratch["name"]: "/tmp"}


def test_a_pool_without_gpus_asks_for_none() -> None:
    (pod,) = pods(volcano_job(gang(num_nodes=1, pool=read_pool("cpu", {"cpus": 4, "memoryGib": 8}))))
    assert set(pod["containers"][0]["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}
    assert "--nproc-per-node=1" in pod["containers"][0]["command"]


def test_what_a_program_writes_goes_to_the_scratch_volume() -> None:
    for pod in pods(job_of("2x8")):
        places = {k: v for k, v in env(pod).items() if k.endswith(("_HOME", "_DIR", "CONFIGDIR")) or k == "HOME"}
        assert {"HOME", "HF_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"} <= set(places)
        assert all(place == "/tmp" or place.startswith("/tmp/") for place in places.values())


def test_nothing_random_or_of_this_machine_is_left() -> None:
    text = as_text(job_of("4x8-rdma"))
    assert set(re.findall(r"TORCHX_\w+", text)) == {"TORCHX_RANK0_HOST"}
    assert set(re.findall(r"torchx\.pytorch\.org/[\w-]+", text)) == {
        "torchx.pytorch.org/app-name",
        "torchx.pytorch.org/replica-id",
        "torchx.pytorch.org/role-name",
    }
    assert set(re.findall(r"pretrain-clip-\w+", text)) == {gang().name}


def test_all_meet_at_the_first_pod_which_is_rank_0() -> None:
    job = job_of("4x8-rdma")
    name = job["metadata"]["name"]
    first, *others = pods(job)
    assert env(first)["TORCHX_RANK0_HOST"] == "localhost"
    assert {env(pod)["TORCHX_RANK0_HOST"] for pod in others} == {f"{name}-node-0-0.{name}"}
    addresses = []
    for pod in pods(job):
        words = dict(word.split("=", 1) for word in pod["containers"][0]["command"] if word.startswith("--"))
        assert words["--rdzv-endpoint"] == "$(TORCHX_RANK0_HOST):29500" and words["--rdzv-id"] == name
        assert words["--nnodes"] == "4" and words["--nproc-per-node"] == "8" and words["--max-restarts"] == "0"
        addresses.append(words["--local-addr"])
    assert addresses == [f"{name}-node-{i}-0.{name}" for i in range(4)]
    assert min(f"{name}-node-{i}-0.{name}" for i in range(MOST_NODES)) == addresses[0]  # torchrun sorts them as text


def test_a_single_node_needs_no_dns() -> None:
    (pod,) = pods(job_of("1x1"))
    assert "--local-addr=localhost" in pod["containers"][0]["command"]
    assert env(pod)["TORCHX_RANK0_HOST"] == "localhost"


def test_names_of_pods_fit_for_the_largest_gang() -> None:
    name = gang_name(RUN_ID, "an_unusually_long_stage", "with-an-unusually-long-arm", DIGEST)
    last = pod_name(gang(name=name), MOST_NODES - 1)
    assert len(last.removesuffix("0") + str(MOST_NODES - 1)) <= 63  # Volcano's webhook puts the task's index there


def test_the_job_ends_as_one_and_is_never_restarted_by_volcano() -> None:
    job = job_of("4x8-rdma")
    assert job["spec"]["minAvailable"] == len(job["spec"]["tasks"]) == 4
    assert all(task["replicas"] == task["minAvailable"] == 1 for task in job["spec"]["tasks"])
    assert {policy["event"]: policy["action"] for policy in job["spec"]["policies"]} == {
        "PodEvicted": "TerminateJob",
        "PodFailed": "TerminateJob",
    }
    assert not any("policies" in task for task in job["spec"]["tasks"])
    assert {task["maxRetry"] for task in job["spec"]["tasks"]} == {job["spec"]["maxRetry"]} == {1}
    assert all(pod["restartPolicy"] == "Never" for pod in pods(job))


def test_the_steps_mlflow_run_is_rank_0s_alone() -> None:
    first, *others = pods(job_of("2x8"))
    assert TRACKING.items() <= env(first).items()
    assert not any(name.startswith("MLFLOW_") for pod in others for name in env(pod))


def test_secrets_stand_there_by_name_only() -> None:
    for pod in pods(job_of("2x8")):
        (container,) = pod["containers"]
        assert container["envFrom"] == [
            {"secretRef": {"name": "bucket-keys"}},
            {"configMapRef": {"name": "bucket-address"}},
        ]
        assert pod["imagePullSecrets"] == [{"name": "registry"}] and pod["serviceAccountName"] == "trainer"


def test_the_pool_decides_where_the_pods_run() -> None:
    job, wanted = job_of("4x8-rdma"), pool("h100-rdma")
    assert job["spec"]["queue"] == "training" and job["spec"]["priorityClassName"] == "training-high"
    assert job["spec"]["networkTopology"] == {"mode": "hard", "highestTierAllowed": 2}
    for pod in pods(job):
        assert pod["nodeSelector"] == wanted.node_selector and pod["affinity"] == wanted.affinity
        assert pod["tolerations"] == list(wanted.tolerations)
        assert wanted.env.items() <= env(pod).items()
        limits = pod["containers"][0]["resources"]["limits"]
        assert limits["rdma/hca_shared_devices_a"] == "8" and limits["hugepages-2Mi"] == "5120Mi"
    bare = pods(job_of("1x1"))[0]
    assert not {"nodeSelector", "affinity", "tolerations", "imagePullSecrets"} & set(bare)
    assert not any(name.startswith("NCCL") for name in env(bare))


def test_labels_find_the_job_and_its_pods() -> None:
    job = job_of("2x8")
    for metadata in (job["metadata"], *(task["template"]["metadata"] for task in job["spec"]["tasks"])):
        assert gang().labels().items() <= metadata["labels"].items()


def test_the_run_owns_the_job() -> None:
    (owner,) = job_of("1x1")["metadata"]["ownerReferences"]
    assert owner["kind"] == "Workflow" and owner["uid"]
    assert "ownerReferences" not in volcano_job(gang(owner=None))["metadata"]


@pytest.mark.parametrize("word", ["--a=$HOME", "--a=$(HOME)", "--a=$$", "--a=${app_id}", "--a=$", "--a=x y'\"\\"])
def test_the_stage_gets_its_command_line_as_it_was(word: str) -> None:
    (pod,) = pods(volcano_job(gang(num_nodes=1, argv=(*ARGV, word))))
    command = pod["containers"][0]["command"]
    at = command.index("components.pretrain")
    assert [expanded(each) for each in command[at + 1 :]] == [*ARGV, word]


def test_the_pools_variables_reach_the_ranks_as_they_are() -> None:
    strange = {"NCCL_DEBUG_FILE": "/tmp/$(HOME).%h", "A": "[FIELD_PATH]spec.nodeName"}
    (pod,) = pods(volcano_job(gang(num_nodes=1, pool=dataclasses.replace(pool("t4"), env=strange))))
    assert {name: expanded(env(pod)[name]) for name in strange} == strange


def test_describing_a_gang_loads_no_torch() -> None:
    program = "import sys, components.launch.volcano; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=HERE.parents[1], check=False).returncode == 0


def expanded(text: str) -> str:
    """Returns what the kubelet makes of a text in which no variable is to be expanded."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", text), text
    return text.replace("$$", "$")
