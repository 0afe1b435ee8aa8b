"""EER and minDCF with intervals over speakers; the limit is one argsort of the same scores."""

import numpy as np

from speakerverif.evaluation.intervals import estimate
from tools.benches._case import Case, Limit


def _case(threads: int) -> Case:
    count, speakers = 40_000, 63
    rng = np.random.default_rng(0)
    enroll, test = rng.integers(speakers, size=(2, count))
    test = np.where(rng.random(count) < 0.5, enroll, test)
    labels = enroll == test
    scores = rng.normal(size=count) + 3.3 * labels
    return Case(
        lambda: estimate(scores, labels, enroll, test, (0.01, 0.05)),
        limits={"argsort": Limit(lambda: np.argsort(scores), 1)},
    )


CASES = {"intervals of 40,000 trials": _case}
