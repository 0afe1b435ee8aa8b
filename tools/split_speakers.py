#!/usr/bin/env python3
"""Split the speakers of trial lists into parts, and write the trials of each list that stay within a part.

    python tools/split_speakers.py trials.txt trials_hard.txt --alike spk2gender spk2age --out parts

Figures of a model that was chosen on some speakers, calibrated on others and tested on a third part hold for strangers.
All lists are split alike: a speaker is in the same part in each list. Speakers are sorted by the columns of `--alike`,
in that order, and at random where those are equal; then each successive group, one speaker per part, is dealt out to
the parts at random. So the parts have the same size (one more or less) and are alike in gender and age, and the same
seed gives the same parts whatever the order of the trials.

Writes OUT/PART/<list's name> and OUT/PART/speakers.txt, and prints the counts of each part.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif._util.files import write_atomically
from speakerverif._util.messages import named
from speakerverif.data.metadata import Column, read_columns
from speakerverif.data.speakers import speakers_of, units_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

PARTS = ("select", "calibrate", "report")


def deal(values: dict[str, tuple[str | float, ...]], parts: Sequence[str], seed: int) -> dict[str, str]:
    """Return speaker -> part.

    Args:
        values: speaker -> the values in which the parts are to be alike, the most important first.
        parts: their names.
        seed: of every random choice.
    """
    rng = np.random.default_rng(seed)
    names = sorted(values)
    order = sorted((names[i] for i in rng.permutation(len(names))), key=values.__getitem__)
    found = {}
    for start in range(0, len(order), len(parts)):
        group = order[start : start + len(parts)]
        # Which parts a last, smaller group leaves out is random, too.
        for speaker, part in zip(group, rng.permutation(len(parts)), strict=False):
            found[speaker] = parts[part]
    return found


def values_of(owner: dict[str, str], columns: Sequence[Column]) -> dict[str, tuple[str | float, ...]]:
    """Return speaker -> the columns' values, of the speakers of some files.

    Raises:
        InputError: a speaker with no value in a column, or several.
    """
    found: dict[str, tuple[str | float, ...]] = dict.fromkeys(owner.values(), ())
    for column in columns:
        of_speaker: dict[str, set[str]] = {speaker: set() for speaker in found}
        for name, value in column.values.items():
            of_speaker[owner[name]].add(value)
        wrong = sorted(speaker for speaker, values in of_speaker.items() if len(values) != 1)
        if wrong:
            raise InputError(
                f"{column.name}: expected one value a speaker; none or several for {named(wrong)}"
            )
        value_of = numbers({speaker: values.pop() for speaker, values in of_speaker.items()})
        found = {speaker: (*before, value_of[speaker]) for speaker, before in found.items()}
    return found


def numbers(texts: dict[str, str]) -> Mapping[str, str | float]:
    """Return the values as numbers where all are numbers, so that 9 comes before 10."""
    try:
        return {speaker: float(text) for speaker, text in texts.items()}
    except ValueError:
        return texts


def split(
    paths: Sequence[Path], alike: Sequence[str], parts: Sequence[str], seed: int, out: Path
) -> dict[str, str]:
    """Write the parts of trial lists, print what is in them, and return speaker -> part."""
    lists = [TrialList.read(path) for path in paths]
    if len({path.name for path in paths}) < len(paths):
        raise InputError(
            "trial lists: expected different file names; they are what the parts' lists are called"
        )
    if len(set(parts)) < len(parts) or len(parts) < 2:
        raise InputError(f"--parts {' '.join(parts)}: expected two different names or more")
    files = list(dict.fromkeys(name for trials in lists for name in trials.ids))
    owner = speakers_of(files, None, named([str(path) for path in paths]))
    if owner is None:
        raise InputError(f"{paths[0]}: its paths don't tell the speakers apart")
    values = values_of(owner, read_columns(alike, files, owner))
    part_of = deal(values, parts, seed)
    for part in parts:
        mine = sorted(speaker for speaker, where in part_of.items() if where == part)
        write_atomically(out / part / "speakers.txt", "".join(f"{speaker}\n" for speaker in mine))
        first = sorted(Counter(values[speaker][0] for speaker in mine).items()) if alike else []
        counted = ", ".join(f"{count} {value}" for value, count in first)
        print(f"{part}: {len(mine)} speakers{f' ({counted})' if counted else ''}")
        for path, trials in zip(paths, lists, strict=True):
            units = units_of(trials, owner)
            inside = np.isin(units.names, mine)
            kept = np.flatnonzero(inside[units.enroll] & inside[units.test])
            labels = None if trials.labels is None else trials.labels[kept]
            TrialList(trials.ids, trials.enroll[kept], trials.test[kept], labels).write(
                out / part / path.name
            )
            targets = "" if labels is None else f", {int(labels.sum()):,} target"
            print(f"  {path.name}: {len(kept):,} trials{targets}")
    return part_of


def main() -> int:
    """Return the exit status: 0 done, 2 wrong input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trials", type=Path, nargs="+", metavar="TRIALS")
    parser.add_argument(
        "--alike",
        nargs="+",
        default=[],
        metavar="[NAME=]FILE",
        help="columns in which the parts are to be alike",
    )
    parser.add_argument("--parts", nargs="+", default=PARTS, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    try:
        split(args.trials, args.alike, args.parts, args.seed, args.out)
    except InputError as error:
        print(f"split_speakers.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
