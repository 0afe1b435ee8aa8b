"""Figures of a scored list as typed values, to JSON and back.

Rates are fractions. In JSON an interval is a pair `[low, high]`, and a threshold that accepts nothing is null.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from speakerverif.data.scores import ScoreKind
from speakerverif.scoring.speaker_bootstrap import MIN_SPEAKERS

Read = TypeVar("Read")


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float

    @classmethod
    def of(cls, limits: tuple[float, float] | None) -> "Interval | None":
        """Return both limits as an interval; None stays None."""
        return None if limits is None else cls(*limits)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold (accept where score >= threshold; None accepts nothing) and the error rates there."""

    threshold: float | None
    p_miss: float
    p_fa: float


@dataclass(frozen=True)
class DetectionCosts:
    """Normalised detection costs at one prior of a target trial.

    Attributes:
        key: the prior as the JSON record names it, `0.01`.
        minimum: the least cost over all thresholds.
        point: the operating point with that cost.
        ci95: interval of the minimum; None: no interval.
        actual: the cost at the threshold that Bayes' rule sets; None for scores that are no likelihood ratios.
    """

    key: str
    minimum: float
    point: OperatingPoint
    ci95: Interval | None = None
    actual: float | None = None


@dataclass(frozen=True)
class BootstrapFacts:
    """The bootstrap that the intervals are from.

    Attributes:
        unit: `speaker`, or `file` where speakers are unknown.
        units: number of speakers (or files).
        samples: bootstrap samples.
        seed: of the draws.
        redrawn: samples thrown away because they held no target or no non-target weight.
        speakers_from: how the speakers are known: `table`, `paths` or `target trials`; None where they are not.
    """

    unit: str
    units: int
    samples: int
    seed: int
    redrawn: int
    speakers_from: str | None = None

    def __str__(self) -> str:
        linked = " (files that target trials link)" if self.speakers_from == "target trials" else ""
        return (
            f"{self.samples:,} bootstrap samples over {self.units:,} {self.unit}s{linked}, seed {self.seed}"
        )


@dataclass(frozen=True)
class Figures:
    """Error rates and costs of a scored list.

    Attributes:
        score_kind: of the scores.
        eer: equal error rate.
        eer_threshold: threshold of the operating point nearest to it.
        costs: one for each prior.
        min_cllr: Cllr after the best monotone calibration, bits.
        cllr: of likelihood ratios, bits; None for other scores.
        eer_ci95: None: no interval.
        bootstrap: None: no intervals.
    """

    score_kind: ScoreKind
    eer: float
    eer_threshold: float
    costs: tuple[DetectionCosts, ...]
    min_cllr: float
    cllr: float | None = None
    eer_ci95: Interval | None = None
    bootstrap: BootstrapFacts | None = None

    @property
    def why_no_interval(self) -> str | None:
        """The reason why the EER has no interval; None: it has one, or none was asked for."""
        if self.bootstrap is None or self.eer_ci95 is not None:
            return None
        if self.bootstrap.unit == "file":
            return "the speakers are unknown; --speakers names them"
        if self.bootstrap.units < MIN_SPEAKERS:
            return f"{self.bootstrap.units} speakers are too few; it takes {MIN_SPEAKERS}"
        return "the EER is the same in all samples of the speakers"

    def to_json(self) -> dict[str, Any]:
        """Return the figures' keys of a record."""
        actual = {cost.key: cost.actual for cost in self.costs if cost.actual is not None}
        ranges = {cost.key: optional(list, cost.ci95) for cost in self.costs}
        return {
            "eer": self.eer,
            "eer_ci95": None if self.eer_ci95 is None else list(self.eer_ci95),
            "eer_threshold": self.eer_threshold,
            "min_dcf": {cost.key: cost.minimum for cost in self.costs},
            "min_dcf_ci95": ranges if any(ranges.values()) else None,
            "min_dcf_at": {cost.key: vars(cost.point).copy() for cost in self.costs},
            "act_dcf": actual or None,
            "cllr": self.cllr,
            "min_cllr": self.min_cllr,
            "score_kind": self.score_kind,
            "bootstrap": None if self.bootstrap is None else vars(self.bootstrap).copy(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Figures":
        """Return the object from the output of `to_json`."""
        ranges, actual = data["min_dcf_ci95"] or {}, data["act_dcf"] or {}
        costs = tuple(
            DetectionCosts(
                key=key,
                minimum=minimum,
                point=OperatingPoint(**data["min_dcf_at"][key]),
                ci95=optional(Interval._make, ranges.get(key)),
                actual=actual.get(key),
            )
            for key, minimum in data["min_dcf"].items()
        )
        return cls(
            score_kind=data["score_kind"],
            eer=data["eer"],
            eer_threshold=data["eer_threshold"],
            costs=costs,
            min_cllr=data["min_cllr"],
            cllr=data["cllr"],
            eer_ci95=optional(Interval._make, data["eer_ci95"]),
            bootstrap=optional(lambda facts: BootstrapFacts(**facts), data["bootstrap"]),
        )


def optional(convert: Callable[[Any], Read], value: Any) -> Read | None:
    """Return a value converted; None stays None."""
    return None if value is None else convert(value)
