"""What a gang may be: its pools' file, its name, and what must never be written into it."""

import json
import re

import pytest
import yaml

from components.launch.gang import (
    POOL_KEYS,
    gang_name,
    label_value,
    read_pool,
    read_pools,
    run_selector,
    tracking_of,
)
from components.runtime.errors import BadInput
from tests.launch.gangs import DIGEST, POOLS, RUN_ID, gang, pool

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def refused(text: str) -> tuple[str, ...]:
    with pytest.raises(BadInput) as caught:
        read_pools(text)
    return caught.value.problems


def of_pool(**values: object) -> str:
    return json.dumps({"pools": {"a": {"cpus": 1, "memoryGib": 1} | values}})


def test_a_pool_comes_back_from_what_it_writes() -> None:
    for name, read in read_pools(POOLS).items():
        assert read_pools(json.dumps({"pools": {name: read.as_mapping()}}))[name] == read


def test_json_is_read_like_yaml() -> None:
    assert read_pools(json.dumps(yaml.safe_load(POOLS))) == read_pools(POOLS)


def test_a_pool_without_gpus_has_one_process() -> None:
    assert read_pool("cpu", {"cpus": 4, "memoryGib": 8}).num_processes == 1
    assert pool("h100").num_processes == 8


def test_every_wrong_value_has_its_sentence() -> None:
    problems = refused(of_pool(cpus="many", gpus=-1, memoryGib=True, tolerations=[{"effekt": "NoSchedule"}]))
    assert problems == (
        "pools.a.cpus=many is not a whole number of at least 1: correct it in the pools' file.",
        "pools.a.memoryGib=true is not a whole number of at least 1: correct it in the pools' file.",
        "pools.a.gpus=-1 is not a whole number of at least 0: correct it in the pools' file.",
        'pools.a.tolerations=[{"effekt": "NoSchedule"}] is not a list of Kubernetes tolerations: '
        "correct it in the pools' file.",
    )


def test_problems_of_all_pools_are_told_at_once() -> None:
    problems = refused('{"pools": {"a": {"cpus": 0, "memoryGib": 1}, "b": {"cpus": 1}, "C": {}, "d": 3}}')
    assert [problem.partition(" ")[0] for problem in problems] == [
        "pools.a.cpus=0",
        "pools.b.memoryGib",
        "pools.C",
        "pools.d=3",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("devices", {"rdma/hca": "1"}),
        ("devices", {"rdma/hca": 0}),
        ("devices", {"rdma": 1}),
        ("devices", {"hugepages-2Mi": 4}),
        ("shmGib", 0),
        ("userId", 0),
        ("nodeSelector", {"gpu": True}),
        ("nodeSelector", ["gpu"]),
        ("tolerations", {"key": "gpu"}),
        ("tolerations", [{"key": "gpu", "operator": "In"}]),
        ("affinity", {"nodeAffinities": {}}),
        ("affinity", {"nodeAffinity": []}),
        ("env", {"NCCL_IB_DISABLE": 1}),
        ("env", {"NCCL-DEBUG": "INFO"}),
        ("envFromSecrets", "bucket-keys"),
        ("envFromSecrets", ["Bucket_Keys"]),
        ("imagePullSecrets", [{"name": "registry"}]),
        ("queue", "Training Queue"),
        ("networkTopology", {"mode": "near"}),
        ("networkTopology", {"highestTierAllowed": "1"}),
    ],
)
def test_a_wrong_value_is_refused_by_name(key: str, value: object) -> None:
    (problem,) = refused(of_pool(**{key: value}))
    assert problem.startswith(f"pools.a.{key}=") and " is not " in problem and problem.endswith(".")


def test_a_misspelt_key_is_offered_its_neighbour() -> None:
    assert refused(of_pool(memoryGb=3)) == ("pools.a.memoryGb is unknown: did you mean pools.a.memoryGib?",)


@pytest.mark.parametrize("text", ["", "[]", "pools: {}", "pools: [a]", "a: {cpus: 1}", "pools: {a: {}}\nmore: 1", "{"])
def test_a_file_without_pools_is_refused_in_one_sentence(text: str) -> None:
    (problem,) = refused(text)
    assert problem.startswith("The pools' file ") and "\n" not in problem


