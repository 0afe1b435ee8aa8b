"""Cosine similarity, optionally after subtracting the training utterances' mean embedding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speakerverif.scoring.backends._linear import LinearCosine


@dataclass(frozen=True)
class Config:
    """`subtract_mean` needs `fit`; without it there is nothing to train."""

    subtract_mean: bool = False


class Cosine(LinearCosine):
    """Source: WeSpeaker's scoring: the mean is that of all raw training embeddings, each counting once."""

    arrays = ("mean",)

    def __init__(self, config: Config) -> None:
        self.subtract_mean = self.needs_training = config.subtract_mean
        if not config.subtract_mean:
            self.mean = np.zeros(1)

    def fit(self, embeddings: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """Take the mean (D,) of training embeddings (N, D); their speakers don't matter."""
        if self.subtract_mean:
            self.mean = embeddings.mean(axis=0, dtype=np.float64)


def build(config: Config) -> Cosine:
    """Return the back end."""
    return Cosine(config)
