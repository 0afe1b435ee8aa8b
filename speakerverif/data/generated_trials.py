"""Trials generated from recordings of known speakers: durations matched, no recording on both sides of a trial."""

import dataclasses
import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speakerverif.data.speakers import EnrollMap
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

Rows = NDArray[np.int64]
NONTARGETS = 4  # non-target trials per target trial, at least, where there are as many other speakers
Pair = tuple[tuple[int, ...], int]  # rows of the enrolled recordings, row of the tested one


@dataclass(frozen=True)
class GeneratedTrials:
    """A labelled trial list with the files of its enroll ids.

    Attributes:
        trials: target trials, then non-target trials.
        enroll_map: enrolled model -> ids of its files; None where each model is one file.
    """

    trials: TrialList
    enroll_map: EnrollMap | None


def generate_trials(
    ids: Sequence[str],
    speakers: Sequence[str],
    durations_s: NDArray[np.floating],
    enrolled: int = 1,
    max_trials: int = 50_000,
    seed: int = 0,
    name: str = "generated trials",
) -> GeneratedTrials:
    """Return target and non-target trials of recordings.

    A speaker's recordings are dealt into models of `enrolled` recordings. A target trial compares a model with one of
    the speaker's other recordings; a pair of single recordings is compared once. Each target trial has non-target
    trials of the same model: one for each of some other speakers, drawn at random, with the recording whose duration is
    nearest to that of the target trial's test. So both kinds of trials have the same enrolled recordings, and tests of
    like durations.

    Args:
        ids: of the recordings, distinct.
        speakers: of the recordings.
        durations_s: of the recordings, seconds; nan where unknown.
        enrolled: recordings per model.
        max_trials: trials of both kinds, at most. Where there could be more, each speaker has equally many.
        seed: of all draws.
        name: of the list.

    Raises:
        InputError: fewer than two speakers, or no speaker with more than `enrolled` recordings.
    """
    rng = np.random.default_rng(seed)
    names, owner = np.unique(np.asarray(speakers, object).astype(str), return_inverse=True)
    rows_of = [rng.permutation(np.flatnonzero(owner == speaker)) for speaker in range(len(names))]
    targets = [_target_pairs(rows, enrolled) for rows in rows_of]
    with_targets = sum(map(bool, targets))
    if len(names) < 2 or not with_targets:
        raise InputError(
            f"{name}: {len(ids)} recordings of {len(names)} speakers; expected two speakers or more, one of them with "
            f"{enrolled + 1} recordings or more"
        )
    most = max(1, max_trials // (1 + NONTARGETS) // with_targets)
    drawn = [pair for pairs in targets for pair in _some(pairs, most, rng)]
    others = max(1, min(len(names) - 1, (max_trials - len(drawn)) // len(drawn)))
    nontargets = list(_nontarget_pairs(drawn, owner, rows_of, np.asarray(durations_s), others, rng))
    return _listed([*drawn, *nontargets], len(drawn), ids, names[owner].tolist(), enrolled, name)


def _target_pairs(rows: Rows, enrolled: int) -> list[Pair]:
    """Return the target trials of one speaker's recordings, in the order of the rows."""
    recordings = rows.tolist()
    if enrolled == 1:
        return [((first,), second) for k, first in enumerate(recordings) for second in recordings[k + 1 :]]
    if len(recordings) <= enrolled:
        return []
    firsts = range(0, len(recordings) - enrolled + 1, enrolled)
    models = [tuple(recordings[first : first + enrolled]) for first in firsts]
    return [(model, test) for model in models for test in recordings if test not in model]


def _some(pairs: list[Pair], most: int, rng: np.random.Generator) -> list[Pair]:
    """Return the pairs, or as many of them as there may be, drawn at random."""
    if len(pairs) <= most:
        return pairs
    return [pairs[i] for i in rng.choice(len(pairs), most, replace=False).tolist()]


def _nontarget_pairs(
    targets: list[Pair],
    owner: Rows,
    rows_of: list[Rows],
    durations_s: NDArray[np.floating],
    others: int,
    rng: np.random.Generator,
) -> Iterator[Pair]:
    """Yield the non-target trials of each target trial, none twice, neither mirrored."""
    # On a scale of ratios; unknown durations are all alike.
    length = np.log(np.where(durations_s > 0, durations_s, 1.0))
    sorted_rows = [rows[np.argsort(length[rows], kind="stable")].tolist() for rows in rows_of]
    lengths = [length[rows].tolist() for rows in sorted_rows]
    compared: set[Pair] = set()
    for model, test in targets:
        strangers = np.delete(np.arange(len(rows_of)), owner[model[0]])
        for stranger in rng.permutation(strangers)[:others].tolist():
            for row in _nearest_first(sorted_rows[stranger], lengths[stranger], float(length[test])):
                pair = (model, row)
                mirrored = ((row,), model[0]) if len(model) == 1 else pair
                if pair not in compared and mirrored not in compared:
                    compared.add(pair)
                    yield pair
                    break


def _nearest_first(rows: list[int], lengths: list[float], length: float) -> Iterator[int]:
    """Yield rows from the nearest length to the farthest; rows and lengths are sorted by length."""
    above = bisect_left(lengths, length)
    below = above - 1
    while below >= 0 or above < len(rows):
        if above == len(rows) or (below >= 0 and length - lengths[below] <= lengths[above] - length):
            yield rows[below]
            below -= 1
        else:
            yield rows[above]
            above += 1


def _listed(
    pairs: list[Pair], targets: int, ids: Sequence[str], speaker_of: list[str], enrolled: int, name: str
) -> GeneratedTrials:
    """Return pairs of rows as a trial list; the first `targets` of them are target trials."""
    models = list(dict.fromkeys(model for model, _ in pairs))
    tests = list(dict.fromkeys(test for _, test in pairs))
    enroll_map = None
    if enrolled == 1:
        listed = list(dict.fromkeys([*(ids[row] for (row,) in models), *(ids[row] for row in tests)]))
        names = {model: ids[model[0]] for model in models}
    else:
        names = {model: f"{speaker_of[model[0]]}, model {number}" for number, model in enumerate(models)}
        enroll_map = {names[model]: [ids[row] for row in model] for model in models}
        listed = [*enroll_map, *(ids[row] for row in tests)]
    place = {listed_id: i for i, listed_id in enumerate(listed)}
    trials = TrialList(
        tuple(listed),
        np.array([place[names[model]] for model, _ in pairs], np.int32),
        np.array([place[ids[test]] for _, test in pairs], np.int32),
        np.arange(len(pairs)) < targets,
        name,
    )
    digest = hashlib.sha256(trials.to_bytes()).hexdigest()
    return GeneratedTrials(dataclasses.replace(trials, sha256=digest), enroll_map)