@pytest.mark.parametrize(
    "env",
    [
        {"AWS_SECRET_ACCESS_KEY": "x"},
        {"HF_TOKEN": "x"},
        {"MLFLOW_TRACKING_PASSWORD": "x"},
        {"WANDB_API_KEY": "x"},
        {"PROXY": "http://me:word@proxy:80"},
    ],
)
def test_a_secret_is_not_taken_as_text(env: dict[str, str]) -> None:
    (problem,) = refused(of_pool(env=env))
    (value,) = env.values()
    assert "looks like a secret" in problem and "envFromSecrets" in problem and f"={value}" not in problem


def test_what_only_sounds_like_a_secret_is_taken() -> None:
    env = {"TOKENIZERS_PARALLELISM": "false", "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/t", "S3": "http://s3:9000/a@b"}
    assert read_pools(of_pool(env=env))["a"].env == env


def test_every_key_of_the_file_is_camel_case() -> None:
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", key) for key in POOL_KEYS)


def test_a_name_is_the_same_each_time_and_another_for_anything_else() -> None:
    one = gang_name(RUN_ID, "pretrain", "clip", DIGEST)
    assert one == "pretrain-clip-" + one[-16:]
    assert one == gang_name(RUN_ID, "pretrain", "clip", DIGEST)
    others = {
        gang_name("other", "pretrain", "clip", DIGEST),
        gang_name(RUN_ID, "train_vlm", "clip", DIGEST),
        gang_name(RUN_ID, "pretrain", "dino", DIGEST),
        gang_name(RUN_ID, "pretrain", "clip", "cd" * 32),
        gang_name(RUN_ID, "pretrai", "n-clip", DIGEST),
    }
    assert len(others | {one}) == 6


@pytest.mark.parametrize("arm", ["", "clip_lm", "clip-lm-3", "ÄÖÜ", "-", "a" * 200, "x" * 14 + "-----y"])
@pytest.mark.parametrize("stage", ["pretrain", "train_vlm", "9lives", "a_stage_whose_name_fills_the_whole_name"])
def test_a_name_is_a_short_dns_label(stage: str, arm: str) -> None:
    name = gang_name(RUN_ID, stage, arm, DIGEST)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 40 and "--" not in name


@pytest.mark.parametrize("text", ["", "clip", "a b", "ä" * 90, "-x", "x" * 63, "x" * 64, "x-" * 50, "/", "a/b/c"])
def test_a_labels_value_is_one_kubernetes_takes(text: str) -> None:
    assert LABEL_VALUE.fullmatch(label_value(text))


def test_runs_whose_names_look_alike_have_different_labels() -> None:
    assert len({label_value(name) for name in ("a b", "a-b", "a/b", "x" * 64, "x" * 65)}) == 5
    assert run_selector("a b") == f"ceteris.io/managed=true,ceteris.io/run={label_value('a b')}"
    assert gang(run_id="a b").labels()["ceteris.io/run"] == label_value("a b")


@pytest.mark.parametrize("num_nodes", [0, -1, 1000])
def test_an_impossible_number_of_nodes_is_refused(num_nodes: int) -> None:
    with pytest.raises(BadInput, match=f"num_nodes={num_nodes} is not a whole number from 1 to 999"):
        gang(num_nodes=num_nodes)


def test_only_mlflows_addresses_are_taken_from_the_step() -> None:
    step = {"MLFLOW_RUN_ID": "r", "MLFLOW_TRACKING_URI": "", "MLFLOW_TRACKING_TOKEN": "t", "HOME": "/"}
    assert tracking_of(step) == {"MLFLOW_RUN_ID": "r"}


@pytest.mark.parametrize("tracking", [{"MLFLOW_TRACKING_TOKEN": "t"}, {"MLFLOW_TRACKING_URI": "http://me:word@mlflow"}])
def test_credentials_are_not_forwarded_to_rank_0(tracking: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        gang(tracking=tracking)
