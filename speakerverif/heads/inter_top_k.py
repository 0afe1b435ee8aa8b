"""Inter-top-K: the K other speakers nearest to an embedding are raised, in addition to the target's margin."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

from speakerverif._util.ranges import Range
from speakerverif.heads._base import Head
from speakerverif.heads._named import build_base


@dataclass(frozen=True)
class Config:
    """Inter-top-K; K and m' are the paper's."""

    top_k: Annotated[int, Range(0, 1_000_000)] = 5  # K, number of other classes that are raised
    # m', in the base's unit: cosine (AM) or radians (AAM).
    top_k_margin: Annotated[float, Range(0, math.pi / 2)] = 0.06
    # The name and the keys of aam_softmax or am_softmax.
    base: dict[str, Any] = field(default_factory=lambda: {"name": "aam_softmax"})


def build(config: Config, embedding_dim: int, num_speakers: int) -> Head:
    """Return the base head with the K hardest others raised: the same as that head with `top_k` set.

    Source:
        Zhao et al., "Multi-query multi-head attention pooling and inter-topK penalty for speaker
        verification", 2021, arXiv 2110.05042, sec. 3.

    Raises:
        InputError: a base other than AM- or AAM-Softmax, or a value out of range.
    """
    table = config.base | {"top_k": config.top_k, "top_k_margin": config.top_k_margin}
    return build_base(table, embedding_dim, num_speakers, allowed=("am_softmax", "aam_softmax"))
