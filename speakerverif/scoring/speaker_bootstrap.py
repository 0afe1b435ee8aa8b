"""Bootstrap over speakers: draws, weights of trials, and confidence intervals that hold for few speakers.

Trials of one speaker are alike, so that speakers are drawn, not trials. A trial within a speaker drawn n times weighs
n, one between speakers drawn n and m times weighs n m.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SPEAKERS = 10  # the fewest for which tools/interval_coverage.py finds that intervals hold
MAX_LEFT_OUT = 200  # groups of speakers that the jackknife leaves out, at most: more move no interval


@dataclass(frozen=True)
class Resampled:
    """A figure of all trials, of bootstrap samples, and of all trials but those of one speaker.

    The difference of two figures of the same speakers, drawn with the same seed, is the figure's difference in each
    sample: `second - first`.

    Attributes:
        estimate: on all trials.
        samples: float64 (samples,), in each bootstrap sample.
        left_out: float64 (groups,), without each speaker, or without each of some groups of them.
        speakers: number of speakers.
    """

    estimate: float
    samples: NDArray[np.float64]
    left_out: NDArray[np.float64]
    speakers: int

    def __sub__(self, other: "Resampled") -> "Resampled":
        return dataclasses.replace(
            self,
            estimate=self.estimate - other.estimate,
            samples=self.samples - other.samples,
            left_out=self.left_out - other.left_out,
        )

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return the confidence interval, low and high; None where there are too few speakers, or no spread.

        Bias-corrected and accelerated (BCa), with the acceleration from the jackknife over speakers, and with
        quantiles widened for few speakers: sqrt(S / (S - 1)) times those of Student's t with S - 1 degrees of freedom.

        Source: Efron, "Better bootstrap confidence intervals", 1987; Hesterberg, "What teachers should know about the
        bootstrap", 2015, section 3.5, for the widening, there of percentile intervals.
        """
        from scipy import special

        if self.speakers < MIN_SPEAKERS or np.ptp(self.samples) == 0:
            return None
        bias, acceleration = self._bias(), self._acceleration()
        tails = special.stdtrit(self.speakers - 1, np.array([1 - level, 1 + level]) / 2)
        shifted = bias + tails * np.sqrt(self.speakers / (self.speakers - 1))
        low, high = np.quantile(self.samples, special.ndtr(bias + shifted / (1 - acceleration * shifted)))
        return float(low), float(high)

    def p_value(self) -> float | None:
        """Return the two-sided p-value of a true figure of zero; None where there is no interval.

        The interval of level 1 - p ends at zero. A p-value is never below 2 / (samples + 1).
        """
        from scipy import special

        if not np.any(self.samples):
            return 1.0
        if self.speakers < MIN_SPEAKERS:
            return None
        least = 1 / (len(self.samples) + 1)
        below = (np.count_nonzero(self.samples < 0) + 0.5 * np.count_nonzero(self.samples == 0)) / len(
            self.samples
        )
        bias, acceleration = self._bias(), self._acceleration()
        quantile = special.ndtri(np.clip(below, least, 1 - least)) - bias
        tail = (quantile / (1 + acceleration * quantile) - bias) * np.sqrt(
            (self.speakers - 1) / self.speakers
        )
        return float(np.clip(2 * special.stdtr(self.speakers - 1, -abs(tail)), 2 * least, 1))

    def _bias(self) -> float:
        """Return the normal quantile of the share of samples below the estimate, equal ones counted half."""
        from scipy import special

        size, below = len(self.samples), np.count_nonzero(self.samples < self.estimate)
        share = (below + 0.5 * np.count_nonzero(self.samples == self.estimate)) / size
        return float(special.ndtri(np.clip(share, 0.5 / size, 1 - 0.5 / size)))

    def _acceleration(self) -> float:
        """Return a sixth of the skewness of the figure's distribution, from the jackknife."""
        change = self.left_out.mean() - self.left_out
        spread = float(change @ change)
        return float((change**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0


def draws(speakers: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield bootstrap samples without end: int64 (speakers,), how often each speaker is drawn."""
    rng = np.random.default_rng(seed)
    while True:
        yield np.bincount(rng.integers(speakers, size=speakers), minlength=speakers)


def each_left_out(speakers: int) -> Iterator[NDArray[np.int64]]:
    """Yield ones (speakers,) with a zero for each speaker in turn, or for each of `MAX_LEFT_OUT` groups of them."""
    groups = min(speakers, MAX_LEFT_OUT)
    member = np.arange(speakers) % groups
    for group in range(groups):
        yield (member != group).astype(np.int64)
