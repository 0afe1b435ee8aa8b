"""Error rates of identification in a store: how often strangers are named, and the enrolled are not.

FPIR and FNIR as ISO/IEC 19795-1 and NIST's FRVT 1:N define them for open-set search: a false positive names anybody for
a speaker who is not enrolled; a false negative does not name an enrolled speaker, or names another one.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif.errors import InputError
from speakerverif.scoring.speaker_intervals import why_no_interval

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class OpenSetPoint:
    """Error rates at a threshold.

    Attributes:
        threshold: name the best candidate at this value or above.
        fpir: share of strangers who are named.
        fnir: share of the enrolled who are not named, or by another's name.
        strangers: searches by strangers.
        enrolled: searches by enrolled speakers.
        gallery: number of enrolled speakers; 0 where it wasn't stated.
        fpir_ci95: see `Outcomes.at`; None: too few speakers.
        fnir_ci95: likewise.
    """

    threshold: float
    fpir: float
    fnir: float
    strangers: int
    enrolled: int
    gallery: int = 0
    fpir_ci95: tuple[float, float] | None = None
    fnir_ci95: tuple[float, float] | None = None


def rates_at(
    values: Array, right: NDArray[np.bool_], is_enrolled: NDArray[np.bool_], threshold: float
) -> OpenSetPoint:
    """Return the error rates of naming the best candidate at a threshold.

    Args:
        values: float (N,), of the best candidate of each search; higher is surer.
        right: bool (N,), whether the best candidate is who speaks.
        is_enrolled: bool (N,), whether who speaks is enrolled at all.
        threshold: on the scale of the values.

    Raises:
        InputError: no searches by strangers, or none by enrolled speakers; values that aren't finite.
    """
    strangers, enrolled = int(np.sum(~is_enrolled)), int(np.sum(is_enrolled))
    if not strangers or not enrolled:
        raise InputError(
            f"{enrolled} searches by enrolled speakers and {strangers} by strangers: expected both"
        )
    if not np.isfinite(values).all():
        raise InputError("values of an identification: expected finite numbers")
    named = values >= threshold
    return OpenSetPoint(
        threshold=float(threshold),
        fpir=float(np.mean(named[~is_enrolled])),
        fnir=float(np.mean(~(named & right)[is_enrolled])),
        strangers=strangers,
        enrolled=enrolled,
    )


def threshold_at_fpir(values: Array, is_enrolled: NDArray[np.bool_], fpir: float) -> float:
    """Return the lowest threshold at which at most the share `fpir` of the strangers are named.

    Raises:
        InputError: fewer strangers than such a rate needs.
    """
    strangers = np.sort(values[~is_enrolled])[::-1]
    allowed = int(np.floor(fpir * len(strangers) * (1 + 1e-12)))
    if not 0 < fpir < 1 or allowed < 1:
        raise InputError(f"fpir {fpir}: expected a rate below 1 that {len(strangers)} searches can show")
    return float(np.nextafter(strangers[allowed], np.inf))


@dataclass(frozen=True)
class Outcomes:
    """The best candidates of searches in one gallery, or in several of one size.

    Attributes:
        gallery: number of enrolled speakers.
        values: float64 (N,), of the best candidate; higher is surer.
        searched: int64 (N,), who speaks.
        best: int64 (N,), the best candidate, with the same numbers.
        is_enrolled: bool (N,), whether who speaks is enrolled.
    """

    gallery: int
    values: Array
    searched: Codes
    best: Codes
    is_enrolled: NDArray[np.bool_]

    @classmethod
    def of(cls, values: Array, enrolled: Codes, searched: Codes, rule: Array | None = None) -> "Outcomes":
        """Return the outcomes of searches in one gallery.

        Args:
            values: (speakers, searches), scores or likelihood ratios.
            enrolled: int64 (speakers,), the speakers.
            searched: int64 (searches,), who speaks.
            rule: float64 (searches,), to decide by in place of the best value; None: the best value.
        """
        best = values.argmax(axis=0)
        deciding = values[best, np.arange(len(searched))] if rule is None else rule
        return cls(len(enrolled), deciding, searched, enrolled[best], np.isin(searched, enrolled))

    @classmethod
    def joined(cls, several: Sequence["Outcomes"]) -> "Outcomes":
        """Return the outcomes of several galleries of one size together."""
        names = ("values", "searched", "best", "is_enrolled")
        columns = (np.concatenate([getattr(one, name) for one in several]) for name in names)
        return cls(several[0].gallery, *columns)

    @property
    def right(self) -> NDArray[np.bool_]:
        """Bool (N,), whether the best candidate is who speaks."""
        right: NDArray[np.bool_] = self.best == self.searched
        return right

    def at(self, threshold: float) -> OpenSetPoint:
        """Return the error rates at a threshold, with 95 % intervals.

        The variance of a rate is that of errors which are alike within a speaker who is searched, and within a
        speaker who is the best candidate (Cameron, Gelbach and Miller 2011, two-way clusters). The interval is the
        exact binomial one of as many independent searches as have this variance (Korn and Graubard 1998).

        Raises:
            InputError: as `rates_at`.
        """
        point = rates_at(self.values, self.right, self.is_enrolled, threshold)
        named = self.values >= threshold
        strangers, enrolled = ~self.is_enrolled, self.is_enrolled
        return dataclasses.replace(
            point,
            gallery=self.gallery,
            fpir_ci95=_interval(named[strangers], self.searched[strangers], self.best[strangers]),
            fnir_ci95=_interval(
                ~(named & self.right)[enrolled], self.searched[enrolled], self.best[enrolled]
            ),
        )

    def at_fpir(self, fpir: float) -> OpenSetPoint:
        """Return the error rates at the threshold of a false-positive rate.

        Raises:
            InputError: as `threshold_at_fpir`.
        """
        return self.at(threshold_at_fpir(self.values, self.is_enrolled, fpir))


@dataclass(frozen=True)
class OpenSetRecord:
    """Error rates of identification against the size of the gallery.

    Attributes:
        kind: of the values: scores as a `ScoreKind`, or `llr`.
        speakers: number of speakers who are searched.
        searches: number of recordings that are searched.
        galleries: galleries per size, drawn at random; the whole gallery is one.
        points: at each size, the rates at each fixed threshold and at each false-positive rate.
        mean_margin: mean of the best candidate's value less the runner-up's, in the whole gallery, where the best is
            who speaks; nan where that never is so, or one speaker is enrolled.
    """

    kind: str
    speakers: int
    searches: int
    galleries: int
    points: tuple[OpenSetPoint, ...]
    mean_margin: float

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON writes it."""
        record = dataclasses.asdict(self)
        return {**record, "mean_margin": None if np.isnan(self.mean_margin) else self.mean_margin}


