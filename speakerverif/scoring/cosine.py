"""Embeddings of trials to cosine similarities, or to the scores of a trained back end."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.messages import named
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import EnrollMap
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.scoring.normalization import check_lengths, lengths_of, unit

if TYPE_CHECKING:
    from speakerverif.scoring.backends._linear import Backend

BLOCK = 1024  # trials gathered at once: both sides of a block stay in the processor's cache


def cosine(trials: TrialList, table: EmbeddingTable, enroll_map: EnrollMap | None = None) -> ScoreList:
    """Return the cosine similarity of every trial, in [-1, 1].

    Args:
        trials: pairs of ids; with `enroll_map` the enroll ids are models.
        table: has an embedding for every file, of any length but zero.
        enroll_map: model -> ids of its files. A model is the mean of their unit vectors, scaled to length 1.

    Raises:
        InputError: files without an embedding or models without files (all named together), embeddings that
            are zero or not finite.
    """
    if enroll_map is None:
        vectors = table.embeddings  # unscaled: a copy of unit vectors would be a pass over all of them
        rows = table.rows_of(trials.ids)
        lengths = lengths_of(vectors)
        check_lengths(lengths[rows], trials.ids)
        enroll, test = rows[trials.enroll], rows[trials.test]
    else:
        vectors, enroll, test = _models_and_tests(trials, table, enroll_map)
        lengths = np.ones(len(vectors), np.float32)
    scores = np.empty(len(trials))
    left, right = np.empty((2, BLOCK, vectors.shape[1]), np.float32)
    for start in range(0, len(trials), BLOCK):
        block = slice(start, start + BLOCK)
        count = len(scores[block])
        np.take(vectors, enroll[block], 0, out=left[:count], mode="clip")  # "raise" would copy once more
        np.take(vectors, test[block], 0, out=right[:count], mode="clip")
        scores[block] = np.einsum("ij,ij->i", left[:count], right[:count])
    scores /= lengths[enroll]
    scores /= lengths[test]
    return ScoreList(trials, scores, "cosine")


def with_backend(
    backend: "Backend", trials: TrialList, table: EmbeddingTable, enroll_map: EnrollMap | None = None
) -> ScoreList:
    """Return the scores of a trained back end, which sees every enrolled utterance; otherwise as `cosine`."""
    models, enroll = np.unique(trials.enroll, return_inverse=True)
    tests, test = np.unique(trials.test, return_inverse=True)
    groups = _files_of_models(trials, models.tolist(), enroll_map)
    enrolled = table.embeddings[table.rows_of([name for group in groups for name in group])]
    tested = table.embeddings[table.rows_of([trials.ids[i] for i in tests])]
    counts = np.array([len(group) for group in groups])
    return ScoreList(trials, backend.score(enrolled, tested, enroll, test, counts), backend.kind)


def _files_of_models(
    trials: TrialList, models: Sequence[int], enroll_map: EnrollMap | None
) -> list[Sequence[str]]:
    """Return the ids of each model's files; without a map a model is one file.

    Raises:
        InputError: models that are not in the map.
    """
    if enroll_map is None:
        return [[trials.ids[i]] for i in models]
    lacking = [trials.ids[i] for i in models if trials.ids[i] not in enroll_map]
    if lacking:
        raise InputError(f"{trials.name}: {len(lacking)} models are not in the enroll map: {named(lacking)}")
    return [enroll_map[trials.ids[i]] for i in models]


def _models_and_tests(
    trials: TrialList, table: EmbeddingTable, enroll_map: EnrollMap
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return unit vectors of the enrolled models and the test files, and every trial's two rows among them."""
    models, enroll = np.unique(trials.enroll, return_inverse=True)
    tests, test = np.unique(trials.test, return_inverse=True)
    groups = _files_of_models(trials, models.tolist(), enroll_map)
    files = [name for group in groups for name in group] + [trials.ids[i] for i in tests]
    vectors = unit(table.embeddings[table.rows_of(files)], files)
    starts = np.cumsum([0] + [len(group) for group in groups])
    means = np.add.reduceat(vectors[: starts[-1]], starts[:-1])
    means = unit(means, [trials.ids[i] for i in models])
    return np.concatenate([means, vectors[starts[-1] :]]), enroll, len(means) + test
