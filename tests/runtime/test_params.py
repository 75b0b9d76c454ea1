"""Parameters and their command line."""

import dataclasses

import pytest

from components.pretrain.params import Params as Pretrain
from components.runtime.errors import BadInput
from components.runtime.params import StageParams, knob, parse, source, table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """A stage for the tests."""

    shards: str = source(help="data", kind="Dataset")
    size_px: int = knob(48, help="side", low=8, high=1024)
    rate: float = knob(1e-3, help="learning rate", low=0)
    is_grey: bool = knob(False, help="drop colour")
    arm: str = knob("clip", help="objective", choices=("clip", "dino"))


GIVEN = ["--out_uri=out", "--shards=in"]


def problems(*argv: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        parse(Params, [*GIVEN, *argv])
    return list(caught.value.problems)


def test_argv_and_back_gives_the_same_parameters() -> None:
    params = Params(out_uri="s3://b/-odd=name", shards="a", size_px=64, rate=2.5e-05, is_grey=True, arm="dino")
    assert parse(Params, params.argv()) == params


@pytest.mark.parametrize("stage", ["build_shards", "pretrain", "evaluate", "train_vlm", "benchmark_vlm"])
def test_every_stage_documents_each_of_its_parameters(stage: str) -> None:
    params = __import__(f"components.{stage}.params", fromlist=["Params"]).Params
    shown = table(params)
    for field in dataclasses.fields(params):
        assert f"`{field.name}`" in shown and field.metadata["help"] in shown


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--siz_px=3", "--siz_px is unknown: did you mean --size_px?"),
        ("--size_px=large", "--size_px=large is not a whole number (8 to 1024)."),
        ("--size_px=4", "--size_px=4 is not a whole number (8 to 1024)."),
        ("--size_px=48.5", "--size_px=48.5 is not a whole number (8 to 1024)."),
        ("--rate=nan", "--rate=nan is not a number (at least 0)."),
        ("--rate=-1", "--rate=-1.0 is not a number (at least 0)."),
        ("--rate=5 min", "--rate=5 min is not a number (at least 0)."),
        ("--is_grey=yes", "--is_grey=yes is not true or false."),
        ("--arm=clop", "--arm=clop is unknown: did you mean --arm=clip?"),
        ("size_px=48", "'size_px=48' is not a parameter: write --name=value."),
        ("--size_px", "'--size_px' is not a parameter: write --name=value."),
        ("--shards=other", "--shards is given twice: keep one."),
    ],
)
def test_a_wrong_value_gets_one_sentence(argument: str, sentence: str) -> None:
    assert problems(argument) == [sentence]


def test_all_problems_are_reported_at_once() -> None:
    assert len(problems("--size_px=x", "--arms=clip", "--is_grey=1")) == 3


def test_a_missing_parameter_is_named_with_its_meaning() -> None:
    with pytest.raises(BadInput, match="--shards is missing: give data"):
        parse(Params, ["--out_uri=out"])


def test_an_empty_address_is_refused() -> None:
    with pytest.raises(BadInput, match="--out_uri is empty"):
        parse(Params, ["--out_uri=", "--shards=in"])


def test_addresses_do_not_change_the_digest_and_knobs_do() -> None:
    base = Params(out_uri="a", shards="b")
    assert base.digest() == Params(out_uri="c", shards="d").digest()
    assert base.digest() != Params(out_uri="a", shards="b", size_px=49).digest()


def test_several_addresses_are_joined_by_commas() -> None:
    assert Params(out_uri="a", shards="s3://b/c, d").addresses("shards") == ["s3://b/c", "d"]


def test_sizes_that_do_not_divide_one_another_are_refused_together() -> None:
    with pytest.raises(BadInput) as caught:
        Pretrain(out_uri="a", shards="b", arm="clip", width=97, batch_size=63)
    assert len(caught.value.problems) == 2
