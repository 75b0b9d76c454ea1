"""A language model over two processes is the one of a single process, in shards or whole; checkpoints suit them all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from components.core.models.lora import merge_lora
from components.core.training import distributed
from components.core.training.checkpoint import Checkpoints
from components.core.training.loop import Interrupted
from components.core.training.sharding import shard
from components.runtime.storage import LocalFolder
from tests.core.training import small_runs
from tests.core.training.small_language_models import Sentence, llama, run_sentences
from tests.core.training.small_runs import clip, exit_codes, in_ranks, result, state_sha256, write_result

TRAINED = ("all", "projector", "last layer", "lora")


def _train(folder: Path, trained: str, changes: dict[str, Any]) -> None:
    """Trains or goes on; writes the curve, the hash of all weights, the weights, and what it held in memory."""
    torch.set_num_threads(1)
    objective = Sentence(llama(), trained)
    held: dict[str, int] = {}

    def measure(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [*objective.parameters()]
        states = [value for state in optimizer.state.values() for value in state.values()]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        held.update(parameters=_bytes(parameters), gradients=_bytes(gradients), states=_bytes(states))

    handle = register_optimizer_step_post_hook(measure)
    try:
        curve = run_sentences(objective, folder, **changes)
    except Interrupted:
        curve = []
    handle.remove()
    if curve:
        rank = distributed.world().rank
        save_file({n: t.clone() for n, t in objective.state_dict().items()}, folder / f"weights-{rank}.safetensors")
    write_result(folder, {"curve": curve, "weights": state_sha256(objective) if curve else "", "held": held})


def _bytes(tensors: list[torch.Tensor]) -> int:
    """Returns the bytes that this rank holds of tensors."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def _in(num: int, folder: Path, trained: str = "all", **changes: Any) -> dict[str, Any]:
    """Trains in so many processes and returns what the first found, which is what all found."""
    assert exit_codes(in_ranks(num, _train, folder, trained, changes), 200) == [0] * num
    found = [result(folder, rank) for rank in range(num)]
    for other in found[1:]:
        assert (other["curve"], other["weights"]) == (found[0]["curve"], found[0]["weights"]), "same on every rank"
    return found[0]


def _assert_equal(curve: Any, weights: Path, expected_curve: Any, expected_weights: Path) -> None:
    assert [step for step, _ in curve] == [step for step, _ in expected_curve]
    for (_, one), (_, other) in zip(expected_curve, curve, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], abs=1e-5)
    tensors, expected = load_file(weights), load_file(expected_weights)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("trained", TRAINED)
def test_two_processes_equal_one(tmp_path: Path, trained: str) -> None:
    one = tmp_path / "one"
    one.mkdir()
    _train(one, trained, {})
    expected, names = result(one), _names(one)
    for parallel, num_micro_batches in (("fsdp", 1), ("fsdp", 2), ("ddp", 2)):
        two = tmp_path / f"{parallel}-{num_micro_batches}"
        found = _in(2, two, trained, parallel=parallel, num_micro_batches=num_micro_batches)
        _assert_equal(found["curve"], two / "weights-0.safetensors", expected["curve"], one / "weights-0.safetensors")
        assert _names(two) == names


def _names(folder: Path) -> set[str]:
    latest = Checkpoints(LocalFolder(folder)).latest()
    assert latest is not None
    return set(latest.tensors)


def test_a_run_goes_on_with_more_or_fewer_processes_sharded_or_not(tmp_path: Path) -> None:
    one, changing = tmp_path / "one", tmp_path / "changing"
    one.mkdir()
    _train(one, "last layer", {})
    _in(2, changing, "last layer", parallel="fsdp", stop_at=1)
    _in(1, changing, "last layer", parallel="fsdp", stop_at=2)
    _in(2, changing, "last layer", parallel="fsdp", stop_at=3)
    _in(4, changing, "last layer", parallel="ddp", stop_at=4)
    found = _in(4, changing, "last layer", parallel="fsdp")
    _assert_equal(
        found["curve"], changing / "weights-0.safetensors", result(one)["curve"], one / "weights-0.safetensors"
    )


