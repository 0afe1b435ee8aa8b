"""A report in a sentence, and as JSON: what a decision by these scores means for people."""

from collections.abc import Sequence
from typing import Any

from speakerverif.report.results import Result
from speakerverif.scoring.decision import DecisionPoint

BASES = (100, 1_000, 10_000, 100_000, 1_000_000)


def answer(result: Result) -> str:
    """Return in one sentence how many strangers are let in, and how many of one's own people are refused.

    Empty where there are too few non-target trials to choose a threshold.
    """
    point = result.decision
    if point is None:
        return ""
    threshold = f"{point.threshold:.4g}".replace("-", "−")
    strangers = f"{_per(point.p_fa)} strangers {_verb(point.p_fa)}" if point.p_fa else "no stranger is"
    if point.p_miss:
        base = _base(point.p_miss)
        low, high = (_rounded(base * limit) for limit in point.p_miss_ci95 or (0, 0))
        between = f" (between {low} and {high})" if low != high else ""
        people = f"{_per(point.p_miss)} of your people {_verb(point.p_miss)} refused{between}"
    else:
        people = "none of your people is refused"
    return f"At a threshold of {threshold}, {strangers} let in, and {people}."


def basis(result: Result) -> str:
    """Return what the sentence rests on."""
    point = result.decision
    if point is None:
        return ""
    speakers = f" of {point.speakers:,} speakers" if point.speakers else ""
    reason = point.without_interval.get("misses")
    limits = "in brackets the 95 % interval" if reason is None else f"no interval: {reason}"
    return (
        f"Measured for {result.system.name} on {point.targets:,} target and {point.nontargets:,} non-target "
        f"trials{speakers}, the threshold chosen on the same trials; {limits}."
    )


def _base(rate: float) -> int:
    """Return the least of `BASES` in which a rate is at least one person."""
    return next((base for base in BASES if round(base * rate) >= 1), BASES[-1])


def _rounded(value: float) -> str:
    return f"{round(value):,}"


def _per(rate: float) -> str:
    base = _base(rate)
    return f"{_rounded(base * rate)} in {base:,}"


def _verb(rate: float) -> str:
    return "is" if round(_base(rate) * rate) == 1 else "are"


def to_json(results: Sequence[Result], title: str) -> dict[str, Any]:
    """Return the report's figures: the record of each system, the paired test, the decision in a sentence."""
    return {"title": title, "lists": [_list(result) for result in results]}


def _list(result: Result) -> dict[str, Any]:
    difference = result.difference()
    return {
        "title": result.title,
        "answer": answer(result) or None,
        "decision": _decision(result.decision),
        "systems": [{"system": system.name, **system.record.to_json()} for system in result.systems],
        "difference": difference
        and {
            "eer_difference": difference.difference,
            "ci95": None if difference.interval is None else list(difference.interval),
            "p_value": difference.p_value,
        },
    }


def _decision(point: DecisionPoint | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(point).items()}
