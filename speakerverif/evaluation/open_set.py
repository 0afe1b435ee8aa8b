"""Error rates of identification in a store: how often strangers are named, and the enrolled are not.

FPIR and FNIR as ISO/IEC 19795-1 and NIST's FRVT 1:N define them for open-set search: a false positive names anybody for
a speaker who is not enrolled; a false negative does not name an enrolled speaker, or names another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speakerverif.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OpenSetPoint:
    """Error rates at a threshold.

    Attributes:
        threshold: name the best candidate at this value or above.
        fpir: share of strangers who are named.
        fnir: share of the enrolled who are not named, or by another's name.
        strangers: searches by strangers.
        enrolled: searches by enrolled speakers.
    """

    threshold: float
    fpir: float
    fnir: float
    strangers: int
    enrolled: int


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


def average(points: Sequence[OpenSetPoint]) -> OpenSetPoint:
    """Return the mean rates of points of several galleries, their searches added up."""
    return OpenSetPoint(
        threshold=float(np.mean([point.threshold for point in points])),
        fpir=float(np.mean([point.fpir for point in points])),
        fnir=float(np.mean([point.fnir for point in points])),
        strangers=sum(point.strangers for point in points),
        enrolled=sum(point.enrolled for point in points),
    )
