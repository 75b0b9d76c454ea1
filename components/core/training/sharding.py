"""One copy of a large model over all ranks: each holds a share of every parameter, gradient and optimiser state.

FSDP2 (Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", arXiv 2304.11277): a transformer
block's parameters are gathered before it computes and freed behind it; its gradients are averaged over the ranks and
dealt out. What is outside of blocks (word vectors, projector, head) is gathered for the whole of a step. A parameter
that doesn't train is dealt out too. The numbers are those of DistributedDataParallel up to the order of sums; with
bfloat16 blocks compute on bfloat16 copies, whose gradients are averaged in float32.

Between two steps every parameter, gradient and moment of AdamW is a DTensor, which has the whole one's name and shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._composable.contract import REGISTRY_KEY, STATE_KEY
from torch.distributed._composable_state import _module_state_mapping
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from components.core.objectives.objective import Objective
from components.core.training import distributed
from components.core.training.blocks import blocks_of

PARALLEL = ("ddp", "fsdp")


def shard(objective: Objective, *, parallel: str, is_bfloat16: bool) -> None:
    """Deals the objective's parameters out to the ranks, in place, where parallel is fsdp and there is a group.

    Args:
        objective: whole, on its device, the same on every rank.
        parallel: ddp, which changes nothing here, or fsdp.
        is_bfloat16: whether blocks compute on bfloat16 copies.

    Raises:
        ValueError: parallel is unknown, or the objective is of a kind that can't be sharded.
    """
    if parallel not in PARALLEL:
        raise ValueError(f"parallel={parallel!r}: choose one of {', '.join(PARALLEL)}.")
    if parallel == "ddp":
        return
    if not objective.is_separable:
        raise ValueError(
            f"parallel=fsdp: {type(objective).__name__} compares the samples of a batch with each other, outside of "
            "the pass for which parameters are gathered: choose parallel=ddp."
        )
    if not torch.distributed.is_initialized():
        return  # one process is one share
    mesh = init_device_mesh(next(objective.parameters()).device.type, (distributed.world().size,))
    policy = MixedPrecisionPolicy()
    if is_bfloat16:
        # inputs stay as they are: autocast is on beside it, and a mask's least float32 would become -inf
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for module in [*blocks_of(objective), objective]:
        fully_shard(module, mesh=mesh, mp_policy=policy)


def unshard(objective: nn.Module) -> None:
    """Makes a sharded objective whole again on every rank, in place, with ordinary modules and parameters.

    All ranks call it. PyTorch has no inverse of `fully_shard`: this undoes, one by one, what it does to modules.
    """
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            _make_ordinary(module)
    whole_of: dict[nn.Parameter, nn.Parameter] = {}  # tied ones stay tied
    for module in objective.modules():
        for name, parameter in module._parameters.items():
            if isinstance(parameter, DTensor):
                if parameter not in whole_of:
                    full = parameter.detach().full_tensor()
                    whole_of[parameter] = nn.Parameter(full, requires_grad=parameter.requires_grad)
                module._parameters[name] = whole_of[parameter]
        for mark in ("_is_fsdp_managed_module", "_fsdp_use_orig_params"):
            module.__dict__.pop(mark, None)


def _make_ordinary(module: Any) -> None:
    """Takes hooks, state and the added base class from a module; its parameters stay DTensors."""
    module.reshard()
    state = fully_shard.state(module)  # type: ignore[attr-defined]
    handles = [state._pre_forward_hook_handle, state._post_forward_hook_handle]
    for group in state._fsdp_param_groups:
        handles += [parameter._post_load_hook_handle for parameter in group.fsdp_params]
        handles += group._module_to_pre_save_state_dict_hook_handle.values()
        handles += group._module_to_pre_load_state_dict_hook_handle.values()
    for handle in handles:
        handle.remove()
    del module.__dict__[STATE_KEY], module.__dict__[REGISTRY_KEY], _module_state_mapping[module]
    module.__class__ = type(module).__mro__[FSDPModule._orig_cls_mro_index]


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether this rank holds a share of the tensor only."""
    return isinstance(tensor, DTensor)


def whole(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields every tensor whole, by name, one after the other, so that one at a time takes memory.

    Where one is sharded all ranks go through it together; the order is that of the names.
    """
    for name in sorted(tensors):
        tensor = tensors[name]
        yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def put(whole_tensor: Tensor, place: Tensor) -> None:
    """Copies a whole tensor, the same on every rank, into one of its shape, of which a rank may hold a share only."""
    whole_tensor = whole_tensor.to(place.device)
    if isinstance(place, DTensor):
        whole_tensor = distribute_tensor(whole_tensor, place.device_mesh, place.placements, src_data_rank=None)
    place.copy_(whole_tensor)
