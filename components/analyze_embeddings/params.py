"""Parameters of analyze_embeddings."""

import dataclasses

from components.runtime.params import StageParams, knob, source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Params(StageParams):
    """Finds what one encoder sees and the other does not: pairs of pictures, and numbers per factor."""

    features: str = source(
        help="features of two or more encoders over the same pictures, of each arm the same replicates",
        kind="Dataset",
        many=True,
    )
    shards: str = source(help="the labelled shards that the features were made from", kind="Dataset")
    num_pairs: int = knob(12, help="pairs shown in each direction", low=1, high=1000)
    pair_quantile: float = knob(
        0.99,
        help="a pair is alike above this quantile of similarity, and unlike below 1 minus it",
        low=0.5,
        high=0.9999,
    )
    max_pictures: int = knob(4000, help="pictures of the test split that are looked at, drawn at random", low=3)
    seed: int = knob(0, help="seed of what is drawn: pictures, permutations, resamples", low=0, high=2**31 - 1)
