"""Linear discriminant analysis: cosine in the few directions that separate the training speakers best."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.ranges import Width
from speakerverif.scoring.backends._linear import LinearCosine
from speakerverif.scoring.backends._statistics import lda_directions


@dataclass(frozen=True)
class Config:
    """`dim`: how many directions are kept, at most the dimension and the training speakers minus one."""

    dim: Width = 128


class Lda(LinearCosine):
    """Cosine similarity after centring and projection."""

    def __init__(self, config: Config) -> None:
        self.dim = config.dim

    def fit(self, embeddings: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """Learn mean and directions from embeddings float (N, D) with speaker labels int (N,)."""
        values = embeddings.astype(np.float64)
        self.mean, self.matrix = values.mean(axis=0), lda_directions(values, labels, self.dim)


def build(config: Config) -> Lda:
    """Return the untrained back end."""
    return Lda(config)
