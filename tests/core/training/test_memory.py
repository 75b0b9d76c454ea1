"""Memory errors become sentences; other errors stay what they are."""

import pytest
import torch

from components.core.training.memory import OutOfMemory, said_out_of_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: 8 bytes"
        ),
    ],
)
def test_each_kind_of_memory_error_names_the_numbers_and_the_remedy(error: Exception) -> None:
    with (
        pytest.raises(OutOfMemory, match=r"512 samples per rank in num_micro_batches=4.*checkpoint_activations"),
        said_out_of_memory(512, 4, CPU),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("sizes differ"), ValueError("no"), KeyError("loss")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as found, said_out_of_memory(1, 1, CPU):
        raise error
    assert found.value is error
