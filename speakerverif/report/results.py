"""The results that a report shows: scored lists, their hardest trials and errors, and their calibration."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import Units
from speakerverif.errors import InputError
from speakerverif.evaluation.cross_calibration import held_out_llrs
from speakerverif.evaluation.intervals import PairedDifference, paired_difference
from speakerverif.evaluation.metrics import DetCurve, act_dcf, cllr
from speakerverif.evaluation.records import ScoringRecord
from speakerverif.scoring.decision import DecisionPoint, operating_point, threshold_at_far

FALSE_ALARM_RATES = (0.01, 0.05, 0.1)


@dataclass(frozen=True)
class System:
    """One system's scores of a trial list.

    Attributes:
        name: shown on the page.
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
        system: the system that the report is about.
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
        """Id -> speaker, of each id in the trials; empty where speakers are unknown."""
        if self.units.kind != "speaker":
            return {}
        trials, owner = self.system.scores.trials, np.full(len(self.system.scores.trials.ids), -1)
        owner[trials.enroll] = self.units.enroll
        owner[trials.test] = self.units.test
        return {
            name: self.units.names[i] for name, i in zip(trials.ids, owner.tolist(), strict=True) if i >= 0
        }

    def difference(self) -> PairedDifference | None:
        """Return the difference of the systems' EERs; None where there is one system, or no intervals."""
        if self.against is None or self.system.record.figures.intervals is None or self.units.kind == "file":
            return None
        first, second = self.system.scores.scores, self.against.scores.scores
        units, labels = self.units, self.system.labels
        return paired_difference(second, first, labels, units.enroll, units.test)

    def hardest(self, target: bool, count: int, per_speakers: bool = False) -> list[int]:
        """Return the rows of the most wrongly scored trials of one kind, equal scores in order of their ids.

        The same recordings compared twice, mirrored or not, are one trial here.

        Args:
            target: of target trials, else of non-target trials.
            count: at most.
            per_speakers: take one trial of each speaker (of each pair of speakers), where speakers are known.
        """
        trials, scores = self.system.scores.trials, self.system.scores.scores
        rows = np.flatnonzero(self.system.labels == target)
        badness = scores[rows] if target else -scores[rows]
        size = len(trials.ids)
        either = np.minimum(trials.pair_keys(), trials.test.astype(np.int64) * size + trials.enroll)[rows]
        first = np.unique(either, return_index=True)[1]
        rows, badness = rows[first], badness[first]
        if per_speakers and self.units.kind == "speaker":
            order = np.lexsort((rows, badness))
            sides = np.sort(np.stack((self.units.enroll[rows], self.units.test[rows]))[:, order], axis=0)
            worst_of_each = order[np.unique(sides, axis=1, return_index=True)[1]]
            rows, badness = rows[worst_of_each], badness[worst_of_each]
        count = min(count, len(rows))
        worst = rows[badness <= np.partition(badness, count - 1)[count - 1]].tolist()
        return sorted(worst, key=lambda i: (scores[i] * (1 if target else -1), trials.pair(i)))[:count]

    def errors(self, target: bool) -> tuple[list[tuple[str, int]], int]:
        """Return the speakers, or pairs of them, with the errors of each at the EER threshold, and all errors.

        Most errors first; none where speakers are unknown.
        """
        if self.units.kind != "speaker":
            return [], 0
        rows = np.flatnonzero((self.system.labels == target) & self._is_wrong)
        sides = np.sort(np.stack((self.units.enroll[rows], self.units.test[rows])), axis=0)
        pairs, counts = np.unique(sides, axis=1, return_counts=True)
        order = np.argsort(-counts, kind="stable").tolist()
        names = self.units.names
        named = [" and ".join(dict.fromkeys(names[i] for i in pairs[:, k].tolist())) for k in order]
        return list(zip(named, counts[order].tolist(), strict=True)), len(rows)

    @property
    def _is_wrong(self) -> np.ndarray:
        """Bool (N,), whether the EER threshold decides a trial wrongly."""
        accepted = self.system.scores.scores >= self.system.record.figures.eer_threshold
        return np.asarray(accepted != self.system.labels)

    def speaker_errors(self) -> list["SpeakerErrors"]:
        """Return the errors of each known speaker at the EER threshold, highest error rates first."""
        if self.units.kind != "speaker":
            return []
        enroll, test = self.units.enroll, self.units.test
        wrong, targets = self._is_wrong, self.system.labels

        def per_speaker(chosen: np.ndarray) -> np.ndarray:
            size = len(self.units.names)
            both = np.bincount(enroll[chosen], minlength=size) + np.bincount(test[chosen], minlength=size)
            return both - np.bincount(enroll[chosen & (enroll == test)], minlength=size)  # counted once

        counts = np.stack(
            [per_speaker(c) for c in (targets, targets & wrong, ~targets, ~targets & wrong)], axis=1
        )
        errors = [
            SpeakerErrors(name, *row) for name, row in zip(self.units.names, counts.tolist(), strict=True)
        ]
        return sorted(errors, key=lambda one: -one.rates)

    @cached_property
    def decision(self) -> DecisionPoint | None:
        """The threshold that lets at most 1 in 100 strangers in (1 in 20, 1 in 10 where the trials are few)."""
        scores, labels = self.system.scores.scores, self.system.labels
        units = (self.units.enroll, self.units.test) if self.units.kind == "speaker" else None
        for rate in FALSE_ALARM_RATES:
            if rate * int((~labels).sum()) >= 1:
                return operating_point(scores, labels, threshold_at_far(scores, labels, rate), units)
        return None


@dataclass(frozen=True)
class SpeakerErrors:
    """The trials and the errors of one speaker: misses of own trials, false alarms of trials with others."""

    speaker: str
    targets: int
    misses: int
    nontargets: int
    false_alarms: int

    @property
    def rates(self) -> float:
        """The sum of both error rates, which ranks speakers."""
        return self.misses / max(self.targets, 1) + self.false_alarms / max(self.nontargets, 1)


@dataclass(frozen=True)
class CalibrationCosts:
    """Costs of one system's scores read as log likelihood ratios.

    Attributes:
        system: its name.
        when: before or after calibration.
        cllr: bits.
        min_cllr: after the best monotone map, bits.
        costs: actual and least detection cost at each prior.
    """

    system: str
    when: str
    cllr: float
    min_cllr: float
    costs: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Calibrated:
    """A system's scores read as log likelihood ratios, before and after calibration.

    Attributes:
        system: the system.
        after: scores calibrated on other speakers than a trial's own; None where that can't be done.
        why_not: the reason in that case.
    """

    system: System
    after: ScoreList | None
    why_not: str = ""

    @classmethod
    def of(cls, system: System, units: Units) -> "Calibrated":
        """Return a system's scores with those of held-out calibration."""
        try:
            return cls(system, held_out_llrs(system.scores, units))
        except InputError as error:
            return cls(system, None, str(error))

    def rows(self) -> list[CalibrationCosts]:
        """Return the costs before and, where it could be calibrated, after."""
        labels, rows = self.system.labels, []
        for when, scores in (("before", self.system.scores), ("after", self.after)):
            if scores is None:
                continue
            curve = DetCurve.of(scores)
            priors = [float(cost.key) for cost in self.system.record.figures.costs]
            costs = tuple((act_dcf(scores.scores, labels, p).cost, curve.min_dcf(p).cost) for p in priors)
            rows.append(
                CalibrationCosts(self.system.name, when, cllr(scores.scores, labels), curve.min_cllr(), costs)
            )
        return rows
