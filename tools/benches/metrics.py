"""EER and minDCF of as many scores as VoxCeleb1-E has trials, and of ten million; the limit is one argsort."""

import functools

import numpy as np

from speakerverif.evaluation.metrics import det_curve
from tools.benches._case import Case, Limit, Work, left_out


def scores(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels, half of them targets, with an EER of about 1 %."""
    rng = np.random.default_rng(0)
    labels = rng.random(count) < 0.5
    return rng.normal(size=count) + 4.65 * labels, labels


def _ours(values: np.ndarray, labels: np.ndarray) -> Work:
    def run() -> None:
        curve = det_curve(values, labels)
        curve.eer(), curve.min_dcf(0.01), curve.min_dcf(0.05)

    return run


def _case(threads: int, count: int) -> Case:
    values, labels = scores(count)
    peers: dict[str, Work] = {}
    try:
        from sklearn.metrics import roc_curve
    except ImportError:
        left_out("scikit-learn")
    else:
        peers["scikit-learn's roc_curve alone"] = lambda: roc_curve(labels, values)
    sort = Limit(lambda: np.argsort(values))
    return Case(
        _ours(values, labels), peers, {"argsort": sort}, rounds=None if count < 10**7 else 1, memory=True
    )


CASES = {f"{count:,} trials": functools.partial(_case, count=count) for count in (581_480, 10_000_000)}
