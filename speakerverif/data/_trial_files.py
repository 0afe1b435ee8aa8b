"""The text formats of trial lists and score files, parsed to NumPy columns by `lists.py`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speakerverif.data._rows import Rows, WrongRows, distinct, merge, read_rows
from speakerverif.errors import InputError

FORMATS = "'label enroll test' with labels 0 and 1, or 'enroll test target|nontarget', or 'enroll test'"


def parse_trials(
    path: str | Path, wrong: WrongRows
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray | None, str]:
    """Return distinct ids, enroll and test int32 (N,), labels bool (N,) or None, and the file's sha256.

    Columns and format are what most rows of the first block have; rows that differ go to `wrong`.
    """
    digest, width, labels_first = hashlib.sha256(), 0, None
    ids, labels = [], [np.empty(0, bool)]
    for rows in read_rows(path, digest):
        width = width or rows.most_common_width()
        if width not in (2, 3):
            raise InputError(f"{path}: most rows have {width} columns; expected {FORMATS}")
        rows.keep_width(width, wrong)
        which = slice(0, 2)
        if width == 3 and len(rows):
            if labels_first is None:
                labels_first = tell_labels_first(rows, str(path))
            labels.append(read_labels(rows, labels_first, wrong))
            which = slice(1, 3) if labels_first else which
        ids.append(distinct(rows.columns(which).ravel()))
    names, codes = merge(ids)
    enroll, test = np.concatenate(codes).astype(np.int32).reshape(-1, 2).T.copy()
    answers = np.concatenate(labels) if width == 3 else None
    return _decode(names.tolist(), str(path)), enroll, test, answers, digest.hexdigest()


def parse_scores(path: str | Path, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return pair keys int64 (M,) as `TrialList.pair_keys` makes them (-1: unknown), and scores float64 (M,).

    Raises:
        InputError: unreadable or empty file, wrong rows (reported together), no telling which is the score.
    """
    known = np.array([text.encode() for text in ids], np.bytes_)
    known = known.astype(f"S{-(-known.itemsize // 8) * 8}")
    wrong, score_first = WrongRows(), None
    parts, values = [(known, np.arange(len(known)))], [np.empty(0)]
    for rows in read_rows(path):
        rows.keep_width(3, wrong)
        if not len(rows):
            continue
        if score_first is None:
            score_first = tell_score_first(rows, set(known.tolist()), str(path))
        scores = floats(rows.columns(slice(0, 1) if score_first else slice(2, 3)).ravel())
        bad = ~np.isfinite(scores)
        rows.drop(bad, "the score is not a finite number", wrong)
        parts.append(distinct(rows.columns(slice(1, 3) if score_first else slice(0, 2)).ravel()))
        values.append(scores[~bad])
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    # The list's ids come first, so that whatever is numbered above them is not in the list.
    pairs = np.concatenate(merge(parts)[1][1:]).reshape(-1, 2)
    return np.where((pairs < len(ids)).all(1), pairs[:, 0] * len(ids) + pairs[:, 1], -1), np.concatenate(
        values
    )


def floats(texts: np.ndarray) -> np.ndarray:
    """Return texts, dtype S (N,), as float64 (N,): nan where one is no finite decimal number."""
    tokens = texts.tolist()
    if b"_" in b"".join(tokens):  # Python reads 1_000 as a number
        return np.array([_float(token) for token in tokens])
    try:
        return np.fromiter(map(float, tokens), np.float64, len(tokens))
    except ValueError:
        return np.array([_float(token) for token in tokens])


def _float(token: bytes) -> float:
    try:
        return float("nan" if b"_" in token else token)
    except ValueError:
        return float("nan")


def _decode(ids: list[bytes], path: str) -> tuple[str, ...]:
    """Return the ids as text, or raise `InputError` where one is not UTF-8."""
    try:
        return tuple(b"\n".join(ids).decode().split("\n")) if ids else ()
    except UnicodeDecodeError as error:
        bad = error.object[: error.end].rpartition(b"\n")[2]
        raise InputError(f"{path}: the id that begins {bad!r} is not UTF-8 text") from None


def tell_labels_first(rows: Rows, path: str) -> bool:
    """Return whether most rows are `label enroll test`; the alternative is `enroll test target|nontarget`."""
    voxceleb, kaldi = (_label_column(rows, first)[0] for first in (True, False))
    if np.count_nonzero(voxceleb) != np.count_nonzero(kaldi):
        return bool(np.count_nonzero(voxceleb) > np.count_nonzero(kaldi))
    what = "could be either of" if voxceleb.any() else "is neither of"
    raise InputError(f"{path}:{rows.text_of(0)} {what}: {FORMATS}")


def _label_column(rows: Rows, labels_first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks, bool (rows,): the row has one of its format's two labels; it is a target."""
    labels = rows.columns(slice(0, 1) if labels_first else slice(2, 3))[:, 0]
    target = labels == (b"1" if labels_first else b"target")
    return target | (labels == (b"0" if labels_first else b"nontarget")), target


def read_labels(rows: Rows, labels_first: bool, wrong: WrongRows) -> np.ndarray:
    """Return the labels, bool (rows,), of the rows that have one; drop the others, noting them in `wrong`."""
    known, target = _label_column(rows, labels_first)
    expected = "0 or 1, then enroll and test" if labels_first else "enroll and test, then target or nontarget"
    rows.drop(~known, f"expected {expected}", wrong)
    return target[known]


def tell_score_first(rows: Rows, known: set[bytes], path: str) -> bool:
    """Return whether the rows are `score enroll test`; the alternative is `enroll test score`."""
    first, last = (rows.columns(which)[:1000, 0] for which in (slice(0, 1), slice(2, 3)))
    numbers = [np.count_nonzero(np.isfinite(floats(column))) for column in (first, last)]
    among = [sum(token in known for token in column.tolist()) for column in (first, last)]
    # Ids may be numbers themselves: then the column that holds no ids of the list is the score.
    evidence = numbers[0] - numbers[1] or among[1] - among[0]
    if not evidence:
        raise InputError(f"{path}:{rows.text_of(0)}: expected 'enroll test score' or 'score enroll test'")
    return bool(evidence > 0)
