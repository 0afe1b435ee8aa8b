"""Sub-center: K weight vectors per speaker, of which the nearest counts, with an AM or AAM margin.

Wrongly labelled and unusual recordings gather around the spare vectors, and no longer pull at the main one.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

from speakerverif._util.ranges import Range
from speakerverif.heads._base import Head
from speakerverif.heads._named import build_base


@dataclass(frozen=True)
class Config:
    """Sub-center; K = 3 and the angular margin are the paper's."""

    sub_centers: Annotated[int, Range(1, 1_000)] = 3  # K, weight vectors per class
    # The name and the keys of aam_softmax or am_softmax.
    base: dict[str, Any] = field(default_factory=lambda: {"name": "aam_softmax"})


def build(config: Config, embedding_dim: int, num_speakers: int) -> Head:
    """Return the base head with K sub-centres: the same as that head with `sub_centers` set.

    Source:
        Deng, Guo, Liu, Gong, Zafeiriou, "Sub-center ArcFace", ECCV 2020.

    Raises:
        InputError: a base other than AM- or AAM-Softmax, or a value out of range.
    """
    table = config.base | {"sub_centers": config.sub_centers}
    return build_base(table, embedding_dim, num_speakers, allowed=("am_softmax", "aam_softmax"))
