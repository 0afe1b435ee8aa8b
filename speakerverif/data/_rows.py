"""Rows of whitespace-separated columns, read in bounded memory."""

from bisect import insort
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from speakerverif._util.files import open_input
from speakerverif.errors import InputError

BLOCK_BYTES = 1 << 23  # 8 MB: large enough for NumPy to pay, small enough to stay in the processor's cache


LONGEST_FIELD = 1024  # bytes; fields become fixed-width columns, so that one long one would cost all


PADDING = bytes(LONGEST_FIELD)  # stands behind a text: a field is taken as wide as the longest one


_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: odd, its bits well mixed


_MASKS = np.array(
    [(1 << 8 * n) - 1 for n in range(9)], np.uint64
)  # the first n bytes of a little-endian word


class WrongRows:
    """Counts rows that can't be read, and keeps the first few to show."""

    SHOWN = 5

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, str]] = []  # (line, message), by line

    def add(self, line: int, text: bytes, why: str) -> None:
        """Take in one wrong row: its line number (from 1), its text, what is wrong with it."""
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
    """The rows of one block of a file, held as the places of their fields: no object for any row."""

    def __init__(self, block: bytes, first_line: int) -> None:
        """Find lines and fields; what bytes up to 32 separate is a field.

        Args:
            block: whole lines, the last with its line feed.
            first_line: number of the first line.
        """
        self._text = b"\n" + block + PADDING
        text = np.frombuffer(self._text, np.uint8, len(block) + 1)
        space = text <= 32
        edges = np.flatnonzero(space[1:] != space[:-1]) + 1
        self._start, self._end = edges[0::2], edges[1::2]
        self._newline = np.flatnonzero(text == ord("\n"))
        self._first_line = first_line
        self.num_lines = len(self._newline) - 1
        self.count_on_line = np.diff(np.searchsorted(self._start, self._newline))  # fields, (num_lines,)
        self._line = np.flatnonzero(self.count_on_line)

    def __len__(self) -> int:
        return len(self._line)

    def most_common_width(self) -> int:
        """Return the number of columns that most rows have."""
        return int(np.bincount(self.count_on_line[self._line]).argmax())

    def keep_width(self, width: int, wrong: WrongRows) -> None:
        """Drop the rows without `width` columns, noting them in `wrong`; blank lines don't count."""
        count = self.count_on_line
        for i in np.flatnonzero((count != width) & (count != 0)).tolist():
            why = f"{count[i]} {'column' if count[i] == 1 else 'columns'}, expected {width}"
            wrong.add(self._first_line + i, self._line_text(i), why)
        kept = np.repeat(count == width, count)
        self._line = np.flatnonzero(count == width)
        self._start, self._end = (places[kept].reshape(-1, width) for places in (self._start, self._end))

    def drop(self, bad: np.ndarray, why: str, wrong: WrongRows) -> None:
        """Drop the kept rows where `bad`, bool (len(self),), noting them in `wrong`."""
        if not bad.any():
            return
        for i in self._line[bad].tolist():
            wrong.add(self._first_line + i, self._line_text(i), why)
        self._line, self._start, self._end = self._line[~bad], self._start[~bad], self._end[~bad]

    def columns(self, which: slice) -> np.ndarray:
        """Return the fields of the chosen columns of the kept rows, dtype S, (len(self), columns).

        Raises:
            InputError: a field is longer than `LONGEST_FIELD` bytes.
        """
        start, length = self._start[:, which], (self._end - self._start)[:, which]
        longest = int(length.max(initial=1))
        if longest > LONGEST_FIELD:
            line = self._first_line + int(self._line[length.max(1).argmax()])
            raise InputError(
                f"line {line}: a field of {longest:,} bytes; at most {LONGEST_FIELD} were expected"
            )
        return gather(self._text, start, length)

    def text_of(self, row: int) -> str:
        """Return the kept row `row` as `line: text`, for messages."""
        line = int(self._line[row])
        return f"{self._first_line + line}: {self._line_text(line).strip().decode('utf-8', 'backslashreplace')!r}"

    def _line_text(self, i: int) -> bytes:
        return self._text[self._newline[i] + 1 : self._newline[i + 1]]


def gather(text: bytes, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return pieces of a text as fixed-width strings, dtype S of a multiple of 8 bytes, in the shape of `start`.

    Args:
        text: ends in `PADDING`.
        start: int, where each piece begins.
        length: int, likewise, in bytes, at most `LONGEST_FIELD`.
    """
    # As many bytes as the longest has, from wherever they stand; what lies behind a piece's end is masked to zero.
    count = -(-int(length.max(initial=1)) // 8)
    pieces = np.ndarray(len(text) - 8 * count + 1, f"V{8 * count}", text, strides=1)[
        np.ascontiguousarray(start)
    ]
    words = pieces.view("<u8").reshape(*start.shape, count)
    for k in range(int(length.min(initial=8 * count)) // 8, count):
        words[..., k] &= _MASKS[np.clip(length - 8 * k, 0, 8)]
    return pieces.view(f"S{8 * count}")


def distinct(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct texts as they first appear, dtype S (K,), and which of them each is, int64 (N,).

    This is `np.unique` many times as fast: 64-bit hashes are sorted in place of texts, and every text is then
    compared with the one that stands for it.

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


def merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return what `distinct` would of all parts together, given what it returned for each of them."""
    names, which = distinct(np.concatenate([texts for texts, _ in parts]))
    starts = np.cumsum([0] + [len(texts) for texts, _ in parts])
    return names, [which[start + places] for start, (_, places) in zip(starts, parts, strict=False)]


def read_rows(path: str | Path, digest: Any = None) -> Iterator[Rows]:
    """Yield a text file's rows in blocks of bounded size; `digest` (a hashlib object) is fed every byte.

    A UTF-8 byte-order mark, carriage returns, tabs and blank lines are no matter.

    Raises:
        InputError: no such file, a folder, unreadable, or nothing in it.
    """
    line, empty = 1, True
    with open_input(path) as file:
        while block := file.read(BLOCK_BYTES):
            block += file.readline()
            if digest is not None:
                digest.update(block)
            if line == 1:
                block = block.removeprefix(b"\xef\xbb\xbf")
            rows = Rows(block if block.endswith(b"\n") else block + b"\n", line)
            line += rows.num_lines
            if len(rows):
                empty = False
                yield rows
    if empty:
        raise InputError(f"{path}: the file is empty")
