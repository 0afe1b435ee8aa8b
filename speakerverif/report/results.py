"""What a report shows of a scored list, before any of it is drawn or written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import Units
from speakerverif.errors import InputError
from speakerverif.evaluation.cross_calibration import held_out_llrs
from speakerverif.evaluation.metrics import DetCurve, PairedDifference, act_dcf, cllr, paired_bootstrap
from speakerverif.evaluation.records import ScoringRecord


@dataclass(frozen=True)
class System:
    """What one system made of a trial list.

    Attributes:
        name: what the page calls it.
        scores: with labels.
        record: what `evaluate` returned for them.
    """

    name: str
    scores: ScoreList
    record: ScoringRecord

    @cached_property
    def curve(self) -> DetCurve:
        """The corners of its DET curve."""
        return DetCurve.of(self.scores)

    @property
    def labels(self) -> np.ndarray:
        """Bool (N,), True is target."""
        return np.asarray(self.scores.trials.labels)


@dataclass(frozen=True)
class Result:
    """A scored trial list to report on.

    Attributes:
        system: whose scores the report is about.
        units: the speakers of both sides, as `audit.units_of` gives them.
        against: another system's scores of the same trials, to compare with.
    """

    system: System
    units: Units
    against: System | None = None

    @property
    def systems(self) -> tuple[System, ...]:
        """One or two."""
        return (self.system,) if self.against is None else (self.system, self.against)

    @property
    def title(self) -> str:
        """The name of the list."""
        trials = self.system.record.trial_list
        return trials.known_as or Path(trials.name).stem or "Trials"

    @cached_property
    def speaker_of(self) -> dict[str, str]:
        """Id -> speaker of every id that the trials compare; empty where speakers are not known."""
        if self.units.kind != "speaker":
            return {}
        trials, owner = self.system.scores.trials, np.full(len(self.system.scores.trials.ids), -1)
        owner[trials.enroll] = self.units.enroll
        owner[trials.test] = self.units.test
        return {
            name: self.units.names[i] for name, i in zip(trials.ids, owner.tolist(), strict=True) if i >= 0
        }

    def difference(self) -> PairedDifference | None:
        """Return how the EERs of both systems differ; None where there is one system, or no bootstrap."""
        drawn = self.system.record.figures.bootstrap
        if self.against is None or drawn is None:
            return None
        first, second = self.system.scores.scores, self.against.scores.scores
        units, labels = self.units, self.system.labels
        return paired_bootstrap(second, first, labels, units.enroll, units.test, drawn.samples, drawn.seed)

    def hardest(self, target: bool, count: int) -> list[int]:
        """Return the rows of the most wrongly scored trials of one kind, equal scores in order of their ids.

        The same recordings compared twice, mirrored or not, are one trial here.
        """
        trials, scores = self.system.scores.trials, self.system.scores.scores
        rows = np.flatnonzero(self.system.labels == target)
        badness = scores[rows] if target else -scores[rows]
        size = len(trials.ids)
        either = np.minimum(trials.pair_keys(), trials.test.astype(np.int64) * size + trials.enroll)[rows]
        first = np.unique(either, return_index=True)[1]
        rows, badness = rows[first], badness[first]
        count = min(count, len(rows))
        worst = rows[badness <= np.partition(badness, count - 1)[count - 1]].tolist()
        return sorted(worst, key=lambda i: (scores[i] * (1 if target else -1), trials.pair(i)))[:count]

    def errors(self, target: bool) -> tuple[list[tuple[str, int]], int]:
        """Return the speakers, or pairs of them, with the errors of each at the EER threshold, and all errors.

        Most errors first; none where speakers are not known.
        """
        if self.units.kind != "speaker":
            return [], 0
        rejected = self.system.scores.scores < self.system.record.figures.eer_threshold
        rows = np.flatnonzero((self.system.labels == target) & (rejected == target))
        sides = np.sort(np.stack((self.units.enroll[rows], self.units.test[rows])), axis=0)
        pairs, counts = np.unique(sides, axis=1, return_counts=True)
        order = np.argsort(-counts, kind="stable").tolist()
        names = self.units.names
        named = [" and ".join(dict.fromkeys(names[i] for i in pairs[:, k].tolist())) for k in order]
        return list(zip(named, counts[order].tolist(), strict=True)), len(rows)


@dataclass(frozen=True)
class Calibrated:
    """How a system's scores do as log likelihood ratios, as they are and after calibration.

    Attributes:
        system: whose.
        after: calibrated by speakers that the trial is not of; None where that can't be done.
        why_not: the reason then.
    """

    system: System
    after: ScoreList | None
    why_not: str = ""

    @classmethod
    def of(cls, system: System, units: Units) -> "Calibrated":
        """Return what held-out calibration makes of a system's scores."""
        try:
            return cls(system, held_out_llrs(system.scores, units))
        except InputError as error:
            return cls(system, None, str(error))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row before and, where there is one, a row after: its costs as LLRs, and the least possible."""
        found = []
        for when, scores in (("before", self.system.scores), ("after", self.after)):
            if scores is None:
                continue
            curve = DetCurve.of(scores)
            costs: dict[str, Sequence[float]] = {
                cost.key: (
                    act_dcf(scores.scores, self.system.labels, float(cost.key)).cost,
                    curve.min_dcf(float(cost.key)).cost,
                )
                for cost in self.system.record.figures.costs
            }
            found.append(
                {
                    "system": self.system.name,
                    "when": when,
                    "cllr": cllr(scores.scores, self.system.labels),
                    "min_cllr": curve.min_cllr(),
                    "dcf": costs,
                }
            )
        return found
