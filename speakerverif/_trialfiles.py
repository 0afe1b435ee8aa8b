"""The text formats of trial lists and score files, parsed to NumPy columns by `lists.py`."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import count, repeat
from pathlib import Path

import numpy as np

from speakerverif._files import Rows, WrongRows, read_rows
from speakerverif.errors import InputError

BINARY = frozenset((b"0", b"1"))
NAMED = frozenset((b"target", b"nontarget"))
FORMATS = "'label enroll test' with labels 0 and 1, or 'enroll test target|nontarget', or 'enroll test'"


def parse_trials(
    path: str | Path, wrong: WrongRows
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray | None, str]:
    """Return distinct ids, enroll and test int32 (N,), labels bool (N,) or None, and the file's sha256.

    Columns and format are what most rows of the first block have; rows that differ go to `wrong`.
    """
    digest, codes = hashlib.sha256(), defaultdict[bytes, int](count().__next__)
    width, labels_first = 0, None
    pairs, labels = [np.empty(0, np.int32)], [np.empty(0, bool)]
    for rows in read_rows(path, digest):
        width = width or rows.most_common_width()
        if width not in (2, 3):
            raise InputError(f"{path}: most rows have {width} columns; expected {FORMATS}")
        rows.keep_width(width, wrong)
        if width == 3 and rows.tokens:
            if labels_first is None:
                labels_first = _labels_first(rows, str(path))
            labels.append(_take_labels(rows, labels_first, wrong))
        pairs.append(np.fromiter(map(codes.__getitem__, rows.tokens), np.int32, len(rows.tokens)))
    enroll, test = np.ascontiguousarray(np.concatenate(pairs).reshape(-1, 2).T)
    answers = np.concatenate(labels) if width == 3 else None
    return decode(list(codes), str(path)), enroll, test, answers, digest.hexdigest()


def parse_scores(path: str | Path, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return pair keys int64 (M,) as `TrialList.pair_keys` makes them (-1: unknown), and scores float64 (M,).

    Raises:
        InputError: unreadable or empty file, wrong rows (reported together), no telling which is the score.
    """
    codes = {text.encode(): i for i, text in enumerate(ids)}
    wrong, at = WrongRows(), None
    keys, values = [np.empty(0, np.int64)], [np.empty(0)]
    for rows in read_rows(path):
        rows.keep_width(3, wrong)
        if not rows.tokens:
            continue
        if at is None:
            at = _score_column(rows, codes, str(path))
        scores, bad = floats(rows.tokens[at::3])
        if bad.any():
            rows.drop(bad, ["the score is not a finite number"] * int(bad.sum()), 3, wrong)
            scores = scores[~bad]
        del rows.tokens[at::3]
        pairs = np.fromiter(map(codes.get, rows.tokens, repeat(-1)), np.int64, len(rows.tokens)).reshape(
            -1, 2
        )
        keys.append(np.where((pairs < 0).any(1), -1, pairs[:, 0] * len(codes) + pairs[:, 1]))
        values.append(scores)
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    return np.concatenate(keys), np.concatenate(values)


def floats(tokens: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 (N,), and bool (N,): the tokens that are no finite decimal number (nan there)."""
    try:
        if b"_" in b"".join(tokens):  # Python reads 1_000 as a number
            raise ValueError
        values = np.fromiter(map(float, tokens), np.float64, len(tokens))
    except ValueError:
        values = np.fromiter(map(_float_or_nan, tokens), np.float64, len(tokens))
    return values, ~np.isfinite(values)


def decode(ids: list[bytes], path: str) -> tuple[str, ...]:
    """Return the ids as text, or raise `InputError` where one is not UTF-8."""
    try:
        return tuple(b"\n".join(ids).decode().split("\n")) if ids else ()
    except UnicodeDecodeError:
        bad = next(text for text in ids if b"\xef\xbf\xbd" in text.decode("utf-8", "replace").encode())
        raise InputError(f"{path}: {bad!r} is not UTF-8 text") from None


def _float_or_nan(token: bytes) -> float:
    try:
        return float("nan" if b"_" in token else token)
    except ValueError:
        return float("nan")


def _labels_first(rows: Rows, path: str) -> bool:
    """Return whether most rows are `label enroll test`; the alternative is `enroll test target|nontarget`."""
    first, last = rows.tokens[0::3], rows.tokens[2::3]
    voxceleb, kaldi = sum(t in BINARY for t in first), sum(t in NAMED for t in last)
    if voxceleb != kaldi:
        return voxceleb > kaldi
    what = "could be either of" if voxceleb else "is neither of"
    text = b" ".join(rows.tokens[:3]).decode("utf-8", "backslashreplace")
    raise InputError(f"{path}:{rows.line_of(0)}: {text!r} {what}: {FORMATS}")


def _take_labels(rows: Rows, labels_first: bool, wrong: WrongRows) -> np.ndarray:
    """Take the label column out of `rows.tokens`; return it, bool. Rows with other labels go to `wrong`."""
    at, known, target = (0, BINARY, b"1") if labels_first else (2, NAMED, b"target")
    column = rows.tokens[at::3]
    if not known.issuperset(column):
        bad = np.array([token not in known for token in column])
        expected = (
            "0 or 1, then enroll and test" if labels_first else "enroll and test, then target or nontarget"
        )
        rows.drop(bad, [f"expected {expected}"] * int(bad.sum()), 3, wrong)
        column = rows.tokens[at::3]
    del rows.tokens[at::3]
    return np.fromiter(map(target.__eq__, column), bool, len(column))


def _score_column(rows: Rows, codes: dict[bytes, int], path: str) -> int:
    """Return the column, 0 or 2, that holds the scores."""
    first, last = rows.tokens[0:3000:3], rows.tokens[2:3000:3]
    numbers = [int((~floats(column)[1]).sum()) for column in (first, last)]
    known = [sum(token in codes for token in column) for column in (first, last)]
    # Ids may be numbers themselves: then the column that holds no ids of the list is the score.
    evidence = numbers[0] - numbers[1] or known[1] - known[0]
    if not evidence:
        text = b" ".join(rows.tokens[:3]).decode("utf-8", "backslashreplace")
        raise InputError(
            f"{path}:{rows.line_of(0)}: {text!r}: expected 'enroll test score' or 'score enroll test'"
        )
    return 0 if evidence > 0 else 2
