"""Code shared by the back ends: saved arrays, a cosine after a linear map, pairwise products in blocks."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import replacing
from speakerverif.data._npz import read_arrays
from speakerverif.data.scores import ScoreKind
from speakerverif.errors import InputError
from speakerverif.scoring.normalization import unit, unit_means

Adaptation = Literal["coral+", "kaldi", "interpolate"]
_BLOCK_VALUES = 4_000_000  # gathered values per side at a time: 32 MB in float64


class Backend:
    """A back end whose whole trained state is a few float64 arrays, named in `arrays`."""

    kind: ScoreKind = "cosine"  # what its scores are
    needs_training: bool = True
    arrays: tuple[str, ...] = ()

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Return the trained arrays by name.

        Raises:
            InputError: not trained yet.
        """
        if not all(hasattr(self, name) for name in self.arrays):
            raise InputError(
                f"back end {type(self).__name__}: not trained; fit it or load a trained one first"
            )
        return {name: getattr(self, name) for name in self.arrays}

    def fit(self, embeddings: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        """Learn from embeddings float (N, D) with speaker labels int (N,)."""
        raise NotImplementedError

    def adapt(
        self,
        embeddings: NDArray[np.floating],
        labels: NDArray[np.integer] | None = None,
        weight: float = 0.5,
        method: Adaptation | None = None,
    ) -> None:
        """Move a trained back end towards another domain, replacing its arrays; see `Plda.adapt`.

        Raises:
            InputError: this back end can't.
        """
        raise InputError(
            f"only PLDA can be adapted to another domain; this back end is {type(self).__name__} (a recipe with "
            '`backend.name = "plda"` makes a model with PLDA)'
        )

    def score(
        self,
        enroll: NDArray[np.floating],
        test: NDArray[np.floating],
        enroll_index: NDArray[np.integer],
        test_index: NDArray[np.integer],
        enroll_counts: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float64]:
        """Return one score per trial, float64 (trials,).

        Args:
            enroll: (E, D), utterances; a model's utterances lie together.
            test: (T, D).
            enroll_index: int (trials,), the enrolled model of each trial.
            test_index: int (trials,), the row of `test` of each trial.
            enroll_counts: int (models,), utterances of each model, adding up to E; None: each row is a model.
        """
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the trained arrays as an `.npz` file, whole or not at all."""
        with replacing(path) as file:
            np.savez(file, **self.state())  # type: ignore[arg-type]

    def load(self, path: str | Path) -> None:
        """Take the trained arrays from an `.npz` file that `save` wrote.

        Raises:
            InputError: no such file, a damaged one, that of another back end, or numbers that aren't finite.
        """
        arrays = read_arrays(path, self.arrays)
        if missing := [name for name in self.arrays if name not in arrays]:
            raise InputError(
                f"{path}: expected arrays {', '.join(self.arrays)}; {', '.join(missing)} is missing"
            )
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
                raise InputError(f"{path}: the array {name!r}: expected finite numbers")
            setattr(self, name, array)


class LinearCosine(Backend):
    """Centre by `mean` (D,), map by `matrix` (D, K) if there is one, scale to length 1, take the cosine."""

    arrays: tuple[str, ...] = ("mean", "matrix")
    mean: NDArray[np.float64]
    matrix: NDArray[np.float64] | None = None

    def transform(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return unit vectors (N, K) of embeddings (N, D): their inner products are the scores."""
        mean = self.state()["mean"]
        dim = embeddings.shape[1]
        if mean.shape not in ((1,), (dim,)) or (self.matrix is not None and self.matrix.shape[:1] != (dim,)):
            raise InputError(
                f"back end {type(self).__name__}: its arrays don't fit embeddings of {dim} dimensions"
            )
        centred = embeddings.astype(np.float64) - mean
        return unit(centred if self.matrix is None else centred @ self.matrix)

    def score(
        self,
        enroll: NDArray[np.floating],
        test: NDArray[np.floating],
        enroll_index: NDArray[np.integer],
        test_index: NDArray[np.integer],
        enroll_counts: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float64]:
        """Return one cosine in [-1, 1] per trial; a model of several is the mean of their unit vectors."""
        models = self.transform(enroll)
        if enroll_counts is not None:
            models = unit_means(models, owners(enroll_counts, len(enroll)), len(enroll_counts))
        return paired_products(models, self.transform(test), enroll_index, test_index)


def owners(counts: NDArray[np.integer], rows: int) -> NDArray[np.int64]:
    """Return the model of each of `rows` rows, where model i has the next `counts[i]` of them."""
    if np.min(counts) < 1 or np.sum(counts) != rows:
        raise InputError(
            f"enroll_counts: expected counts of 1 or more adding up to {rows}; sum is {np.sum(counts)}"
        )
    return np.repeat(np.arange(len(counts)), counts)


def paired_products(
    left: NDArray[np.floating], right: NDArray[np.floating], i: NDArray[np.integer], j: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return `left[i] · right[j]` for each pair, gathered in blocks: memory does not grow with the pairs."""
    products = np.empty(len(i))
    step = max(1, _BLOCK_VALUES // left.shape[1])
    for start in range(0, len(i), step):
        block = slice(start, start + step)
        products[block] = np.einsum("ij,ij->i", left[i[block]], right[j[block]])
    return products
