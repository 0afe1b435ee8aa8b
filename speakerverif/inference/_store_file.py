"""The SQLite file of an enrolment store: its tables, and transactions that many threads and processes may open.

Each transaction opens its own connection: a connection can't be shared by threads, and must not live through a
fork. The file keeps a rollback journal, not a write-ahead log: a log would still hold a removed speaker while another
connection is open, and can't be read from a folder that can't be written to.
"""

import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from speakerverif._util.messages import one_line
from speakerverif.errors import InputError
from speakerverif.inference._store_seal import KEY_VARIABLE, Plain, Sealed, new_mark

BUSY_S = 60.0  # how long a transaction waits for others
VERSION = 1  # of the tables; 0 had no columns about recordings
RECORDING_COLUMNS = {
    "path": "TEXT",
    "sha256": "TEXT",
    "duration_s": "REAL",
    "speech_s": "REAL",
    "enrolled_at": "TEXT",
    "audio": "BLOB",
}
COUNTERS = {"changes", "removals", "indexed"}
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL)",
    "CREATE TABLE speakers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL)",
    "CREATE TABLE utterances (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " speaker INTEGER NOT NULL REFERENCES speakers, embedding BLOB NOT NULL)",
    "CREATE INDEX utterances_by_speaker ON utterances (speaker)",
    "INSERT INTO meta VALUES ('changes', 0), ('removals', 0), ('indexed', 0)",
)


class Connection(sqlite3.Connection):
    """A connection to a store's database in a transaction, with the form of its personal values at this moment."""

    seal: Plain


class StoreFile:
    """The database file of a store.

    Attributes:
        path: the file.
        fingerprint: of the model whose embeddings the store must hold; None: any.
        key: of an encrypted store; None: the store must be plain.
    """

    def __init__(self, folder: Path, fingerprint: str | None, create: bool, key: bytes | None = None) -> None:
        """Open a store's file, bring old tables up to date, and make an empty one where asked to.

        Raises:
            InputError: no store there; not a store; one of another model or key; plain where there is a key.
        """
        self.path = folder / "store.db"
        self.fingerprint = fingerprint
        self.key = key
        self._last_seal: Sealed | None = None
        with self._errors():
            if not self.path.is_file():
                if not create or fingerprint is None:
                    raise InputError(f"{folder}: no enrolment store (store.db) in it; enroll somebody first")
                _create(self.path, fingerprint, key)
        with self.reading() as db:
            version = value(db, "PRAGMA user_version")
        if version > VERSION:
            raise InputError(f"{self.path}: written by a later version of this package; update it")
        if version < VERSION and self.writable:
            self._upgrade()

    @property
    def writable(self) -> bool:
        """Whether this process may write to the store."""
        return os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection to which the store looks the same until the block ends."""
        with self._errors(), self._connection() as db, _transaction(db, "BEGIN"):
            self._check(db)
            yield db

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection whose changes are all on disk when the block ends, or none of them is."""
        with self._errors():
            if not self.writable:
                raise InputError(f"{self.path}: can't be written to by this user")
            with _queue(self.path.with_suffix(".lock")), self._connection() as db:
                with _transaction(db, "BEGIN IMMEDIATE"):
                    self._check(db)
                    db.execute("UPDATE meta SET value = value + 1 WHERE key = 'changes'")
                    yield db
                # Does something only where a program of an earlier version has the store open.
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def compact(self) -> None:
        """Build the file anew, so that it holds nothing of former values."""
        with self._errors(), _queue(self.path.with_suffix(".lock")), self._connection() as db:
            db.execute("VACUUM")

    def _check(self, db: Connection) -> None:
        """Refuse a damaged store, or one of another model or key, and note how to open its values."""
        meta = dict(db.execute("SELECT key, value FROM meta"))
        db.seal = self._seal_of(meta.pop("seal", None))
        stored = meta.pop("fingerprint", None)
        wrong = [key for key, number in meta.items() if not (isinstance(number, int) and number >= 0)]
        if wrong or not isinstance(stored, str) or not meta.keys() >= COUNTERS:
            key = wrong[0] if wrong else "fingerprint, or a counter,"
            raise InputError(f"{self.path}: damaged: its {key} is not what a store holds; restore a backup")
        if self.fingerprint is not None and stored != self.fingerprint:
            raise InputError(
                f"{self.path.parent}: holds embeddings of model {stored}, not of {self.fingerprint}; "
                "use that model, or `speakerverif store migrate` to this one"
            )

    def _seal_of(self, mark: bytes | None) -> Plain:
        """Return the form of the store's values, by what it notes about its encryption."""
        folder = self.path.parent
        if mark is None and self.key is None:
            return Plain()
        if mark is None:
            raise InputError(
                f"{folder}: is not encrypted, but a key is given: `speakerverif store encrypt`, or give no key"
            )
        if self.key is None:
            raise InputError(
                f"{folder}: is encrypted: name its key's file by {KEY_VARIABLE}, or by `store --key-file`"
            )
        last = self._last_seal
        if last is None or last.mark != mark:
            try:
                self._last_seal = last = Sealed(self.key, mark)
            except InputError as error:
                raise InputError(f"{folder}: {error}") from error
        return last

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        place = self.path.resolve().as_uri()
        if self.writable:
            db = _connect(f"{place}?mode=rw")
        else:
            try:
                db = _connect(f"{place}?mode=ro")
            except sqlite3.OperationalError:
                # A store of an earlier version wants to write a log's index. Without a log, the file is complete.
                if Path(f"{self.path}-wal").exists():
                    raise
                db = _connect(f"{place}?immutable=1")
        try:
            yield db
        finally:
            db.close()

    def _upgrade(self) -> None:
        """Add the columns of this version, make the file private, and leave the write-ahead log behind."""
        with self.writing() as db:
            if value(db, "PRAGMA user_version") < VERSION:
                _add_recording_columns(db)
        # While somebody has the file open this is refused, and the log stays: `writing` then empties it.
        with self._errors(), self._connection() as db, suppress(sqlite3.OperationalError):
            db.execute("PRAGMA busy_timeout = 1000")
            db.execute("PRAGMA journal_mode = DELETE").fetchone()
        with suppress(OSError):
            self.path.chmod(0o600)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{self.path}: {error}") from error
        except (TypeError, ValueError, OverflowError, LookupError) as error:
            # Values of other types than the tables' columns, or embeddings of another length than the store's.
            raise InputError(f"{self.path}: damaged: {one_line(error)}") from error