@pytest.mark.parametrize("trained", ["all", "lora"])
def test_resuming_is_bit_identical(tmp_path: Path, trained: str) -> None:
    expected = _in(2, tmp_path / "straight", trained, parallel="fsdp")
    assert not _in(2, tmp_path / "broken", trained, parallel="fsdp", stop_at=3)["curve"]
    found = _in(2, tmp_path / "broken", trained, parallel="fsdp")
    assert (found["curve"], found["weights"]) == (expected["curve"], expected["weights"])


def test_a_rank_of_two_holds_half_of_parameters_gradients_and_optimiser(tmp_path: Path) -> None:
    alone, half = (_in(num, tmp_path / str(num), parallel="fsdp")["held"] for num in (1, 2))
    whole = _in(2, tmp_path / "ddp", parallel="ddp")["held"]
    assert whole == alone
    for part in ("parameters", "gradients", "states"):
        # dimensions that two don't divide, and AdamW's counts of steps, aren't halved
        assert 0.5 <= half[part] / alone[part] < 0.53
    num_bytes = sum(parameter.numel() * 4 for parameter in Sentence(llama(), "all").parameters())
    assert alone["parameters"] == alone["gradients"] == num_bytes
    assert 2 * num_bytes < alone["states"] < 2.03 * num_bytes


def test_frozen_parameters_are_sharded_and_have_no_gradient_and_no_state(tmp_path: Path) -> None:
    held = _in(2, tmp_path, "projector", parallel="fsdp")["held"]
    objective = Sentence(llama(), "projector")
    assert held["parameters"] < 0.53 * sum(parameter.numel() * 4 for parameter in objective.parameters())
    assert held["gradients"] == sum(parameter.numel() * 4 for parameter in objective.projector.parameters()) / 2


def _twice(folder: Path) -> None:
    """Trains the projector, then all, on the same modules, as train_vlm does."""
    torch.set_num_threads(1)
    language_model = llama()
    kind, text = type(language_model), repr(language_model)
    objective = Sentence(language_model, "projector")
    run_sentences(objective, folder / "first", parallel="fsdp")
    assert type(language_model) is kind and repr(language_model) == text
    assert not any(isinstance(tensor, DTensor) for tensor in objective.state_dict().values())
    assert language_model.lm_head.weight is language_model.model.embed_tokens.weight, "tied as before"
    language_model.requires_grad_(True)
    second = Sentence(language_model, "all")
    curve = run_sentences(second, folder / "second", parallel="fsdp")
    if distributed.world().rank == 0:
        language_model.save_pretrained(folder / "saved")
    write_result(folder, {"weights": state_sha256(language_model), "curve": curve})


def test_what_was_sharded_is_whole_and_ordinary_when_training_ends(tmp_path: Path) -> None:
    assert exit_codes(in_ranks(2, _twice, tmp_path)) == [0, 0]
    assert result(tmp_path, 0) == result(tmp_path, 1)
    latest = Checkpoints(LocalFolder(tmp_path / "second")).latest()
    assert latest is not None
    from transformers import AutoModelForCausalLM

    read = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert state_sha256(read) == result(tmp_path)["weights"]
    for name, tensor in read.state_dict().items():
        assert torch.equal(latest.tensors[f"model/language_model.{name}"], tensor)


def test_bfloat16_gives_nearly_the_same_losses(tmp_path: Path) -> None:
    expected = _in(1, tmp_path / "one")["curve"]
    curve = _in(2, tmp_path / "two", parallel="fsdp", is_bfloat16=True, num_micro_batches=2)["curve"]
    for (_, one), (_, other) in zip(expected, curve, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.01)
    assert curve != expected
    latest = Checkpoints(LocalFolder(tmp_path / "two")).latest()
    assert latest is not None and {t.dtype for t in latest.tensors.values()} == {torch.float32}


