"""Figures of a scored list as typed values, to JSON and back.

Rates are fractions. In JSON an interval is a pair `[low, high]`, and a threshold that accepts nothing is null.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from speakerverif.data.scores import ScoreKind

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
        no_interval: the reason why there is none, where intervals were asked for.
        actual: the cost at the threshold that Bayes' rule sets; None for scores that are no likelihood ratios.
    """

    key: str
    minimum: float
    point: OperatingPoint
    ci95: Interval | None = None
    no_interval: str | None = None
    actual: float | None = None


@dataclass(frozen=True)
class IntervalFacts:
    """The speakers that the intervals are over.

    Attributes:
        unit: `speaker`, or `file` where speakers are unknown.
        units: number of speakers (or files).
        speakers_from: how the speakers are known: `table`, `paths` or `target trials`; None where they are not.
    """

    unit: str
    units: int
    speakers_from: str | None = None

    @property
    def speakers(self) -> int | None:
        """Number of speakers; None where they are unknown."""
        return self.units if self.unit == "speaker" else None

    def __str__(self) -> str:
        linked = " (files that target trials link)" if self.speakers_from == "target trials" else ""
        return f"over {self.units:,} {self.unit}s{linked}"

    def to_json(self) -> dict[str, Any]:
        """Return the facts' part of a record.

        `samples`, `seed` and `redrawn` are those of records with bootstrap intervals; nothing is drawn any more.
        """
        return {
            "unit": self.unit,
            "units": self.units,
            "samples": 0,
            "seed": 0,
            "redrawn": 0,
            "speakers_from": self.speakers_from,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "IntervalFacts":
        """Return the object from the output of `to_json`, or from a record of an earlier version."""
        return cls(data["unit"], data["units"], data.get("speakers_from"))


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
        no_interval: the reason why the EER has none, where intervals were asked for.
        intervals: None: no intervals.
    """

    score_kind: ScoreKind
    eer: float
    eer_threshold: float
    costs: tuple[DetectionCosts, ...]
    min_cllr: float
    cllr: float | None = None
    eer_ci95: Interval | None = None
    no_interval: str | None = None
    intervals: IntervalFacts | None = None

    @property
    def without_interval(self) -> dict[str, str]:
        """The reason for each figure whose interval was asked for and that has none, by the figure's name."""
        reasons = {"EER": self.no_interval} | {f"minDCF({cost.key})": cost.no_interval for cost in self.costs}
        return {name: reason for name, reason in reasons.items() if reason is not None}

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
            "bootstrap": optional(IntervalFacts.to_json, self.intervals),
            "no_interval": {
                "eer": self.no_interval,
                "min_dcf": {cost.key: cost.no_interval for cost in self.costs},
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Figures":
        """Return the object from the output of `to_json`."""
        ranges, actual = data["min_dcf_ci95"] or {}, data["act_dcf"] or {}
        reasons = data.get("no_interval") or {}  # records of earlier versions have none
        costs = tuple(
            DetectionCosts(
                key=key,
                minimum=minimum,
                point=OperatingPoint(**data["min_dcf_at"][key]),
                ci95=optional(Interval._make, ranges.get(key)),
                no_interval=reasons.get("min_dcf", {}).get(key),
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
            no_interval=reasons.get("eer"),
            intervals=optional(IntervalFacts.from_json, data["bootstrap"]),
        )


def optional(convert: Callable[[Any], Read], value: Any) -> Read | None:
    """Return a value converted; None stays None."""
    return None if value is None else convert(value)
