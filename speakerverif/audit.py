"""What a trial list is: which published list, what is odd in it, and whose voices it compares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

import numpy as np

from speakerverif._files import WrongRows, open_input, read_rows
from speakerverif.errors import InputError
from speakerverif.lists import TrialList, named

EnrollMap = Mapping[str, Sequence[str]]

KNOWN_FILES = {
    "303b2b657042a27bf465d4c8aa84e12765373cdc01046665241ccd5783bd5976": "VoxCeleb1-O (original)",
    "71d4bd753b9f0522ada479d832f2e6af2160a91bdda1f1465c5134e2645a2304": "VoxSRC-2021 validation",
}
KNOWN_COUNTS = {  # trials of lists over VoxCeleb1
    37720: "VoxCeleb1-O (original)",
    37611: "VoxCeleb1-O (cleaned)",
    581480: "VoxCeleb1-E (original)",
    579818: "VoxCeleb1-E (cleaned)",
    552536: "VoxCeleb1-H (original)",
    550894: "VoxCeleb1-H (cleaned)",
    60000: "VoxSRC-2021 validation",
}


@dataclass(frozen=True)
class Audit:
    """What was found in a trial list; none of it is changed or left out.

    Attributes:
        known_as: the published list that this is, or None.
        self_pairs: trials of a file against itself, or against a model enrolled with it.
        duplicates: rows that repeat an earlier (enroll, test) pair.
        mirrored: pairs that also stand there with their sides swapped.
        examples: a few of the rows counted, as text.
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
    """Return what is odd in a trial list.

    Raises:
        InputError: a pair stands there both as target and as non-target.
    """
    size = len(trials.ids)
    ordered = trials.pair_keys()
    swapped = trials.test.astype(np.int64) * size + trials.enroll
    either = np.minimum(ordered, swapped)
    first = np.unique(ordered, return_index=True)[1]
    repeated = np.ones(len(trials), bool)
    repeated[first] = False
    pairs, first = np.unique(either, return_index=True)
    again = np.ones(len(trials), bool)
    again[first] = False
    mirrored = again & ~repeated
    self_pairs = trials.enroll == trials.test
    if enroll_map:
        code = {name: i for i, name in enumerate(trials.ids)}
        own = [
            code[m] * size + code[u]
            for m, files in enroll_map.items()
            for u in files
            if m in code and u in code
        ]
        self_pairs |= np.isin(ordered, np.array(own, np.int64))
    if trials.labels is not None and again.any():
        targets = np.bincount(np.searchsorted(pairs, either[trials.labels]), minlength=len(pairs))
        rows = np.bincount(np.searchsorted(pairs, either), minlength=len(pairs))
        clash = pairs[(targets > 0) & (targets < rows)]
        if len(clash):
            texts = [f"{trials.ids[key // size]} {trials.ids[key % size]}" for key in clash.tolist()]
            raise InputError(
                f"{trials.name}: {len(clash)} pairs are both target and non-target: {named(texts)}"
            )
    examples = [
        f"{what}: {trials.pair(int(np.argmax(mask)))}"
        for what, mask in (("self-pair", self_pairs), ("duplicate", repeated), ("mirrored", mirrored))
        if mask.any()
    ]
    counts = [int(np.count_nonzero(mask)) for mask in (self_pairs, repeated, mirrored)]
    return Audit(known_list(trials), counts[0], counts[1], counts[2], tuple(examples))


def known_list(trials: TrialList) -> str | None:
    """Return the name of the published list with these bytes, or else with as many VoxCeleb1 trials."""
    if trials.sha256 in KNOWN_FILES:
        return KNOWN_FILES[trials.sha256]
    name = KNOWN_COUNTS.get(len(trials))
    if name and all(text.startswith("id1") and text.count("/") == 2 for text in trials.ids):
        return f"{name}, by its counts"
    return None


@dataclass(frozen=True)
class Units:
    """Whose recordings the trials compare: what the bootstrap draws.

    Attributes:
        kind: `speaker`, or `file` where speakers can't be told.
        names: the units, sorted.
        enroll: int64 (N,), the unit of each trial's enroll side, into `names`.
        test: int64 (N,), that of the test side.
    """

    kind: Literal["speaker", "file"]
    names: tuple[str, ...]
    enroll: np.ndarray
    test: np.ndarray


