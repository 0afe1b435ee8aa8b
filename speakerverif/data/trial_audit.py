"""Audit of a trial list: the published list that it matches, and its anomalies."""

import re
from dataclasses import dataclass

import numpy as np

from speakerverif._util.messages import named
from speakerverif.data.speakers import EnrollMap
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

KNOWN_FILES = {
    "303b2b657042a27bf465d4c8aa84e12765373cdc01046665241ccd5783bd5976": "VoxCeleb1-O (original)",
    "71d4bd753b9f0522ada479d832f2e6af2160a91bdda1f1465c5134e2645a2304": "VoxSRC-2021 validation",
}


KNOWN_COUNTS = {  # numbers of trials in lists over VoxCeleb1
    37720: "VoxCeleb1-O (original)",
    37611: "VoxCeleb1-O (cleaned)",
    581480: "VoxCeleb1-E (original)",
    579818: "VoxCeleb1-E (cleaned)",
    552536: "VoxCeleb1-H (original)",
    550894: "VoxCeleb1-H (cleaned)",
    60000: "VoxSRC-2021 validation",
}


_VOXCELEB1_FILE = re.compile("id1[^/]*/[^/]*/[^/]*")


@dataclass(frozen=True)
class Audit:
    """The findings of an audit; the list itself is not changed.

    Attributes:
        known_as: name of the matching published list, or None.
        self_pairs: number of trials of a file against itself, or against a model enrolled with it.
        duplicates: number of rows that repeat an earlier (enroll, test) pair.
        mirrored: number of pairs that are also in the list with swapped sides.
        examples: a few of these rows, as text.
    """

    known_as: str | None
    self_pairs: int
    duplicates: int
    mirrored: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = f"{self.self_pairs} self-pairs, {self.duplicates} duplicates, {self.mirrored} mirrored"
        return f"{counts} ({'; '.join(self.examples)})" if self.examples else counts


def audit(trials: TrialList, enroll_map: EnrollMap | None = None) -> Audit:
    """Return the audit of a trial list.

    Raises:
        InputError: a pair is both a target and a non-target.
    """
    size = len(trials.ids)
    ordered = trials.pair_keys()
    either = np.minimum(ordered, trials.test.astype(np.int64) * size + trials.enroll)
    order = np.argsort(either)
    equal = np.diff(either[order]) == 0
    # Rows whose pair occurs more than once, in the order of the list; usually a small part of it.
    several = np.sort(order[np.append(equal, False) | np.append(False, equal)])
    first, first_either = (np.unique(keys[several], return_index=True)[1] for keys in (ordered, either))
    duplicates = np.delete(several, first)
    mirrored = np.setdiff1d(np.delete(several, first_either), duplicates)
    _refuse_both_labels(trials, several, either[several])
    self_pairs = trials.enroll == trials.test
    if enroll_map:
        code = {name: i for i, name in enumerate(trials.ids)}
        pairs = [(model, name) for model, files in enroll_map.items() for name in files]
        self_pairs |= np.isin(
            ordered, [code[m] * size + code[u] for m, u in pairs if m in code and u in code]
        )
    rows_by_kind = {"self-pair": np.flatnonzero(self_pairs), "duplicate": duplicates, "mirrored": mirrored}
    examples = tuple(
        f"{what}: {trials.pair(int(rows[0]))}" for what, rows in rows_by_kind.items() if len(rows)
    )
    counts = [len(rows) for rows in rows_by_kind.values()]
    return Audit(known_list(trials), counts[0], counts[1], counts[2], examples)


def _refuse_both_labels(trials: TrialList, rows: np.ndarray, keys: np.ndarray) -> None:
    """Raise `InputError` where rows with the same key (a pair in either order) have different labels."""
    if trials.labels is None:
        return
    pairs, where = np.unique(keys, return_inverse=True)
    targets, count = np.bincount(where, trials.labels[rows]), np.bincount(where)
    clash = pairs[(targets > 0) & (targets < count)]
    if len(clash):
        texts = [
            f"{trials.ids[key // len(trials.ids)]} {trials.ids[key % len(trials.ids)]}"
            for key in clash.tolist()
        ]
        raise InputError(f"{trials.name}: {len(clash)} pairs are both target and non-target: {named(texts)}")


def known_list(trials: TrialList) -> str | None:
    """Return the name of the published list with the same hash, or else with the same number of VoxCeleb1 trials."""
    if trials.sha256 in KNOWN_FILES:
        return KNOWN_FILES[trials.sha256]
    name = KNOWN_COUNTS.get(len(trials))
    if name and all(map(_VOXCELEB1_FILE.fullmatch, trials.ids)):
        return f"{name}, by its counts"
    return None
