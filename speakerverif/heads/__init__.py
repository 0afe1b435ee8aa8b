"""Training heads: embeddings and speakers to a loss, one loss per file.

Each head is a class with plain keyword arguments, `AMSoftmax(192, 1000, margin=0.2, scale=30.0)`; `build`
makes one from a recipe's table.
"""

import importlib
from typing import TYPE_CHECKING, Any

from speakerverif._util import registry

if TYPE_CHECKING:
    from speakerverif.heads._base import ClassifierHead, CosineHead, Head
    from speakerverif.heads._pairs import PairHead
    from speakerverif.heads.a_softmax import ASoftmax
    from speakerverif.heads.aam_softmax import AAMSoftmax
    from speakerverif.heads.am_softmax import AMSoftmax
    from speakerverif.heads.angular_prototypical import AngularPrototypical
    from speakerverif.heads.center import Center
    from speakerverif.heads.circle import Circle
    from speakerverif.heads.ge2e import GE2E
    from speakerverif.heads.l_softmax import LSoftmax
    from speakerverif.heads.modified_softmax import ModifiedSoftmax
    from speakerverif.heads.normface import NormFace
    from speakerverif.heads.softmax import Softmax
    from speakerverif.heads.sphereface2 import SphereFace2
    from speakerverif.heads.triplet import Triplet

__all__ = [
    "GE2E",
    "AAMSoftmax",
    "AMSoftmax",
    "ASoftmax",
    "AngularPrototypical",
    "Center",
    "Circle",
    "ClassifierHead",
    "CosineHead",
    "Head",
    "LSoftmax",
    "ModifiedSoftmax",
    "NormFace",
    "PairHead",
    "Softmax",
    "SphereFace2",
    "Triplet",
    "build",
]

_HOME = {
    "AAMSoftmax": "aam_softmax",
    "AMSoftmax": "am_softmax",
    "ASoftmax": "a_softmax",
    "AngularPrototypical": "angular_prototypical",
    "Center": "center",
    "Circle": "circle",
    "ClassifierHead": "_base",
    "CosineHead": "_base",
    "GE2E": "ge2e",
    "Head": "_base",
    "LSoftmax": "l_softmax",
    "ModifiedSoftmax": "modified_softmax",
    "NormFace": "normface",
    "PairHead": "_pairs",
    "Softmax": "softmax",
    "SphereFace2": "sphereface2",
    "Triplet": "triplet",
}


def __getattr__(name: str) -> Any:
    """Return a public class from its module, imported on first use: listing the heads needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def build(table: dict[str, Any], embedding_dim: int, num_speakers: int) -> "Head":
    """Return the training head of a recipe's `[head]` table, for `num_speakers` classes.

    Raises:
        InputError: an unknown name or key, or a wrong value; the alternatives are named.
    """
    module, config = registry.resolve("head", table)
    head: Head = module.build(config, embedding_dim, num_speakers)
    return head