def evaluate_open_set(
    values: Array,
    enrolled: Sequence[str],
    searched: Sequence[str],
    kind: str,
    *,
    sizes: Sequence[int] = (),
    thresholds: Sequence[float] = (),
    fpirs: Sequence[float] = (0.01, 0.05),
    galleries: int = 20,
    seed: int = 0,
) -> OpenSetRecord:
    """Return the error rates of naming the best candidate, in galleries of several sizes.

    A smaller gallery holds some of the enrolled speakers, drawn at random; the others are strangers to it. Drawn
    galleries of more than half of all speakers get no intervals: tools/open_set_coverage.py finds those too narrow.

    Args:
        values: float64 (speakers, searches), scores or likelihood ratios; higher for the same speaker.
        enrolled: the speakers' names, distinct.
        searched: the name of who speaks in each search.
        kind: of the values.
        sizes: of the galleries; none: those of `SIZES` below the number enrolled, and all where strangers are searched.
        thresholds: fixed ones, on the scale of the values.
        fpirs: false-positive rates whose thresholds are chosen; those that the searches can't show are left out.
        galleries: drawn per size.
        seed: of the draws.

    Raises:
        InputError: values of another shape or not finite; a size that isn't there, or that leaves no strangers; nobody
            who is searched is enrolled.
    """
    names = sorted({*enrolled, *searched})
    number = {name: code for code, name in enumerate(names)}
    rows, columns = (np.array([number[name] for name in side], np.int64) for side in (enrolled, searched))
    if values.shape != (len(rows), len(columns)) or len(set(enrolled)) != len(enrolled):
        raise InputError(
            f"values of shape {values.shape}: expected one row per enrolled speaker, one column per search"
        )
    if not np.isin(columns, rows).any():
        raise InputError("nobody who is searched is enrolled: expected some of the same names")
    whole = len(rows)
    has_strangers = not np.isin(columns, rows).all()
    sizes = sizes or [*(size for size in SIZES if size < whole), *([whole] if has_strangers else [])]
    rng = np.random.default_rng(seed)
    points = []
    for size in sizes:
        if not 1 <= size <= whole or (size == whole and not has_strangers):
            raise InputError(
                f"gallery of {size}: {whole} speakers are enrolled, and "
                f"{'some' if has_strangers else 'no'} others are searched; expected a size that leaves strangers"
            )
        drawn = [rng.choice(whole, size, replace=False) for _ in range(1 if size == whole else galleries)]
        outcomes = Outcomes.joined([Outcomes.of(values[some], rows[some], columns) for some in drawn])
        strangers = int(np.sum(~outcomes.is_enrolled))
        of_size = [outcomes.at(threshold) for threshold in thresholds]
        of_size += [outcomes.at_fpir(fpir) for fpir in fpirs if fpir * strangers >= 1]
        if size < whole and 2 * size > len(names):
            of_size = [dataclasses.replace(at, fpir_ci95=None, fnir_ci95=None) for at in of_size]
        points += of_size
    ranked = np.sort(values, axis=0)[::-1]
    first = rows[values.argmax(axis=0)] == columns
    margin = (
        float(np.mean(ranked[0, first] - ranked[1, first])) if whole > 1 and first.any() else float("nan")
    )
    return OpenSetRecord(kind, len(np.unique(columns)), len(columns), galleries, tuple(points), margin)


