"""How often the 95 % intervals of FPIR and FNIR contain the true rates: simulated stores of several sizes.

    python tools/open_set_coverage.py --stores 150

Speakers are drawn as vectors, each with its own spread, and recordings around them: three enrolled, six searched. In
each simulation, 20 galleries are drawn from its speakers. The truth is the mean over 400 other simulations.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif.evaluation.open_set import Outcomes

# Speakers in all, speakers in a gallery, threshold.
CASES = ((20, 5, 0.6), (40, 10, 0.6), (60, 20, 0.62), (60, 40, 0.62))
DIMENSIONS, ENROLLED, SEARCHED = 20, 3, 6
NOISE, SPREADS = 0.6, 0.35  # of recordings, and of the logarithm of how much a speaker's recordings vary
TRUTHS = 400


def simulate(speakers: int, size: int, galleries: int, seed: int) -> Outcomes:
    """Return the outcomes of searches in galleries that are drawn from new speakers."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(speakers, 1, DIMENSIONS))
    spread = NOISE * np.exp(SPREADS * rng.normal(size=(speakers, 1, 1)))
    enrolled, searched = (
        centres + spread * rng.normal(size=(speakers, count, DIMENSIONS)) for count in (ENROLLED, SEARCHED)
    )
    models, probes = enrolled.mean(axis=1), searched.reshape(-1, DIMENSIONS)
    lengths = np.linalg.norm(models, axis=1)[:, None] * np.linalg.norm(probes, axis=1)
    values, owner = models @ probes.T / lengths, np.repeat(np.arange(speakers), SEARCHED)
    drawn = [rng.choice(speakers, size, replace=False) for _ in range(galleries)]
    return Outcomes.joined([Outcomes.of(values[some], some, owner) for some in drawn])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stores", type=int, default=150, metavar="N", help="simulations (default: 150)")
    count = parser.parse_args().stores
    print("| speakers | enrolled | FPIR % | covered % | FNIR % | covered % |\n|---|---|---|---|---|---|")
    for speakers, size, threshold in CASES:
        others = [simulate(speakers, size, 5, seed).at(threshold) for seed in range(TRUTHS)]
        cells = []
        points = [simulate(speakers, size, 20, TRUTHS + seed).at(threshold) for seed in range(count)]
        for rate, limits in (("fpir", "fpir_ci95"), ("fnir", "fnir_ci95")):
            truth = float(np.mean([getattr(point, rate) for point in others]))
            intervals = [getattr(point, limits) for point in points]
            covered = np.mean([low <= truth <= high for low, high in intervals])
            cells += [f"{100 * truth:.1f}", f"{100 * covered:.1f}"]
        print(f"| {speakers} | {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
