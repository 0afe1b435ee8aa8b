"""Rows of columns, stored as positions of fields in a block of text: no Python object per row."""

from bisect import insort
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speakerverif.data import _text
from speakerverif.errors import InputError

# Columns are fixed-width arrays, so a single long field takes memory in every row.
LONGEST_FIELD = 1024
# Appended to a text in memory: every field is read at the width of the longest one.
PADDING = bytes(LONGEST_FIELD)
# Separator of fields: any run of blanks, or a single tab, so that fields may contain spaces or be empty.
Separator = Literal["blanks", "tab"]
# 2^64 / golden ratio, rounded to an odd number: its bits are well mixed.
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# Mask n keeps the first n bytes of a little-endian word.
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
_TAB, _LINE_FEED, _SPACE = 9, 10, 32

Mask = NDArray[np.bool_]
Places = NDArray[np.int64]
Texts = NDArray[np.bytes_]


class WrongRows:
    """The number of unreadable rows, and the first few of them to show."""

    SHOWN = 5

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, str]] = []  # (line, message), by line

    def add(self, line: int, text: bytes, why: str) -> None:
        """Add a wrong row: its line number (from 1), its text, and the reason."""
        self.count += 1
        if len(self.first) < self.SHOWN or line < self.first[-1][0]:
            shown = text.strip().decode("utf-8", "backslashreplace")
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            insort(self.first, (line, f"line {line}: {why}: {shown!r}"))
            del self.first[self.SHOWN :]

    def __str__(self) -> str:
        more = f"; and {self.count - len(self.first)} more" if self.count > len(self.first) else ""
        listed = "; ".join(message for _, message in self.first)
        return f"{self.count} wrong row{'s' * (self.count != 1)}: {listed}{more}"


class Rows:
    """The rows of one block of a file."""

    def __init__(
        self, text: bytes, first_line: int, separator: Separator = "blanks", where: str | Path = ""
    ) -> None:
        """Find the lines and fields.

        Args:
            text: whole lines, the last with its line feed.
            first_line: number of the first line.
            separator: of fields; fields separated by tabs may be empty.
            where: the file, for messages.
        """
        self._text = b"\n" + text + PADDING
        self.where = where
        codes = np.frombuffer(self._text, np.uint8, len(text) + 1)
        self._newline: Places = np.flatnonzero(codes == _LINE_FEED)
        self._first_line = first_line
        self.num_lines = len(self._newline) - 1
        self._start, self._end = (_by_blanks if separator == "blanks" else _by_tabs)(codes)
        # Fields on each line, int64 (num_lines,); 0 on a blank one.
        self.count_on_line: Places = np.diff(np.searchsorted(self._start, self._newline, side="right"))
        self._line: Places = np.flatnonzero(self.count_on_line)

    def __len__(self) -> int:
        return len(self._line)

    @property
    def lines(self) -> Places:
        """The line number of each kept row, int64 (len(self),)."""
        return self._line + self._first_line

    def most_common_width(self) -> int:
        """Return the number of columns that most rows have."""
        return int(np.bincount(self.count_on_line[self._line]).argmax())

    def keep_width(self, width: int, wrong: WrongRows) -> None:
        """Drop the rows that don't have `width` columns, and add them to `wrong` unless they are blank."""
        count = self.count_on_line
        for i in np.flatnonzero((count != width) & (count != 0)).tolist():
            why = f"{count[i]} {'column' if count[i] == 1 else 'columns'}, expected {width}"
            wrong.add(self._first_line + i, self._line_text(i), why)
        kept = np.repeat(count == width, count)
        self._line = np.flatnonzero(count == width)
        self._start, self._end = (places[kept].reshape(-1, width) for places in (self._start, self._end))

    def drop(self, bad: Mask, why: str, wrong: WrongRows) -> None:
        """Drop the kept rows where `bad`, bool (len(self),), is True, and add them to `wrong`."""
        if not bad.any():
            return
        self.refuse(bad, why, wrong)
        self._line, self._start, self._end = self._line[~bad], self._start[~bad], self._end[~bad]

    def refuse(self, bad: Mask, why: str, wrong: WrongRows) -> None:
        """Add the kept rows where `bad`, bool (len(self),), is True to `wrong`, and keep them."""
        for i in self._line[bad].tolist():
            wrong.add(self._first_line + i, self._line_text(i), why)

    def columns(self, which: slice | list[int]) -> Texts:
        """Return the fields in the given columns of the kept rows, dtype S, (len(self), columns).

        Raises:
            InputError: a field is longer than `LONGEST_FIELD` bytes.
        """
        start = self._start[:, which]
        length = self._end[:, which] - start
        longest = int(length.max(initial=1))
        if longest > LONGEST_FIELD:
            line = self._first_line + int(self._line[length.max(1).argmax()])
            raise InputError(
                f"{self.where}: line {line}: a field of {longest:,} bytes; at most {LONGEST_FIELD} were expected"
            )
        return gather(self._text, start, length)

    def column(self, which: int) -> Texts:
        """Return the fields of one column of the kept rows, dtype S, (len(self),)."""
        return self.columns([which])[:, 0]

    def text_of(self, row: int) -> str:
        """Return the kept row `row` as `line: text`, for messages."""
        line = int(self._line[row])
        return f"{self._first_line + line}: {self._line_text(line).strip().decode('utf-8', 'backslashreplace')!r}"

    def _line_text(self, i: int) -> bytes:
        return self._text[self._newline[i] + 1 : self._newline[i + 1]]


def _by_blanks(codes: NDArray[np.uint8]) -> tuple[Places, Places]:
    """Return begin and end of every field; the first and the last code are line feeds."""
    blank = codes <= _SPACE
    edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1
    return edges[0::2], edges[1::2]


