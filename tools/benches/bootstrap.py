"""EER and minDCF in 1,000 samples of speakers; the limit is summing the trials' weights as many times."""

import numpy as np

from speakerverif.evaluation.bootstrap import bootstrap
from tools.benches._case import Case, Limit

SAMPLES = 1000


def _case(threads: int) -> Case:
    count, speakers = 40_000, 63
    rng = np.random.default_rng(0)
    enroll, test = rng.integers(speakers, size=(2, count))
    test = np.where(rng.random(count) < 0.5, enroll, test)
    labels = enroll == test
    scores = rng.normal(size=count) + 3.3 * labels
    weights = rng.random(count)
    return Case(
        lambda: bootstrap(scores, labels, enroll, test, (0.01, 0.05), SAMPLES),
        limits={"weights": Limit(lambda: np.cumsum(weights), SAMPLES)},
        rounds=1,
    )


CASES = {"1,000 samples of 40,000 trials": _case}
