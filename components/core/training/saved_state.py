"""What a checkpoint holds of a training: the same names and whole tensors, with any number of ranks, sharded or not.

Everything that training changes: the objective's parameters and buffers, AdamW's state, the guard's counts. What the
objective declares `unsaved`, such as a language model that stays frozen, is left out; a fingerprint is saved in its
place, so that no run goes on with another. Tensors travel one at a time, so that a rank needs memory for its share and
the largest tensor, and the first rank, which reads and writes, for one copy of all on its CPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.core.objectives.objective import Objective
from components.core.training import distributed
from components.core.training.guard import Guard
from components.core.training.optimizer import load_optimizer_tensor, optimizer_tensors
from components.core.training.sharding import put

MODEL, OPTIMIZER, GUARD = "model/", "optimizer/", "guard/"
NUM_SHOWN = 3  # names in an error
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers by bytes


class SavedState:
    """The tensors of a training by their names in checkpoints.

    Args:
        objective: on its device, not sharded yet.

    Attributes:
        fingerprint: of the parameters that are left out.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        left_out = {id(parameter) for parameter in objective.unsaved()}
        unsaved = {
            name: parameter
            for name, parameter in objective.named_parameters(remove_duplicate=False)
            if id(parameter) in left_out
        }
        assert not any(parameter.requires_grad for parameter in unsaved.values()), "what trains is saved"
        self._unsaved = frozenset(unsaved)
        self.fingerprint = fingerprint(unsaved)

    def tensors(self, optimizer: torch.optim.AdamW, guard: Guard) -> dict[str, Tensor]:
        """Returns the tensors as they are on this rank, sharded where the objective is."""
        return (
            {MODEL + name: tensor for name, tensor in self._model().items()}
            | {OPTIMIZER + name: tensor for name, tensor in optimizer_tensors(optimizer, self.objective).items()}
            | {GUARD + name: tensor for name, tensor in guard.state_dict().items()}
        )

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor], optimizer: torch.optim.AdamW, guard: Guard) -> None:
        """Puts the first rank's whole tensors back on all ranks.

        Args:
            saved: of a checkpoint, on the CPU; the first rank's count.
            optimizer: without state.
            guard: of this run.

        Raises:
            ValueError: the names or shapes are not this objective's.
        """
        shapes = distributed.from_first_rank({name: list(tensor.shape) for name, tensor in saved.items()})
        places = {MODEL + name: tensor for name, tensor in self._model().items()}
        places |= {GUARD + name: tensor for name, tensor in guard.state_dict().items()}
        trained = {name: p for name, p in self.objective.named_parameters() if p.requires_grad}
        self._check(shapes, places, trained)
        for name, tensor in distributed.tensors_from_first_rank(saved):
            if name in places:
                put(tensor, places[name])
            else:
                parameter_name, _, entry = name.removeprefix(OPTIMIZER).rpartition("/")
                load_optimizer_tensor(optimizer, trained[parameter_name], entry, tensor)

    def _model(self) -> dict[str, Tensor]:
        state = self.objective.state_dict()
        return {name: tensor for name, tensor in state.items() if name not in self._unsaved}

    def _check(
        self, shapes: Mapping[str, list[int]], places: Mapping[str, Tensor], trained: Mapping[str, nn.Parameter]
    ) -> None:
        wanted = {name: list(tensor.shape) for name, tensor in places.items()}
        states = [name.removeprefix(OPTIMIZER).rpartition("/")[0] for name in shapes if name.startswith(OPTIMIZER)]
        found = {name: shape for name, shape in shapes.items() if not name.startswith(OPTIMIZER)}
        odd = {name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)}
        odd |= {OPTIMIZER + name for name in states if name not in trained}
        if odd:
            shown = ", ".join(sorted(odd)[:NUM_SHOWN])
            raise ValueError(
                f"The checkpoint is of another model: {len(odd)} of its tensors or of this model's have no counterpart "
                f"of their name and shape ({shown}{', ...' if len(odd) > NUM_SHOWN else ''}): give the model that the "
                "run was begun with, or choose another folder."
            )


@torch.no_grad()
def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """Returns a hash of names, shapes, dtypes and the sums of the parameters' bits; empty for none.

    Sums of integers are exact in any order, so that a device finds them as fast as it reads; a cryptographic hash
    of a language model takes a minute.
    """
    if not parameters:
        return ""
    sums = [
        parameter.detach().contiguous().view(-1).view(_BITS[parameter.element_size()]).sum(dtype=torch.int64)
        for parameter in parameters.values()
    ]
    kinds = [[name, list(parameter.shape), str(parameter.dtype)] for name, parameter in parameters.items()]
    return hashlib.sha256(json.dumps([kinds, torch.stack(sums).tolist()]).encode()).hexdigest()
