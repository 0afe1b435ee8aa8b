"""Scores of a trial list."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from speakerverif._util.files import replacing
from speakerverif._util.messages import named
from speakerverif.data._trial_files import parse_scores
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

ScoreKind = Literal["cosine", "plda", "normalized", "llr"]


@dataclass(frozen=True)
class ScoreList:
    """Scores of all trials; higher means more likely the same speaker.

    Attributes:
        trials: the scored list.
        scores: float64 (N,), finite.
        kind: of the scores; only `llr` are natural-log likelihood ratios.
        extra: number of scores in the file for pairs that are not in the list.
    """

    trials: TrialList
    scores: np.ndarray
    kind: ScoreKind = "cosine"
    extra: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScoreKind):
            raise InputError(f"kind of score {self.kind!r} is not one of {', '.join(get_args(ScoreKind))}")
        if self.scores.shape != (len(self.trials),):
            raise InputError(f"{len(self.trials)} trials but scores of shape {self.scores.shape}")
        bad = np.flatnonzero(~np.isfinite(self.scores))
        if len(bad):
            shown = "; ".join(f"{self.trials.pair(i)}: {self.scores[i]}" for i in bad[:5])
            raise InputError(f"{self.trials.name}: {len(bad)} scores are not finite numbers: {shown}")

    @classmethod
    def read(cls, path: str | Path, trials: TrialList, kind: ScoreKind = "cosine") -> "ScoreList":
        """Return the scores in a file with rows `enroll test score` or `score enroll test`, in any order.

        Labels, in a column before or after these, must agree with the list's.

        Raises:
            InputError: unreadable or empty file, wrong rows, scores that are not finite, a pair with two
                different scores, trials without a score, labels that differ from the list's (all errors of one
                kind are reported together).
        """
        keys, values, labels = parse_scores(path, trials.ids)
        wanted = trials.pair_keys()
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        clash = (keys[1:] == keys[:-1]) & (values[1:] != values[:-1]) & (keys[1:] >= 0)
        if clash.any():
            twice = np.unique(keys[1:][clash]).tolist()
            pairs = [
                f"{trials.ids[key // len(trials.ids)]} {trials.ids[key % len(trials.ids)]}" for key in twice
            ]
            raise InputError(f"{path}: {len(pairs)} pairs stand there with different scores: {named(pairs)}")
        at = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
        missing = np.flatnonzero(keys[at] != wanted) if len(keys) else np.arange(len(wanted))
        if len(missing):
            pairs = [trials.pair(i) for i in missing.tolist()]
            raise InputError(f"{path}: no score for {len(pairs)} trials of {trials.name}: {named(pairs)}")
        if labels is not None and trials.labels is not None:
            other = np.flatnonzero(labels[order][at] != trials.labels)
            if len(other):
                pairs = [trials.pair(i) for i in other.tolist()]
                raise InputError(
                    f"{path}: {len(pairs)} labels differ from those of {trials.name}: {named(pairs)}"
                )
        extra = np.count_nonzero(keys < 0) + len(np.unique(keys[keys >= 0])) - len(np.unique(wanted))
        return cls(trials, values[at], kind, int(extra))

    def write(self, path: str | Path) -> None:
        """Write `enroll test score` rows; reading them gives exactly the same numbers."""
        rows = zip(self.trials.enroll_ids(), self.trials.test_ids(), self.scores.tolist(), strict=True)
        with replacing(path) as file:
            file.writelines(f"{enroll} {test} {score!r}\n".encode() for enroll, test, score in rows)
