"""Whitening, of the within-speaker or of the total covariance, then cosine (length normalisation)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from speakerverif.scoring.backends._linear import LinearCosine
from speakerverif.scoring.backends._statistics import cholesky, class_means


@dataclass(frozen=True)
class Config:
    """`covariance`: `within` speakers is WCCN proper; `total` is whitening, which needs no speaker labels."""

    covariance: Literal["within", "total"] = "within"


class Wccn(LinearCosine):
    """Cosine similarity after centring and a map A with A Aᵀ = C⁻¹: directions that vary little count more.

    Source: Hatch, Kajarekar and Stolcke 2006, "Within-class covariance normalization for SVM-based speaker
        recognition"; whitening before length normalisation: Garcia-Romero and Espy-Wilson 2011. Departures:
        the within-speaker covariance is pooled over utterances, where Hatch et al. average the speakers'
        covariances, so a speaker of one utterance does not count as one who never varies; no smoothing.
    """

    def __init__(self, config: Config) -> None:
        self.covariance = config.covariance

    def fit(self, embeddings: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """Learn mean and map from embeddings float (N, D) with speaker labels int (N,).

        Raises:
            InputError: the covariance is singular: too few utterances for the dimension.
        """
        values = embeddings.astype(np.float64)
        self.mean = values.mean(axis=0)
        if self.covariance == "within":
            _, counts, scatter = class_means(values, labels)
            matrix = scatter / (len(values) - len(counts))
        else:
            matrix = np.cov(values, rowvar=False)
        lower = cholesky(np.atleast_2d(matrix), self.covariance)
        self.matrix = linalg.solve_triangular(lower, np.eye(len(lower)), lower=True).T


def build(config: Config) -> Wccn:
    """Return the untrained back end."""
    return Wccn(config)