def units_of(
    trials: TrialList, speakers: Mapping[str, str] | None = None, enroll_map: EnrollMap | None = None
) -> Units:
    """Return the speaker of both sides of every trial, or the file where speakers can't be told.

    Args:
        trials: the list.
        speakers: id of a file -> speaker, as `read_speakers` gives it. Without it the speaker is the first
            path component that differs between files; if that yields one speaker or one a file, files are
            the units.
        enroll_map: enrolled model -> ids of its files.

    Raises:
        InputError: files whose speaker is not in `speakers`, models of several speakers.
    """
    enroll_codes, test_codes = np.unique(trials.enroll), np.unique(trials.test)
    tests = [trials.ids[i] for i in test_codes.tolist()]
    members = {
        name: (enroll_map or {}).get(name, (name,)) for name in (trials.ids[i] for i in enroll_codes.tolist())
    }
    files = list(dict.fromkeys([*tests, *(name for group in members.values() for name in group)]))
    owner = speakers_by_path(files) if speakers is None else speakers
    if speakers is None and len(set(owner.values())) in (1, len(files)):
        kind: Literal["speaker", "file"] = "file"
        enrolled = {name: name for name in members}
        owner = {name: name for name in files}
    else:
        kind = "speaker"
        unknown = [name for name in files if name not in owner]
        if unknown:
            raise InputError(f"{trials.name}: no speaker is known for {len(unknown)} files: {named(unknown)}")
        enrolled = {name: owner[group[0]] for name, group in members.items()}
        several = [name for name, group in members.items() if any(owner[u] != enrolled[name] for u in group)]
        if several:
            raise InputError(
                f"{trials.name}: {len(several)} models are of several speakers: {named(several)}"
            )
    names = sorted({*enrolled.values(), *(owner[name] for name in tests)})
    number = {name: i for i, name in enumerate(names)}
    enroll, test = np.zeros((2, len(trials.ids)), np.int64)
    enroll[enroll_codes] = [number[name] for name in enrolled.values()]
    test[test_codes] = [number[owner[name]] for name in tests]
    return Units(kind, tuple(names), enroll[trials.enroll], test[trials.test])


def speakers_by_path(files: Sequence[str]) -> dict[str, str]:
    """Return file -> the first path component that differs between the files."""
    # All names that lie between two in alphabetical order begin with what those two share.
    first, last = min(files).split("/"), max(files).split("/")
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last, strict=False)))
    return {name: name.split("/", shared + 1)[shared] for name in files}


def read_speakers(path: str | Path, files: Sequence[str]) -> dict[str, str]:
    """Return file -> speaker from Kaldi's `utt2spk`.

    Where its keys are not the files' ids, they are joined through the `wav.scp` beside it (`utt path`).

    Raises:
        InputError: unreadable files, wrong rows, a key twice with different values.
    """
    speakers = read_pairs(path)
    scp = Path(path).parent / "wav.scp"
    if all(name in speakers for name in files) or not scp.is_file():
        return speakers
    return speakers | {audio: speakers[key] for key, audio in read_pairs(scp).items() if key in speakers}


def read_pairs(path: str | Path) -> dict[str, str]:
    """Return the rows of a two-column text file, key -> value.

    Raises:
        InputError: unreadable file, wrong rows, a key with two values.
    """
    wrong = WrongRows()
    pairs: dict[str, str] = {}
    for rows in read_rows(path):
        rows.keep_width(2, wrong)
        tokens = [token.decode("utf-8", "replace") for token in rows.tokens]
        for key, value in zip(tokens[0::2], tokens[1::2], strict=True):
            if pairs.setdefault(key, value) != value:
                raise InputError(f"{path}: {key!r} stands for both {pairs[key]!r} and {value!r}")
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    return pairs


def read_enroll_map(path: str | Path) -> dict[str, list[str]]:
    """Return enrolled model -> ids of its files, from lines `model file file ...` (Kaldi's `spk2utt`).

    Raises:
        InputError: unreadable file, a model without files, a model twice.
    """
    models: dict[str, list[str]] = {}
    with open_input(path) as file:
        lines = file.read().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").split("\n")
    for number, line in enumerate(lines, 1):
        model, *files = line.split() or [""]
        if model and not files:
            raise InputError(f"{path}:{number}: {model!r} has no files; expected 'model file file ...'")
        if model in models:
            raise InputError(f"{path}:{number}: model {model!r} stands twice")
        if model:
            models[model] = files
    if not models:
        raise InputError(f"{path}: the file is empty")
    return models