def format_open_set(record: OpenSetRecord) -> str:
    """Return the table of a record, rates in percent."""

    def percent(rate: float, limits: tuple[float, float] | None) -> str:
        shown = "" if limits is None else f" [{100 * limits[0]:.2f}, {100 * limits[1]:.2f}]"
        return f"{100 * rate:.2f}{shown}"

    rows = [("enrolled", "threshold", "FPIR %", "FNIR %")]
    for point in record.points:
        rates = percent(point.fpir, point.fpir_ci95), percent(point.fnir, point.fnir_ci95)
        rows.append((str(point.gallery), f"{point.threshold:.3f}", *rates))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows
    )


def _interval(wrong: NDArray[np.bool_], searched: Codes, best: Codes) -> tuple[float, float] | None:
    """Return the 95 % interval of a share of searches; see `Outcomes.at`."""
    from scipy import special

    speakers = len(np.unique(searched))
    if why_no_interval(speakers) is not None:
        return None
    rate, count = float(wrong.mean()), len(wrong)
    deviations = wrong - rate

    def spread(cluster: Codes) -> float:
        _, member = np.unique(cluster, return_inverse=True)
        return float(np.sum(np.bincount(member, deviations) ** 2)) / count**2

    both = spread(searched * (int(best.max()) + 1) + best)
    variance = max(spread(searched), spread(searched) + spread(best) - both) * speakers / (speakers - 1)
    size = min(rate * (1 - rate) / variance, count) if variance > 0 else float(speakers)
    # Student's t for few speakers, as Korn and Graubard widen it.
    size *= (special.stdtrit(max(size - 1, 1), 0.975) / special.stdtrit(speakers - 1, 0.975)) ** 2
    size = min(size, float(count))
    errors = rate * size
    low = special.betaincinv(errors, size - errors + 1, 0.025) if errors > 0 else 0.0
    high = special.betaincinv(errors + 1, size - errors, 0.975) if errors < size else 1.0
    return float(low), float(high)
