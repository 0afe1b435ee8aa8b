"""The text format of manifests, parsed to NumPy columns by `lists.py`: tab-separated, with a header."""

import math
from pathlib import Path

import numpy as np

from speakerverif._util.files import open_input
from speakerverif.data import _rows
from speakerverif.data._rows import LONGEST_FIELD, PADDING, WrongRows, distinct, gather
from speakerverif.data._trial_files import floats
from speakerverif.errors import InputError

FIELDS = ("id", "path", "speaker", "start_s", "duration_s", "channel")
TEXTS, TIMES = FIELDS[:3], FIELDS[3:5]
MAX_CHANNEL = 1024  # libsndfile opens no file of more channels
_TAB, _LINE_FEED, _RETURN = 9, 10, 13


def parse_manifest(path: str | Path) -> dict[str, np.ndarray]:
    """Return the columns by name: texts dtype S (N,), times float64 (N,), a missing duration as nan, channels int16.

    Raises:
        InputError: unreadable or empty file, unknown header, wrong rows (reported together), an id twice.
    """
    wrong = WrongRows()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*FIELDS, "line")}
    with open_input(path) as file:
        header = file.readline().removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
        names = header.decode("utf-8", "replace").split("\t")
        if not set(TEXTS) <= set(names) <= set(FIELDS) or len(set(names)) < len(names):
            raise InputError(f"{path}:1: expected the header {'<tab>'.join(FIELDS)}, found {header[:80]!r}")
        line = 2
        while block := file.read(_rows.BLOCK_BYTES):
            block += file.readline()
            block = block if block.endswith(b"\n") else block + b"\n"
            for name, column in _columns(block, line, names, wrong, str(path)).items():
                parts[name].append(column)
            line += block.count(b"\n")
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    if not sum(map(len, parts["id"])):
        raise InputError(f"{path}: no utterances in it")
    columns = {name: np.concatenate(parts.pop(name)) for name in tuple(parts)}
    _refuse_repeated(columns["id"], columns.pop("line"), str(path))
    return columns


def _columns(
    block: bytes, first_line: int, names: list[str], wrong: WrongRows, path: str
) -> dict[str, np.ndarray]:
    """Return the columns of the good rows of one block of whole lines, and the number of each row's line."""
    padded = block + PADDING
    text = np.frombuffer(padded, np.uint8, len(block))
    newline, tab = np.flatnonzero(text == _LINE_FEED), np.flatnonzero(text == _TAB)
    begin = np.append(0, newline[:-1] + 1)
    tabs = np.diff(np.searchsorted(tab, newline), prepend=0)
    good = tabs == len(names) - 1
    for i in np.flatnonzero(~good).tolist():
        if row := block[begin[i] : newline[i]].strip():
            wrong.add(first_line + i, row, f"{tabs[i] + 1} columns, expected {len(names)}")
    inner = tab[np.repeat(good, tabs)].reshape(-1, len(names) - 1)
    begin, last = begin[good], newline[good]
    last = last - ((last > begin) & (text[last - 1] == _RETURN))
    start = np.column_stack([begin, inner + 1])
    length = np.column_stack([inner, last]) - start
    if length.max(initial=0) > LONGEST_FIELD:
        raise InputError(f"{path}: a field of {length.max():,} bytes; at most {LONGEST_FIELD} were expected")
    line = first_line + np.flatnonzero(good)

    def refuse(bad: np.ndarray, why: str) -> None:
        for i in np.flatnonzero(bad).tolist():
            wrong.add(int(line[i]), block[begin[i] : last[i]], why)

    columns = {"line": line}
    for name in TEXTS:
        j = names.index(name)
        columns[name] = gather(padded, start[:, j], length[:, j])
    refuse((columns["id"] == b"") | (columns["path"] == b""), "empty id or path")

    def numbers(name: str) -> np.ndarray:
        """Return a column of numbers: nan where a field is empty, -1 where it holds no number."""
        values = np.full(len(line), math.nan)
        if name in names:
            j = names.index(name)
            given = length[:, j] > 0
            values[given] = np.nan_to_num(floats(gather(padded, start[given, j], length[given, j])), nan=-1)
        return values

    for name in TIMES:
        columns[name] = numbers(name)
        refuse((columns[name] < 0) | (columns[name] == np.inf), f"{name} is not a number of seconds")
    columns["start_s"] = np.nan_to_num(columns["start_s"], nan=0.0)
    channel = numbers("channel")
    refuse(
        ~np.isnan(channel) & ~((channel >= 1) & (channel <= MAX_CHANNEL) & (channel % 1 == 0)),
        f"channel is not a whole number from 1 to {MAX_CHANNEL}",
    )
    columns["channel"] = np.clip(np.nan_to_num(channel, nan=0.0), 0, MAX_CHANNEL).astype(np.int16)
    return columns


def _refuse_repeated(ids: np.ndarray, line: np.ndarray, path: str) -> None:
    """Raise `InputError` where an id stands twice, naming both lines."""
    names, which = distinct(ids)
    if len(names) == len(ids):
        return
    order = np.argsort(which, kind="stable")
    second = order[1:][which[order[1:]] == which[order[:-1]]].min()
    first = np.flatnonzero(which == which[second])[0]
    raise InputError(
        f"{path}: id {ids[second].decode('utf-8', 'replace')!r} stands twice: rows {line[first]} and {line[second]}"
    )
