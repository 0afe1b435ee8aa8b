"""Quality measures of trials: facts about the recordings that bear on a score's reliability."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.messages import named, nearest
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.speakers import EnrollMap
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from speakerverif.scoring.scorer import Scoring

Array = NDArray[np.float64]
NAMES = ("duration", "speech", "magnitude", "cohort")


def of_trials(
    names: Sequence[str],
    trials: TrialList,
    table: EmbeddingTable,
    enroll_map: EnrollMap | None = None,
    scoring: "Scoring | None" = None,
) -> dict[str, Array]:
    """Return two columns (N,) for each measure, the lower and the higher of both sides.

    Args:
        names: of `NAMES`: seconds of the recordings, seconds of speech in them, and the embeddings' length, all as
            natural logarithms; and the mean cosine with the cohort (`Scoring.cohort_means`), as it is.
        trials: pairs of ids; with `enroll_map` the enroll ids are models.
        table: has a row for every file. The seconds of a model's files add up; their embeddings' lengths and their
            cohort means are averaged.
        enroll_map: model -> ids of its files.
        scoring: of the model, whose cohort the measure `cohort` needs.

    Raises:
        InputError: a name that is not a measure; files that are not in the table, or of no known duration; the measure
            `cohort` without a cohort.
    """
    for name in names:
        if name not in NAMES:
            raise InputError(f"quality measure {name!r}: {nearest(name, list(NAMES))}")
    by_name: dict[str, Array] = {}
    for name in names:
        sides = []
        for codes, files in ((trials.enroll, enroll_map), (trials.test, None)):
            ids = np.unique(codes)
            groups = [(files or {}).get(trials.ids[i], [trials.ids[i]]) for i in ids]
            rows = table.rows_of([u for group in groups for u in group])
            values = _values(name, table, rows, scoring)
            counts = np.array([len(group) for group in groups])
            of_group = np.add.reduceat(values, np.cumsum(counts) - counts)
            if name in ("magnitude", "cohort"):
                of_group = of_group / counts
            if name == "cohort":
                sides.append(of_group[np.searchsorted(ids, codes)])
                continue
            bad = np.flatnonzero(~(of_group > 0))
            if bad.size:
                raise InputError(
                    f"quality measure {name}: expected values above 0, not known or 0 for "
                    f"{named([trials.ids[ids[i]] for i in bad])}"
                )
            sides.append(np.log(of_group)[np.searchsorted(ids, codes)])
        by_name |= both_sides(name, *sides)
    return by_name


def typical_speech(trials: TrialList, table: EmbeddingTable, enroll_map: EnrollMap | None = None) -> float:
    """Return the seconds of speech on a side of trials, their geometric mean; 0 where they are unknown for a file.

    Args:
        trials: pairs of ids; with `enroll_map` the enroll ids are models.
        table: has a row for every file. The seconds of a model's files add up.
        enroll_map: model -> ids of its files.
    """
    if not len(trials) or not (table.speech > 0).all():
        return 0.0
    sides = of_trials(["speech"], trials, table, enroll_map)
    return float(np.exp((sides["speech_low"] + sides["speech_high"]).mean() / 2))


def both_sides(name: str, enroll: Array, test: Array) -> dict[str, Array]:
    """Return a quality measure of two recordings as two columns, `name_low` and `name_high`.

    The lower and the higher of both sides, so that swapping them changes nothing. Give durations and
    magnitudes as logarithms, SNR in dB: ratios matter, not differences.

    Source: the duration, magnitude and cohort measures of Thienpondt, Desplanques and Demuynck 2021,
        arXiv:2010.11255.
    """
    return {f"{name}_low": np.minimum(enroll, test), f"{name}_high": np.maximum(enroll, test)}


def _values(name: str, table: EmbeddingTable, rows: NDArray[np.int64], scoring: "Scoring | None") -> Array:
    """Return a measure of the recordings in some rows of a table, float64 (rows,)."""
    if name == "cohort":
        if scoring is None:
            raise InputError(
                "quality measure cohort: is of a model's embeddings, scored against its cohort; with score files, "
                "name their embeddings and the model instead (--embeddings, --model)"
            )
        return scoring.cohort_means(table.embeddings[rows])
    if name == "magnitude":
        return np.asarray(np.linalg.norm(table.embeddings[rows].astype(np.float64), axis=1))
    return np.asarray((table.durations if name == "duration" else table.speech)[rows], np.float64)
