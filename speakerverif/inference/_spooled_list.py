"""A list of recordings in a file, so that a list of any length is embedded in bounded memory."""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError

_ROWS = 10_000  # written at a time
_CACHE_KB = 8192  # of the database, in memory
_COLUMNS = "id, path, speaker, start_s, duration_s, channel"
_REPEATED = (
    "SELECT a.id, a.line, b.line FROM utterances a JOIN utterances b USING (id) WHERE a.row < b.row "
    "ORDER BY b.row LIMIT 1"
)


class SpooledList:
    """The utterances of a list by their row, from 0; the file is of one process and holds nothing to keep.

    Attributes:
        digest: a hash of the list's content.
    """

    def __init__(self, path: Path, rows: Iterable[tuple[int, Utterance]]) -> None:
        """Write a list to a file, which replaces one that is there.

        Args:
            path: the file.
            rows: line and utterance; taken once.

        Raises:
            InputError: a repeated id, with both lines; the file can't be written; whatever `rows` raises.
        """
        path.unlink(missing_ok=True)
        self._db = sqlite3.connect(path)
        digest = hashlib.sha256()
        try:
            self._db.execute("PRAGMA synchronous = OFF")
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            self._db.execute(
                "CREATE TABLE utterances (row INTEGER PRIMARY KEY, line INTEGER, id TEXT, path BLOB, speaker TEXT,"
                " start_s REAL, duration_s REAL, channel INTEGER)"
            )
            insert = f"INSERT INTO utterances (line, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
            values = map(_values, rows)
            while some := list(islice(values, _ROWS)):
                for _, *facts in some:
                    digest.update(repr(facts).encode())
                self._db.executemany(insert, some)
            self._db.commit()
            self._refuse_repeated()
        except sqlite3.Error as error:
            self.close()
            raise InputError(f"{path}: can't write: {error}") from error
        except BaseException:
            self.close()
            raise
        self.digest = digest.hexdigest()
        self._size = int(self._db.execute("SELECT count(*) FROM utterances").fetchone()[0])

    def __len__(self) -> int:
        return self._size

    def rows(self, first: int, count: int) -> list[Utterance]:
        """Return up to `count` utterances from row `first` on."""
        select = f"SELECT {_COLUMNS} FROM utterances WHERE row > ? ORDER BY row LIMIT ?"
        with closing(self._db.execute(select, (first, count))) as found:
            return [
                Utterance(name, path.decode("utf-8", "surrogateescape"), *facts)
                for name, path, *facts in found
            ]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _refuse_repeated(self) -> None:
        try:
            self._db.execute("CREATE UNIQUE INDEX by_id ON utterances (id)")
        except sqlite3.IntegrityError:
            self._db.execute("CREATE INDEX by_id ON utterances (id)")
            name, first, second = self._db.execute(_REPEATED).fetchone()
            raise InputError(f"id {name!r} is repeated: lines {first} and {second}") from None
        self._db.execute("DROP INDEX by_id")


def _values(row: tuple[int, Utterance]) -> tuple[Any, ...]:
    line, u = row
    path = u.path.encode("utf-8", "surrogateescape")
    return line, u.id, path, u.speaker, u.start_s, u.duration_s, u.channel
