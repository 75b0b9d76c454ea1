"""Mining pairs among random features: beside the same search with all pairs in memory, and at 200,000 pictures."""

import hashlib
import itertools
import resource
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from components.core.evaluation import pairs
from components.core.evaluation.pair_tiles import num_distinct_pairs
from tests.bench.measure import Contender, NotEqual, compare_pair, cost, print_row

NUM_FEW, NUM_MANY, WIDTH = 4_000, 200_000, 64
QUANTILE, NUM_PAIRS = 0.99, 500
LIMIT_GIB = 2.0


def rows() -> None:
    """Prints both rows, once both searches find the same pairs; all with one thread."""
    dense = Contender("all pairs in memory, NumPy", f"{__name__}:peer")
    compare_pair(f"pair mining, {NUM_FEW:,} pictures", Contender("ours", f"{__name__}:ours"), dense)
    measured = cost(Contender("ours", f"{__name__}:at_scale"))
    peak_gib = measured.found["peak_gib"]
    if peak_gib > LIMIT_GIB:
        raise NotEqual(f"{NUM_MANY:,} pictures took {peak_gib:.2f} GiB, which should be at most {LIMIT_GIB:g}")
    compared = num_distinct_pairs(NUM_MANY)
    print_row(
        f"pair mining, {NUM_MANY:,} pictures",
        f"a limit of {LIMIT_GIB:g} GiB",
        f"{peak_gib / LIMIT_GIB:.2f}x",
        "(measured once)",
        f"peak memory, {peak_gib:.2f} GiB; {compared / 1e9:.0f} billion pairs of {WIDTH} features, 2 encoders, in "
        f"{measured.cpu_s:.0f} CPU seconds ({measured.wall_s:.0f} s): {compared / measured.cpu_s / 1e6:.0f} million a "
        "second with one thread",
    )


def ours() -> Callable[[], Any]:
    """Prepares ours: returns a hash of the pairs of both directions."""
    encoders = _encoders(NUM_FEW)
    return lambda: _hash([mined.pairs_M2 for mined in _mine(encoders).values()])


def peer() -> Callable[[], Any]:
    """Prepares the search with all pairs in memory: returns the same hash."""
    encoders = _encoders(NUM_FEW)
    return lambda: _hash(_all_in_memory(encoders))


def at_scale() -> Callable[[], Any]:
    """Prepares ours: returns how much memory the process had at most."""
    encoders = _encoders(NUM_MANY)

    def work() -> dict[str, float]:
        num_found = [len(mined.pairs_M2) for mined in _mine(encoders).values()]
        if num_found != [NUM_PAIRS, NUM_PAIRS]:
            raise NotEqual(f"{num_found} pairs were found, {NUM_PAIRS} in each direction are expected")
        return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}

    return work


def _hash(directions: Sequence[numpy.ndarray]) -> str:
    return hashlib.sha256(b"".join(pairs_M2.tobytes() for pairs_M2 in directions)).hexdigest()


def _encoders(num_pictures: int) -> dict[str, numpy.ndarray]:
    generator = numpy.random.default_rng(0)
    return {name: generator.standard_normal((num_pictures, WIDTH), numpy.float32) for name in ("clip", "dino")}


def _mine(encoders: Mapping[str, numpy.ndarray]) -> dict[pairs.Direction, pairs.MinedPairs]:
    scales = pairs.thresholds(encoders, QUANTILE, seed=0).scales
    return pairs.mine(encoders, scales, NUM_PAIRS)


def _all_in_memory(encoders: Mapping[str, numpy.ndarray]) -> list[numpy.ndarray]:
    """Returns the greedy choice of both directions among all pairs at once."""
    upper = numpy.triu_indices(NUM_FEW, 1)
    cosines, limits = {}, {}
    for name, rows in encoders.items():
        unit = rows / numpy.linalg.norm(rows, axis=1, keepdims=True)
        cosines[name] = (unit @ unit.T)[upper].astype(float)
        limits[name] = numpy.quantile(cosines[name], [1 - QUANTILE, QUANTILE])
    found = []
    for alike, unlike in itertools.permutations(encoders, 2):
        chosen = numpy.flatnonzero((cosines[alike] > limits[alike][1]) & (cosines[unlike] < limits[unlike][0]))
        gaps = cosines[alike][chosen] / cosines[alike].std() - cosines[unlike][chosen] / cosines[unlike].std()
        found.append(_greedy(numpy.stack(upper, axis=1)[chosen[numpy.argsort(-gaps, kind="stable")]]))
    return found


def _greedy(ranked: numpy.ndarray) -> numpy.ndarray:
    taken: set[int] = set()
    found = []
    for pair in ranked.tolist():
        if taken.isdisjoint(pair) and len(found) < NUM_PAIRS:
            taken.update(pair)
            found.append(pair)
    return numpy.array(found)
