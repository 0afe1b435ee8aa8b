"""Measure identification in stores of several sizes: strangers named (FPIR), enrolled speakers missed (FNIR).

    speakerverif embed --manifest corpora/speechocean762/dev --audio-root corpora/speechocean762 --out dev.npz
    python tools/open_set.py --embeddings dev.npz --speakers corpora/speechocean762/dev/utt2spk

Speakers are enrolled with a few recordings each; all their other recordings and all of everybody else's are searched.
Three rules are compared: the best candidate's log likelihood ratio; how far it is above the runner-up's, with it; and
the log odds of its posterior probability among all enrolled, which knows the runner-up and the gallery's size.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.speakers import read_speakers
from speakerverif.errors import InputError
from speakerverif.evaluation.open_set import Outcomes
from speakerverif.inference.engines import load_for_inference
from speakerverif.inference.identify import log_odds
from speakerverif.inference.samples import Sample
from speakerverif.inference.scale import Scale

GALLERIES = (5, 10, 20, 40)
FPIRS = (0.01, 0.05)
RULES = ("best LLR", "best LLR + margin", "posterior")

Array = NDArray[np.float64]


def values_of(llrs: Array, rule: str) -> Array:
    """Return the value (searches,) by which a rule decides, of LLRs (speakers, searches)."""
    ranked: Array = np.sort(llrs, axis=0)[::-1]
    if rule == "best LLR":
        best: Array = ranked[0]
        return best
    if rule == "best LLR + margin":
        above: Array = 2 * ranked[0] - ranked[1]
        return above
    return np.array([log_odds(column, len(llrs)) for column in ranked.T])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embeddings", type=Path, required=True, metavar="E.npz", help="of the recordings")
    parser.add_argument("--speakers", type=Path, required=True, metavar="utt2spk", help="their speakers")
    parser.add_argument(
        "--model", type=Path, metavar="MODEL", help="that embedded them (default: the built-in)"
    )
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="default: the model's own")
    parser.add_argument("--enrolled", type=int, default=3, metavar="N", help="recordings each (default: 3)")
    parser.add_argument("--draws", type=int, default=20, metavar="N", help="galleries per size (default: 20)")
    arguments = parser.parse_args()
    table = EmbeddingTable.load(arguments.embeddings)
    scale = Scale.of(load_for_inference(arguments.model), arguments.calibration)
    if scale.calibration is None or scale.calibration.point is None:
        raise InputError("expected a calibrated model with an operating point (calibrate --far)")
    point = scale.calibration.point
    speaker_of = read_speakers(arguments.speakers, list(table.ids))
    owner = np.array([speaker_of[i] for i in table.ids])
    speakers, codes = np.unique(owner, return_inverse=True)
    rng = np.random.default_rng(0)
    outcomes: dict[tuple[int, str], list[Outcomes]] = {}
    for _ in range(arguments.draws):
        enrolled = [
            rng.choice(np.flatnonzero(owner == s), arguments.enrolled, replace=False) for s in speakers
        ]
        searched = np.setdiff1d(np.arange(len(owner)), np.concatenate(enrolled))
        people = [
            [
                Sample(table.embeddings[i], "", "", float(table.durations[i]), float(table.speech[i]))
                for i in rows
            ]
            for rows in enrolled
        ]
        tests = EmbeddingTable(
            [table.ids[i] for i in searched],
            table.embeddings[searched],
            table.durations[searched],
            table.speech[searched],
            ["ok"] * len(searched),
            table.fingerprint,
        )
        llrs = scale.compare(people, tests).llrs
        assert llrs is not None
        for size in GALLERIES:
            gallery = rng.choice(len(speakers), size, replace=False)
            for rule in RULES:
                values = values_of(llrs[gallery], rule)
                drawn = Outcomes.of(llrs[gallery], gallery, codes[searched], values)
                outcomes.setdefault((size, rule), []).append(drawn)
    print(
        f"{len(speakers)} speakers, {arguments.enrolled} recordings enrolled, {arguments.draws} galleries per size,"
    )
    print(f"model {table.fingerprint}; its threshold is LLR {point.threshold:.2f}, FPIR and FNIR in percent")
    columns = ["model's threshold", "with log N added"]
    columns += [f"{rule}, FPIR {100 * fpir:g} %" for rule in RULES for fpir in FPIRS]
    print(f"| enrolled | {' | '.join(columns)} |")
    print(f"|---{'|---' * len(columns)}|")
    for size in GALLERIES:
        best, *_ = of_rules = [Outcomes.joined(outcomes[size, rule]) for rule in RULES]
        points = [best.at(point.threshold), best.at(point.threshold + float(np.log(size)))]
        points += [of_rule.at_fpir(fpir) for of_rule in of_rules for fpir in FPIRS]
        shown = [f"{100 * at.fpir:.1f} / {100 * at.fnir:.1f}" for at in points]
        print(f"| {size} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
