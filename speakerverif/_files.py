"""Text files of whitespace-separated columns, read in bounded memory; files written whole or not at all."""

import os
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from speakerverif.errors import InputError

BLOCK_BYTES = 1 << 24  # 16 MB: large enough for NumPy to pay, small enough that ten million rows fit anywhere


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
    """The rows of one block of a file that have the expected number of columns.

    Attributes:
        tokens: the fields of all rows, one after the other; column j of `width` is `tokens[j::width]`.
    """

    def __init__(self, block: bytes, first_line: int) -> None:
        self._block, self._first_line = block, first_line
        self.tokens = block.split()
        text = np.frombuffer(block, np.uint8)
        space = text <= 32
        token_ends = np.flatnonzero(space[1:] & ~space[:-1])
        newlines = np.flatnonzero(text == ord("\n"))
        self._counts = np.diff(np.searchsorted(token_ends, newlines), prepend=0)
        if len(token_ends) != len(self.tokens):  # control characters, which split() takes for letters
            self._counts = np.array([len(line.split()) for line in self._lines()])

    def __len__(self) -> int:
        return int(np.count_nonzero(self._counts))

    @property
    def num_lines(self) -> int:
        return len(self._counts)

    def _lines(self) -> list[bytes]:
        return self._block.split(b"\n")[:-1]

    def most_common_width(self) -> int:
        """Return the number of columns that most rows have."""
        return int(np.bincount(self._counts[self._counts > 0]).argmax())

    def keep_width(self, width: int, wrong: WrongRows) -> None:
        """Drop the rows without `width` columns, noting them in `wrong`; blank lines don't count."""
        bad = (self._counts != width) & (self._counts != 0)
        if not bad.any():
            return
        lines = self._lines()
        for i in np.flatnonzero(bad):
            count = int(self._counts[i])
            why = f"{count} column{'s' * (count != 1)}, expected {width}"
            wrong.add(self._first_line + int(i), lines[i], why)
        self._counts[bad] = 0
        self.tokens = [t for i in np.flatnonzero(self._counts) for t in lines[i].split()]

    def drop(self, bad: np.ndarray, why: list[str], width: int, wrong: WrongRows) -> None:
        """Drop the kept rows where `bad` (bool, one a kept row), noting each with its reason in `wrong`."""
        lines, kept = self._lines(), np.flatnonzero(self._counts)
        for i, reason in zip(kept[bad], why, strict=True):
            wrong.add(self._first_line + int(i), lines[i], reason)
        self._counts[kept[bad]] = 0
        self.tokens = [t for r in np.flatnonzero(~bad) for t in self.tokens[r * width : (r + 1) * width]]

    def line_of(self, row: int) -> int:
        """Return the line number, from 1, of the kept row `row`."""
        return self._first_line + int(np.flatnonzero(self._counts)[row])


def read_rows(path: str | Path, digest: Any = None) -> Iterator[Rows]:
    """Yield a text file's rows in blocks of about 16 MB; `digest` (a hashlib object) is fed every byte.

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


def open_input(path: str | Path) -> IO[bytes]:
    """Return an open binary file, or raise `InputError` that names the path and the reason."""
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder, expected a file")
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` for writing that takes its place on success and vanishes on failure.

    Missing folders are made.
    """
    aside = Path(f"{path}.{os.getpid()}.part")
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: can't write: {error.strerror}") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write a whole file, text as UTF-8: all of it is there afterwards, or what was before; folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
