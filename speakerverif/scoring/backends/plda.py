"""Two-covariance PLDA: the exact likelihood ratio of one speaker against two, for Gaussian embeddings.

An embedding is the mean, plus its speaker's offset ~ N(0, B), plus the recording's ~ N(0, W). B and W are
learnt by EM. In the basis where W is the identity and B diagonal, both learning and scoring go dimension by
dimension.
"""

from dataclasses import dataclass
from typing import Annotated, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from speakerverif._util.ranges import Range
from speakerverif.errors import InputError
from speakerverif.scoring.backends._linear import Adaptation, Backend, owners, paired_products
from speakerverif.scoring.backends._statistics import cholesky, class_means, lda_directions
from speakerverif.scoring.normalization import unit

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """The steps before the Gaussian model, and the length of its training.

    `lda_dim` directions of LDA first (0: none), then `length_norm`; both after centring.
    """

    lda_dim: Annotated[int, Range(0, 16_384)] = 0
    length_norm: bool = True
    iterations: Annotated[int, Range(0, 10_000)] = 20


class Plda(Backend):
    """Scores are natural-log likelihood ratios under the model (calibrate them all the same).

    Source: the model and its EM: Brümmer and De Villiers 2010, "The speaker partitioning problem"; scoring in
        the diagonal basis: Ioffe 2006, "Probabilistic linear discriminant analysis"; length normalisation:
        Garcia-Romero and Espy-Wilson 2011. Departure: several enrolment utterances are scored as independent
        draws of one speaker (the exact likelihood ratio), never as their average counted once.
    """

    kind = "plda"
    arrays = ("centre", "projection", "length_norm", "mean", "between", "within")
    centre: Array  # (D,) of raw embeddings
    projection: Array  # (D, K)
    mean: Array  # (K,) of processed embeddings
    between: Array  # (K, K): B
    within: Array  # (K, K): W

    def __init__(self, config: Config) -> None:
        self.lda_dim, self.iterations = config.lda_dim, config.iterations
        self.length_norm = np.array(config.length_norm)

    def fit(self, embeddings: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """Learn everything from embeddings float (N, D) with speaker labels int (N,).

        Raises:
            InputError: fewer utterances than dimensions, or no speaker with several.
        """
        values = embeddings.astype(np.float64)
        self.centre = values.mean(axis=0)
        self.projection = (
            lda_directions(values, labels, self.lda_dim) if self.lda_dim else np.eye(values.shape[1])
        )
        processed = self._process(values)
        half = np.atleast_2d(np.cov(processed, rowvar=False)) / 2
        cholesky(half, "total")
        self.mean, self.between, self.within = _em(processed, labels, half, half, self.iterations)

    def adapt(
        self,
        embeddings: NDArray[np.floating],
        labels: NDArray[np.integer] | None = None,
        weight: float = 0.5,
        method: Adaptation | None = None,
    ) -> None:
        """Move the trained model towards another domain; its mean becomes the new domain's.

        Args:
            embeddings: (N, D) of the new domain.
            labels: int (N,), their speakers, which only "interpolate" takes.
            weight: 0 keeps the trained covariances, 1 takes the new ones.
            method: how the new covariances come about; None: "interpolate" with labels, "coral+" without.
                "coral+" (Lee, Wang and Koshinaka 2019, arXiv:1812.10260): B and W are transformed by the map that turns
                the model's total covariance into the new domain's; each variance that this enlarges replaces the old.
                "kaldi" (its `ivector-adapt-plda`): in each direction where the new domain's total variance exceeds
                the model's, a quarter of the excess goes to B and three to W.
                "interpolate" (Garcia-Romero and McCree 2014): by EM on the labelled new domain, begun at the trained
                ones.

        Raises:
            InputError: weight outside [0, 1]; an unknown method; labels lacking or not needed; unlabelled data with
                fewer utterances than dimensions.
        """
        if method is None:
            method = "coral+" if labels is None else "interpolate"
        if not 0 <= weight <= 1:
            raise InputError(f"plda: adaptation weight {weight}: expected 0 to 1")
        if method not in get_args(Adaptation):
            raise InputError(
                f"plda: adaptation method {method!r}: expected {', '.join(get_args(Adaptation))}"
            )
        if (labels is None) == (method == "interpolate"):
            raise InputError(f"plda: adaptation {method}: expected {'' if labels is None else 'no '}labels")
        state = self.state()
        self.centre = embeddings.mean(axis=0, dtype=np.float64)
        processed = self._process(embeddings)
        old_between, old_within = state["between"], state["within"]
        if labels is not None:
            self.mean, between, within = _em(processed, labels, old_between, old_within, self.iterations)
        else:
            self.mean = processed.mean(axis=0)
            total = np.atleast_2d(np.cov(processed, rowvar=False))
            cholesky(total, "new domain's total")
            old_total = old_between + old_within
            if method == "kaldi":
                excess = _enlarged(old_total, total) - old_total
                between, within = old_between + excess / 4, old_within + excess * 3 / 4
            else:
                align = _power(total, 0.5) @ _power(old_total, -0.5)
                between, within = (_enlarged(old, align @ old @ align.T) for old in (old_between, old_within))
        self.between = (1 - weight) * old_between + weight * between
        self.within = (1 - weight) * old_within + weight * within

    def score(
        self,
        enroll: NDArray[np.floating],
        test: NDArray[np.floating],
        enroll_index: NDArray[np.integer],
        test_index: NDArray[np.integer],
        enroll_counts: NDArray[np.integer] | None = None,
    ) -> Array:
        """Return log p(test | the enrolled speaker) − log p(test | any speaker), float64 (trials,).

        Args:
            enroll: (E, D), utterances; a model's utterances lie together.
            test: (T, D).
            enroll_index: int (trials,), the enrolled model of each trial.
            test_index: int (trials,), the row of `test` of each trial.
            enroll_counts: int (models,), utterances of each model, adding up to E; None: each row is a model.
        """
        state = self.state()
        basis, ratio = _diagonal_basis(state["between"], state["within"])
        enrolled = (self._process(enroll) - state["mean"]) @ basis
        tested = (self._process(test) - state["mean"]) @ basis
        counts = np.ones(len(enroll), int) if enroll_counts is None else np.asarray(enroll_counts)
        owners(counts, len(enroll))
        means = np.add.reduceat(enrolled, np.cumsum(counts) - counts) / counts[:, None]

        # Given n utterances of mean m, the test is N(shrink · m, spread); without any, it is N(0, 1 + ratio).
        sizes, size_of = np.unique(counts, return_inverse=True)
        shrink = sizes[:, None] * ratio / (sizes[:, None] * ratio + 1)
        spread = 1 + ratio / (sizes[:, None] * ratio + 1)
        expected = shrink[size_of] * means
        by_model = 0.5 * np.log((1 + ratio) / spread).sum(axis=1)[size_of]
        by_model -= 0.5 * (expected**2 / spread[size_of]).sum(axis=1)
        by_test = tested**2 @ (0.5 / (1 + ratio) - 0.5 / spread).T
        cross = paired_products(expected / spread[size_of], tested, enroll_index, test_index)
        ratios: Array = cross + by_model[enroll_index] + by_test[test_index, size_of[enroll_index]]
        return ratios

    def _process(self, embeddings: NDArray[np.floating]) -> Array:
        """Return embeddings (N, D) centred, projected and scaled to unit length, (N, K)."""
        projected = (embeddings.astype(np.float64) - self.centre) @ self.projection
        return unit(projected) if self.length_norm else projected


def _diagonal_basis(between: Array, within: Array) -> tuple[Array, Array]:
    """Return V (K, K) and ratio (K,) with Vᵀ W V = I and Vᵀ B V = diag(ratio)."""
    ratio, basis = linalg.eigh(between, within)
    return basis, np.maximum(ratio, 0.0)


def _em(
    values: Array, labels: NDArray[np.integer], between: Array, within: Array, iterations: int
) -> tuple[Array, Array, Array]:
    """Return mean (K,), B and W (K, K) after EM steps from the given covariances; none lowers the likelihood.

    The start has full rank, and every step keeps it: a direction of zero variance could never grow again.
    """
    means, counts, scatter = class_means(values, labels)
    n = counts[:, None]
    mean = values.mean(axis=0)
    for _ in range(iterations):
        basis, ratio = _diagonal_basis(between, within)
        back = basis.T @ within  # the inverse of the basis
        centred = (means - mean) @ basis
        offsets = n * ratio / (1 + n * ratio) * centred  # the speakers' posterior means and variances
        variances = ratio / (1 + n * ratio)
        residual = centred - offsets
        shift = counts @ residual / len(values)
        residual -= shift
        mean = mean + shift @ back
        between = back.T @ (offsets.T @ offsets + np.diag(variances.sum(axis=0))) @ back / len(counts)
        noise = (residual * n).T @ residual + np.diag((n * variances).sum(axis=0))
        within = (scatter + back.T @ noise @ back) / len(values)
    return mean, between, within


def _power(covariance: Array, exponent: float) -> Array:
    """Return a symmetric positive definite matrix to a power."""
    values, vectors = linalg.eigh(covariance)
    power: Array = (vectors * values**exponent) @ vectors.T
    return power


def _enlarged(old: Array, new: Array) -> Array:
    """Return `old` with its variance raised to that of `new` in each direction where `new` varies more."""
    gain, basis = linalg.eigh(new, old)
    back = basis.T @ old  # the inverse of the basis
    enlarged: Array = old + back.T @ np.diag(np.maximum(gain - 1, 0.0)) @ back
    return enlarged


def build(config: Config) -> Plda:
    """Return the untrained back end."""
    return Plda(config)
