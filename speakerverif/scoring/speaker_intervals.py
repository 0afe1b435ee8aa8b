"""Confidence intervals over speakers: they say what a figure would be with other speakers.

To first order a figure is its true value plus the sum of its trials' influences, where the influence of a trial is the
derivative of the figure by its weight. Trials that share a speaker vary together, so the variance of that sum is
estimated by the sum of the products of all pairs of trials that share one. For each speaker s let U_s be the sum over
trials of s with itself, W_s that over trials of s with others, and for each pair p of speakers let P_p be the sum over
its trials. Then it is

    sum_s (U_s + W_s)^2 - sum_p P_p^2

as the products within a pair are counted once for each of its two speakers. `Figure.variance` has the factors that make
it unbiased for few speakers. `tools/interval_coverage.py` measures how often the intervals contain the true figure;
`why_no_interval` is the one rule for what is printed.

Source: Fafchamps and Gubert, "The formation of risk sharing networks", Journal of Development Economics 2007; Aronow,
Samii and Assenova, "Cluster-robust variance estimation for dyadic data", Political Analysis 2015.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

MIN_SPEAKERS = 10
# Errors of each kind that a rate is made of.
MIN_ERRORS = 5
# One more error must not move a least cost by more than this: with fewer trials its optimum is due to chance.
MAX_STEP = 0.01


def why_no_interval(speakers: int | None, errors: Sequence[float] = (), step: float = 0.0) -> str | None:
    """Return the reason why a figure gets no interval; None where it gets one.

    Args:
        speakers: number of speakers in the trials; None: unknown.
        errors: numbers of errors that the figure rests on, of each kind: misses, false alarms.
        step: how much one more error moves a least cost.
    """
    if speakers is None:
        return "the speakers are unknown; --speakers names them"
    if speakers < MIN_SPEAKERS:
        return f"{speakers} speakers are too few; it takes {MIN_SPEAKERS}"
    # An EER may lie between two thresholds: its errors are no whole numbers.
    if errors and min(errors) < MIN_ERRORS - 0.5:
        return f"fewer than {MIN_ERRORS} errors"
    if step > MAX_STEP:
        return f"one more error would move it by over {MAX_STEP}"
    return None


@dataclass(frozen=True)
class SpeakerPairs:
    """The speakers of trials, and the pairs of speakers that trials compare.

    Attributes:
        enroll: int64 (N,), the speaker of each enroll side, 0 .. speakers - 1; each speaker has trials.
        test: int64 (N,), of each test side.
        pair: int64 (M,), the pair of each trial between two speakers, 0 .. pairs - 1, in either order.
        speakers: number of speakers.
        pairs: number of pairs.
    """

    enroll: Codes
    test: Codes
    pair: Codes
    speakers: int
    pairs: int

    @classmethod
    def of(cls, enroll: NDArray[np.integer], test: NDArray[np.integer]) -> "SpeakerPairs":
        """Return the pairs of trials whose speakers are int (N,) and int (N,), from 0; some may have no trials."""
        first, second = (np.asarray(side, np.int64) for side in (enroll, test))
        present = np.zeros(1 + int(max(first.max(), second.max())), bool)
        present[first] = present[second] = True
        number = np.cumsum(present) - 1
        first, second, speakers = number[first], number[second], int(present.sum())
        apart = first != second
        low, high = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
        names, pair = np.unique(low * speakers + high, return_inverse=True)
        return cls(first, second, np.asarray(pair, np.int64), speakers, len(names))

    @cached_property
    def own(self) -> int:
        """Number of speakers with trials of themselves."""
        return len(np.unique(self.enroll[self.enroll == self.test]))

    @cached_property
    def compared(self) -> int:
        """Number of speakers with trials against others."""
        apart = self.enroll != self.test
        return len(np.unique(np.concatenate((self.enroll[apart], self.test[apart]))))

    @property
    def fewest(self) -> int:
        """The lower of `own` and `compared`, without one that is 0."""
        return min(filter(None, (self.own, self.compared)))

    def figure(self, value: float, influence: Array, reason: str | None = None) -> "Figure":
        """Return a figure with the sums of its trials' influences.

        Args:
            value: of the figure.
            influence: float64 (N,), the derivative of the figure by the weight of each trial; sums to zero.
            reason: why it gets no interval.
        """
        within = self.enroll == self.test
        apart = influence[~within]

        def sums(codes: Codes, weights: Array, size: int) -> Array:
            # From the least to the greatest, so that no digit depends on the order of the trials.
            order = np.argsort(weights)
            return np.bincount(codes[order], weights[order], size).astype(np.float64)

        return Figure(
            value=value,
            trials=self,
            within=sums(self.enroll[within], influence[within], self.speakers),
            across=sums(self.enroll[~within], apart, self.speakers)
            + sums(self.test[~within], apart, self.speakers),
            between=sums(self.pair, apart, self.pairs),
            reason=reason,
        )


@dataclass(frozen=True)
class Figure:
    """A figure of a trial list, with the sums of its trials' influences, on which its interval rests.

    `second - first` is the difference of two figures of the same trials.

    Attributes:
        value: of the figure: a rate or a normalised cost in [0, 1], or a difference of two.
        trials: whose figure it is.
        within: float64 (speakers,), sums over each speaker's trials with themselves.
        across: float64 (speakers,), sums over each speaker's trials with others.
        between: float64 (pairs,), sums over the trials of each pair of speakers.
        reason: why there is no interval, by `why_no_interval`; None: no such reason.
        is_difference: whether it is a difference, which may be negative.
    """

    value: float
    trials: SpeakerPairs
    within: Array
    across: Array
    between: Array
    reason: str | None = None
    is_difference: bool = False

    def __sub__(self, other: "Figure") -> "Figure":
        return dataclasses.replace(
            self,
            value=self.value - other.value,
            within=self.within - other.within,
            across=self.across - other.across,
            between=self.between - other.between,
            reason=self.reason or other.reason,
            is_difference=True,
        )

    @classmethod
    def mean(cls, figures: Sequence["Figure"]) -> "Figure":
        """Return the mean of figures of the same trials, such as those of several trainings."""
        return dataclasses.replace(
            figures[0],
            value=float(np.mean([figure.value for figure in figures])),
            within=np.mean([figure.within for figure in figures], axis=0),
            across=np.mean([figure.across for figure in figures], axis=0),
            between=np.mean([figure.between for figure in figures], axis=0),
            reason=next((figure.reason for figure in figures if figure.reason), None),
        )

    @property
    def variance(self) -> float:
        """The variance over speakers, for two speakers or more; 0 where no trial has an influence.

        Source: as the module. Departures: with S speakers who are all compared, the part of the trials between speakers
        is unbiased times S (S - 1) / ((S - 2) (S - 3)), and its products with the trials within speakers times
        S / (S - 2). The part of the trials within speakers gets the square of S / (S - 1), as a jackknife over speakers
        gives it: the threshold is an estimate too. It is at least the sum of squares over pairs.
        """
        own, compared = self.trials.own, self.trials.compared
        within = float(self.within @ self.within) * ((own / (own - 1)) ** 2 if own > 1 else 1.0)
        across, pairs = float(self.across @ self.across), float(self.between @ self.between)
        scale = compared * (compared - 1) / ((compared - 2) * (compared - 3)) if compared > 3 else 0.0
        between = max(scale * (across - pairs), pairs)
        both = 2 * float(self.within @ self.across) * (compared / (compared - 2) if compared > 2 else 1.0)
        # Misses and false alarms vary together, but not so much that they cancel.
        return max(within + between + both, max(within, between) / 4)

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return the confidence interval, low and high; None where there is none.

        Quantiles are those of Student's t, with one degree of freedom less than there are speakers. The interval of a
        rate is symmetric on the scale of log odds, so that it stays between 0 and 1.
        """
        from scipy import special

        if self.why_none is not None:
            return None
        reach = special.stdtrit(self.trials.fewest - 1, (1 + level) / 2) * np.sqrt(self.variance)
        if self.is_difference:
            return self.value - reach, self.value + reach
        odds, reach = special.logit(self.value), reach / (self.value * (1 - self.value))
        return float(special.expit(odds - reach)), float(special.expit(odds + reach))

    @property
    def why_none(self) -> str | None:
        """The reason why there is no interval; None where there is one."""
        differs = self.variance > 0 and (self.is_difference or 0 < self.value < 1)
        return self.reason or (None if differs else "it is the same for all speakers")

    def p_value(self) -> float | None:
        """Return the two-sided p-value of a true figure of zero; None where there is no interval.

        The interval of level 1 - p ends at zero.
        """
        from scipy import special

        if self.why_none is None:
            return float(2 * special.stdtr(self.trials.fewest - 1, -abs(self.value) / np.sqrt(self.variance)))
        return 1.0 if self.value == 0 and self.variance == 0 else None