def value(db: Connection, sql: str, *values: Any) -> Any:
    """Return the first column of the first row of a query; None where it has no rows."""
    row = db.execute(sql, values).fetchone()
    return None if row is None else row[0]


def dimensions(db: Connection) -> int:
    """Return the dimension of the stored embeddings; 0 while there are none."""
    return int(value(db, "SELECT value FROM meta WHERE key = 'dim'") or 0)


def check_dim(db: Connection, folder: Path, dim: int) -> None:
    """Note the dimension of a store's first embedding; raise `InputError` where further ones have another."""
    stored = value(db, "SELECT value FROM meta WHERE key = 'dim'")
    if stored is None:
        db.execute("INSERT INTO meta VALUES ('dim', ?)", (dim,))
    elif stored != dim:
        raise InputError(f"{folder}: holds embeddings of {stored} dimensions, found {dim}")


def joined(blobs: Sequence[Any], dim: int) -> bytes:
    """Return stored embeddings one after the other.

    Raises:
        ValueError: one that isn't of `dim` float32 numbers; a transaction of `StoreFile` adds the file's name.
    """
    if not dim or any(not isinstance(blob, bytes) or len(blob) != 4 * dim for blob in blobs):
        raise ValueError(f"expected embeddings of {dim} numbers; restore a backup")
    return b"".join(blobs)


def _connect(uri: str) -> Connection:
    db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, factory=Connection)
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not just unlinked
        db.execute("PRAGMA temp_store = MEMORY")  # no embedding goes to the system's temporary folder
        db.execute("SELECT key FROM meta LIMIT 1").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db


@contextmanager
def _transaction(db: Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def _queue(path: Path) -> Iterator[None]:
    """Let one writer in at a time, in the order of arrival.

    SQLite itself waits by trying again after a pause, in random order: with hundreds of writers some wait for longer
    than any limit. Where the system has no such lock, only SQLite's waiting is left.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _create(path: Path, fingerprint: str, key: bytes | None) -> None:
    """Make an empty store in a temporary file, and move it into place unless another process was faster."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_suffix(f".{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL, 0o600))
        db = sqlite3.connect(aside, factory=Connection)
        for statement in _SCHEMA:
            db.execute(statement)
        db.execute("INSERT INTO meta VALUES ('fingerprint', ?)", (fingerprint,))
        if key is not None:
            db.execute("INSERT INTO meta VALUES ('seal', ?)", (new_mark(key),))
        _add_recording_columns(db)
        db.commit()
        db.close()
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _add_recording_columns(db: Connection) -> None:
    for name, kind in RECORDING_COLUMNS.items():
        db.execute(f"ALTER TABLE utterances ADD COLUMN {name} {kind}")
    db.execute("CREATE INDEX utterances_by_sha256 ON utterances (sha256) WHERE sha256 IS NOT NULL")
    db.execute(f"PRAGMA user_version = {VERSION}")
