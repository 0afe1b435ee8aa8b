"""Statistics of labelled embeddings that several back ends are trained on."""

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from speakerverif.errors import InputError
from speakerverif.scoring.normalization import owner_sums


def class_means(
    embeddings: NDArray[np.float64], labels: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Return each class's mean (S, D), its count (S,), and the within-class scatter (D, D), a sum over rows.

    Raises:
        InputError: lengths differ; values not finite; fewer than two classes; no class with two rows.
    """
    if len(embeddings) != len(labels):
        raise InputError(f"training: {len(embeddings)} embeddings, but {len(labels)} speaker labels")
    if not np.isfinite(embeddings).all():
        rows = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
        raise InputError(f"training: embeddings of rows {rows[:10].tolist()} are not finite")
    _, owner, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(counts) < 2 or counts.max() < 2:
        raise InputError(
            f"training: {len(counts)} speakers with at most {counts.max(initial=0)} utterances; "
            "expected two speakers at least, some with two utterances or more"
        )
    means = owner_sums(embeddings, owner, len(counts)) / counts[:, None]
    residual = embeddings - means[owner]
    return means, counts, residual.T @ residual


def cholesky(covariance: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """Return lower triangular L with L Lᵀ = covariance, or raise `InputError`: the `what` one is singular."""
    try:
        lower: NDArray[np.float64] = linalg.cholesky(covariance, lower=True)
    except linalg.LinAlgError:
        lower = np.zeros_like(covariance)
    diagonal = np.diag(lower)
    if diagonal.min() <= 1e-7 * np.sqrt(np.diag(covariance).max()):
        raise InputError(
            f"training: the {what} covariance of {len(covariance)} dimensions is singular; "
            "give more utterances per speaker, or fewer dimensions"
        )
    return lower


def lda_directions(
    embeddings: NDArray[np.float64], labels: NDArray[np.integer], dim: int
) -> NDArray[np.float64]:
    """Return (D, dim) directions V, best first, that have unit variance within speakers: Vᵀ W V = I.

    Source: Fisher 1936; Bishop 2006, section 4.1.6: generalised eigenvectors of the between- and the
        within-class covariance. Speakers weigh by their number of utterances in both.

    Raises:
        InputError: more directions than there can be; a singular within-class covariance.
    """
    means, counts, scatter = class_means(embeddings, labels)
    most = min(embeddings.shape[1], len(counts) - 1)
    if not 1 <= dim <= most:
        raise InputError(
            f"lda: dim {dim}: expected 1 to {most} "
            f"({embeddings.shape[1]} dimensions, {len(counts)} training speakers)"
        )
    within = scatter / len(embeddings)
    cholesky(within, "within-speaker")
    centred = means - embeddings.mean(axis=0)
    between = (centred.T * (counts / len(embeddings))) @ centred
    directions: NDArray[np.float64] = linalg.eigh(between, within)[1][:, ::-1]
    return directions[:, :dim]