def _by_tabs(codes: NDArray[np.uint8]) -> tuple[Places, Places]:
    """Return begin and end of every field, without the blanks around it; a blank line has no fields."""
    words, ends = _by_blanks(codes)
    newline = codes == _LINE_FEED
    edges = np.flatnonzero((codes == _TAB) | newline)
    start, end = edges[:-1] + 1, edges[1:]
    # A field between two tabs begins with its first word and ends with its last.
    first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(words, end) - 1
    filled = first <= last
    begin, stop = start.copy(), start.copy()
    begin[filled], stop[filled] = words[first[filled]], ends[last[filled]]
    line = np.cumsum(newline[edges[:-1]])
    kept = np.bincount(line, filled)[line] > 0
    return begin[kept], stop[kept]


def gather(text: bytes, start: Places, length: Places) -> Texts:
    """Return pieces of a text as fixed-width strings, dtype S of a multiple of 8 bytes, in the shape of `start`.

    Args:
        text: ends with `PADDING`.
        start: int, position of each piece.
        length: int, same shape, length of each piece in bytes, at most `LONGEST_FIELD`.
    """
    # Every piece is read at the width of the longest; bytes after its end are set to zero.
    count = -(-int(length.max(initial=1)) // 8)
    pieces: NDArray[np.void] = np.ndarray(len(text) - 8 * count + 1, f"V{8 * count}", text, strides=1)[
        np.ascontiguousarray(start)
    ]
    words = pieces.view("<u8").reshape(*start.shape, count)
    for k in range(int(length.min(initial=8 * count)) // 8, count):
        words[..., k] &= _MASKS[np.clip(length - 8 * k, 0, 8)]
    return pieces.view(f"S{8 * count}")


def floats(texts: Texts) -> NDArray[np.float64]:
    """Return texts, dtype S (N,), as float64 (N,): nan where a text is not a finite decimal number."""
    tokens = texts.tolist()
    if b"_" in b"".join(tokens):  # Python reads 1_000 as a number
        return np.array([_float(token) for token in tokens])
    try:
        values = np.fromiter(map(float, tokens), np.float64, len(tokens))
    except ValueError:
        return np.array([_float(token) for token in tokens])
    values[np.isinf(values)] = np.nan
    return values


def _float(token: bytes) -> float:
    try:
        return _text.number(token.strip(b" ").decode())
    except ValueError:
        return float("nan")


def distinct(texts: Texts) -> tuple[Texts, Places]:
    """Return the distinct texts in order of appearance, dtype S (K,), and each text's index into them, int64 (N,).

    Much faster than `np.unique`: 64-bit hashes are sorted instead of texts, and every text is then compared with the
    first text that has its hash.

    Args:
        texts: dtype S of a multiple of 8 bytes, (N,), contiguous.
    """
    words = texts.view("<u8").reshape(len(texts), texts.itemsize // 8)
    hashes = np.zeros(len(texts), np.uint64)
    for word in words.T:
        hashes = (hashes ^ word) * _HASH_FACTOR
        hashes ^= hashes >> np.uint64(29)
    order = np.argsort(hashes)
    ordered = hashes[order]
    new = np.append(True, ordered[1:] != ordered[:-1])[: len(texts)]
    which = np.empty(len(texts), np.int64)
    which[order] = np.cumsum(new) - 1
    first = np.minimum.reduceat(order, np.flatnonzero(new)) if len(texts) else order
    if not all((word[first][which] == word).all() for word in words.T):  # two texts share a hash
        _, first, which = np.unique(texts, return_index=True, return_inverse=True)
    rank = np.argsort(first)
    place = np.empty(len(first), np.int64)
    place[rank] = np.arange(len(first))
    return texts[first[rank]], place[which]


def merge(parts: list[tuple[Texts, Places]]) -> tuple[Texts, list[Places]]:
    """Return the distinct texts of all parts, and each part's indices into them, given `distinct` of each part."""
    names, which = distinct(np.concatenate([texts for texts, _ in parts]))
    starts = np.cumsum([0] + [len(texts) for texts, _ in parts])
    return names, [which[start + places] for start, (_, places) in zip(starts, parts, strict=False)]


def refuse_repeated_ids(ids: Texts, line: Places, path: str | Path) -> None:
    """Raise `InputError` with both line numbers where an id is used twice.

    Args:
        ids: dtype S of a multiple of 8 bytes, (N,).
        line: int64 (N,), line number of each id.
        path: the list.
    """
    names, which = distinct(np.ascontiguousarray(ids))
    if len(names) == len(ids):
        return
    order = np.argsort(which, kind="stable")
    second = order[1:][which[order[1:]] == which[order[:-1]]].min()
    first = np.flatnonzero(which == which[second])[0]
    more = len(ids) - len(names) - 1
    raise InputError(
        f"{path}: id {ids[second].decode('utf-8', 'replace')!r} is repeated: lines {line[first]} and {line[second]}"
        f"{f'; and {more} more' if more else ''}"
    )


def read_rows(path: str | Path, digest: Any = None) -> Iterator[Rows]:
    """Yield a text file's rows, separated by blanks, in blocks of bounded size.

    Args:
        path: the file.
        digest: a hashlib object, updated with every byte.

    Raises:
        InputError: as `_text.blocks`; an empty file.
    """
    empty = True
    for block in _text.blocks(path, digest):
        rows = Rows(block.text, block.first_line, where=path)
        if len(rows):
            empty = False
            yield rows
    if empty:
        raise InputError(f"{path}: the file is empty")
