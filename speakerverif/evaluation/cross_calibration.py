"""Cross-validated calibration: no trial is calibrated on its own speakers."""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import Units
from speakerverif.errors import InputError
from speakerverif.scoring.calibration import fit_affine
from speakerverif.scoring.decision import threshold_at_far

FOLDS = 5


@dataclass(frozen=True)
class HeldOut:
    """Trials judged by calibrations that were fitted without their speakers.

    Attributes:
        llrs: float64 (N,), natural-log likelihood ratios.
        thresholds: float64 (N,), of the false-alarm rate asked for, each on the scale of its trial's calibration; nan
            where none was asked for.
    """

    llrs: np.ndarray
    thresholds: np.ndarray


def held_out_llrs(scores: ScoreList, units: Units, p_target: float = 0.05, seed: int = 0) -> ScoreList:
    """Return log likelihood ratios of labelled trials, each by a calibration fitted without its speakers.

    As `held_out_fusion` of this one system.

    Raises:
        InputError: as there, and scores that are lower for targets.
    """
    llrs = held_out_fusion(scores.scores[:, None], np.asarray(scores.trials.labels), units, p_target, seed)
    return ScoreList(scores.trials, llrs, "llr")


def held_out_fusion(
    inputs: np.ndarray, labels: np.ndarray, units: Units, p_target: float = 0.05, seed: int = 0
) -> np.ndarray:
    """Return log likelihood ratios (N,) of inputs (N, K), each by a fusion fitted without the trial's speakers.

    As `held_out` without a false-alarm rate.
    """
    return held_out(inputs, labels, units, p_target, None, seed).llrs


def held_out(
    inputs: np.ndarray,
    labels: np.ndarray,
    units: Units,
    p_target: float = 0.05,
    far: float | None = None,
    seed: int = 0,
) -> HeldOut:
    """Return likelihood ratios of inputs (N, K), each by a fusion fitted without the trial's speakers.

    The speakers are dealt into five folds. A trial whose sides are of folds i and j gets the affine
    calibration that is fitted on the trials without any speaker of i or j. So every trial is judged, by one of
    fifteen fits that differ a little; pooled, their ranking differs as little from that of the scores.

    Args:
        inputs: the systems' scores, then quality measures.
        labels: bool (N,), True is target.
        units: speakers of both sides.
        p_target: the prior whose region of scores matters most.
        far: false-alarm rate whose threshold is chosen too, on the trials that each fusion is fitted on; None: none.
        seed: deals the speakers.

    Raises:
        InputError: so few speakers that some folds leave no targets or no non-targets to fit on, or too few for the
            false-alarm rate; a single input that is lower for targets.
    """
    fold = np.random.default_rng(seed).permutation(len(units.names)) % FOLDS
    enroll, test = fold[units.enroll], fold[units.test]
    llrs, thresholds = np.empty(len(labels)), np.full(len(labels), np.nan)
    for i, j in combinations_with_replacement(range(FOLDS), 2):
        apart = ~np.isin(enroll, (i, j)) & ~np.isin(test, (i, j))
        of_folds = ((enroll == i) & (test == j)) | ((enroll == j) & (test == i))
        if not of_folds.any():
            continue
        if not 0 < labels[apart].sum() < apart.sum():
            raise InputError(
                f"{len(units.names)} {units.kind}s are too few to calibrate on some and judge on others: "
                f"{apart.sum()} trials without folds {i} and {j}, {labels[apart].sum()} of them targets"
            )
        weights, bias = fit_affine(inputs[apart], labels[apart], p_target)
        if len(weights) == 1 and weights[0] <= 0:
            raise InputError(f"target trials score lower than non-targets (weight {weights[0]:.3g})")
        llrs[of_folds] = inputs[of_folds] @ weights + bias
        if far is not None:
            thresholds[of_folds] = threshold_at_far(inputs[apart] @ weights + bias, labels[apart], far)
    return HeldOut(llrs, thresholds)
