"""Parameters of preflight."""

import dataclasses

from components.runtime.params import StageParams, knob


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Tries what a gang needs before it trains: that all ranks meet and reduce, and that /dev/shm is large enough."""

    message_mib: int = knob(64, help="size of the tensor that is reduced over all ranks, in MiB", low=1, high=4096)
    num_rounds: int = knob(10, help="reductions that are timed, after one that is not", low=1, high=10_000)
    min_shm_gib: float = knob(0.5, help="least size of /dev/shm, in GiB", low=0, high=4096)
    min_bus_gb_per_s: float = knob(0.0, help="least bus bandwidth of the reduction in GB/s; 0: any will do", low=0)
    timeout_s: float = knob(300.0, help="how long a rank waits for the others", low=1, high=86_400)