def test_recomputing_activations_in_shards_is_bit_identical(tmp_path: Path) -> None:
    expected = _in(2, tmp_path / "plain", parallel="fsdp", num_micro_batches=2)
    found = _in(2, tmp_path / "tuned", parallel="fsdp", num_micro_batches=2, checkpoint_activations=True)
    assert (found["curve"], found["weights"]) == (expected["curve"], expected["weights"])


@pytest.mark.slow  # the compiler takes most of a minute
def test_compiled_blocks_in_shards_give_the_same_losses(tmp_path: Path) -> None:
    expected = _in(1, tmp_path / "one")["curve"]
    curve = _in(2, tmp_path / "two", parallel="fsdp", is_compiled=True, checkpoint_activations=True)["curve"]
    for (_, one), (_, other) in zip(expected, curve, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)


def _nonfinite(folder: Path) -> None:
    """One process sees a loss that is not finite at step 3."""
    torch.set_num_threads(1)
    objective = Sentence(llama(), "all")
    plain = Sentence.loss

    def loss(batch: Any, step: int) -> Any:
        found, metrics = plain(objective, batch, step)
        return (found * float("inf"), metrics) if step == 3 and distributed.world().rank == 1 else (found, metrics)

    objective.loss = loss  # type: ignore[method-assign]
    curve = run_sentences(objective, folder, parallel="fsdp")
    write_result(folder, {"curve": curve, "weights": state_sha256(objective)})


def test_a_step_that_is_bad_on_one_rank_is_skipped_on_all(tmp_path: Path) -> None:
    assert exit_codes(in_ranks(2, _nonfinite, tmp_path)) == [0, 0]
    assert result(tmp_path, 0) == result(tmp_path, 1)
    assert [step for step, _ in result(tmp_path)["curve"]] == [1, 2, 3, 5, 6]
    latest = Checkpoints(LocalFolder(tmp_path)).latest()
    assert latest is not None and latest.tensors["optimizer/projector.weight/step"] == 5
    assert all(torch.isfinite(tensor).all() for tensor in latest.tensors.values())


def test_lora_trained_in_shards_is_merged_into_a_plain_model(tmp_path: Path) -> None:
    _in(2, tmp_path, "lora", parallel="fsdp")
    objective = Sentence(llama(), "lora")
    objective.load_state_dict(load_file(tmp_path / "weights-1.safetensors"))
    latest = Checkpoints(LocalFolder(tmp_path)).latest()
    assert latest is not None
    names = [name for name in latest.tensors if name.startswith("model/")]
    assert all("lora_" in name or "projector" in name for name in names) and len(names) == 2 * 3 * 7 + 2
    tokens_BT = torch.arange(20).view(2, 10)
    expected, start = objective.language_model(tokens_BT).logits, llama()(tokens_BT).logits
    merge_lora(objective.language_model)
    torch.testing.assert_close(objective.language_model(tokens_BT).logits, expected, rtol=0, atol=1e-5)
    assert (expected - start).abs().max() > 1e-3
    assert objective.language_model.state_dict().keys() == llama().state_dict().keys()


@pytest.mark.parametrize("parallel", ["fsdp", "dpp"])
def test_what_cannot_be_sharded_is_refused(tmp_path: Path, parallel: str) -> None:
    said = "ClipObjective compares the samples" if parallel == "fsdp" else "parallel='dpp': choose one of ddp, fsdp"
    with pytest.raises(ValueError, match=said):
        small_runs.run(clip(), tmp_path, parallel=parallel)


def test_one_process_is_one_share() -> None:
    objective = Sentence(llama(), "all")
    before = {name: id(parameter) for name, parameter in objective.named_parameters()}
    shard(objective, parallel="fsdp", is_bfloat16=True)
    assert {name: id(parameter) for name, parameter in objective.named_parameters()} == before
