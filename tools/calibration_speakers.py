"""How a threshold of few people holds for others: false-alarm rates asked for, stated by `calibrate`, and found.

    speakerverif embed --manifest corpora/speechocean762/dev --audio-root corpora/speechocean762 --out dev.npz
    python tools/calibration_speakers.py --embeddings dev.npz --speakers corpora/speechocean762/dev/utt2spk

In each draw some speakers calibrate the model on generated trials; all others measure the threshold.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.generated_trials import GeneratedTrials, generate_trials
from speakerverif.data.speakers import read_speakers
from speakerverif.inference.calibrate_people import PeopleRequest, calibrated
from speakerverif.inference.embedded_people import EmbeddedPeople, PeopleFolder
from speakerverif.models.folder import DEFAULT
from speakerverif.scoring.scorer import Scoring

# (speakers, false-alarm rate): the fewest speakers that `calibrate` takes for a rate, and more.
CASES = (
    (5, 0.1),
    (7, 0.05),
    (10, 0.05),
    (11, 0.02),
    (15, 0.01),
    (20, 0.01),
    (30, 0.01),
    (5, None),
    (20, None),
)
RECORDINGS = 10  # of each calibrating speaker
MOST_TRIALS = 6000


@dataclass(frozen=True)
class Found:
    """A threshold's error rates: stated by `calibrate`, and found on everybody else.

    Attributes:
        stated: false-alarm rate.
        false_alarms: found.
        misses: found.
        contained: whether the stated interval contains the rate found; None: there is no interval.
    """

    stated: float
    false_alarms: float
    misses: float
    contained: bool | None


def trials_of(table: EmbeddingTable, owner: NDArray[np.str_], seed: int) -> GeneratedTrials:
    """Return generated trials of all recordings of a table."""
    return generate_trials(table.ids, owner.tolist(), table.durations, 1, MOST_TRIALS, seed)


def rows_of(table: EmbeddingTable, rows: NDArray[np.int64]) -> EmbeddingTable:
    """Return some rows of a table."""
    columns = table.embeddings[rows], table.durations[rows], table.speech[rows]
    return EmbeddingTable([table.ids[i] for i in rows], *columns, ["ok"] * len(rows), table.fingerprint)


def draw(
    table: EmbeddingTable, owner: NDArray[np.str_], scoring: Scoring, count: int, far: float | None, seed: int
) -> Found:
    """Return the rates of a threshold that `count` speakers, drawn at random, set."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.unique(owner))
    few = np.concatenate(
        [rng.choice(np.flatnonzero(owner == name), RECORDINGS, replace=False) for name in chosen[:count]]
    )
    others = np.flatnonzero(np.isin(owner, chosen[count:]))
    people = EmbeddedPeople(rows_of(table, few), owner[few].tolist(), ())
    request = PeopleRequest(people=PeopleFolder(Path("drawn")), far=far)
    generated = trials_of(people.table, owner[few], seed)
    calibration = calibrated(request, scoring, people, generated, Path("drawn")).calibration
    judging = trials_of(rows_of(table, others), owner[others], seed).trials
    scores, _ = scoring.score(judging, table)
    point = calibration.point
    assert point is not None and judging.labels is not None
    accepted = calibration.apply([scores]).scores >= point.threshold
    found = float(accepted[~judging.labels].mean())
    limits = point.p_fa_ci95
    contained = None if limits is None else limits[0] <= found <= limits[1]
    return Found(point.p_fa, found, float(1 - accepted[judging.labels].mean()), contained)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embeddings", type=Path, required=True, metavar="E.npz", help="of the recordings")
    parser.add_argument("--speakers", type=Path, required=True, metavar="utt2spk", help="their speakers")
    parser.add_argument("--model", type=Path, default=DEFAULT, metavar="MODEL", help="default: the built-in")
    parser.add_argument("--draws", type=int, default=20, metavar="N", help="per row (default: 20)")
    arguments = parser.parse_args()
    table = EmbeddingTable.load(arguments.embeddings)
    speaker_of = read_speakers(arguments.speakers, list(table.ids))
    owner = np.array([speaker_of[i] for i in table.ids])
    scoring = Scoring.load(arguments.model, table.fingerprint)
    print(f"{len(np.unique(owner))} speakers, model {table.fingerprint}, {arguments.draws} draws; percent")
    print(
        "| people | rate asked for | stated | found on others, 10 to 90 % of draws | misses | in the interval |"
    )
    print("|---|---|---|---|---|---|")
    for count, far in CASES:
        drawn = [draw(table, owner, scoring, count, far, seed) for seed in range(arguments.draws)]
        stated, found, misses = (
            100 * np.array([getattr(one, name) for one in drawn])
            for name in ("stated", "false_alarms", "misses")
        )
        low, high = np.quantile(found, (0.1, 0.9))
        intervals = [one.contained for one in drawn if one.contained is not None]
        asked = "none, prior 5 %" if far is None else f"{100 * far:g}"
        held = f"{sum(intervals)} of {len(intervals)}" if intervals else "none given"
        print(
            f"| {count} | {asked} | {stated.mean():.1f} | {found.mean():.1f}, {low:.1f} to {high:.1f} "
            f"| {misses.mean():.1f} | {held} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
