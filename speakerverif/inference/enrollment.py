"""The enrolment store: who is known, by which embeddings, and who of them somebody is.

A folder with one SQLite file. Every enrolment is a transaction that is on disk before the call returns: a
process killed at any moment loses nothing it was told is enrolled, and several processes may write at once.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif.errors import InputError
from speakerverif.scoring.normalization import owner_sums, unit

_BUSY_S = 60.0  # how long a writer waits for the others
_READ_ROWS = 20_000  # embeddings read from the file at a time
_COARSE_FROM = 10_000  # speakers; below, the index is exact
_TRAINED_ON = 100_000  # models that the coarse index is trained on

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL)",
    "CREATE TABLE speakers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL)",
    "CREATE TABLE utterances (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " speaker INTEGER NOT NULL REFERENCES speakers, embedding BLOB NOT NULL)",
    "CREATE INDEX utterances_by_speaker ON utterances (speaker)",
    "INSERT INTO meta VALUES ('changes', 0), ('removals', 0), ('indexed', 0)",
)


@dataclass(frozen=True)
class Identification:
    """The most similar speakers, and whether the best of them is similar enough.

    Attributes:
        candidates: (name, cosine similarity) pairs, best first.
        threshold: the similarity asked for; None: no decision was asked for.
        name: the best candidate, where it was accepted; None: nobody was, or no decision was asked for.
    """

    candidates: tuple[tuple[str, float], ...]
    threshold: float | None
    name: str | None


class Store:
    """Enrolled speakers of one model. A speaker's model is the mean of unit vectors, scaled to length 1."""

    def __init__(self, folder: str | Path, fingerprint: str, create: bool = False) -> None:
        """Open a store.

        Args:
            folder: where it is.
            fingerprint: of the model whose embeddings are to be enrolled and identified.
            create: make the folder and an empty store where there is none.

        Raises:
            InputError: no store there; not a store; one of another model.
        """
        self.folder = Path(folder)
        self._path, self._index_path = self.folder / "store.db", self.folder / "index.faiss"
        if not create and not self._path.is_file():
            raise InputError(f"{self.folder}: no enrolment store (store.db) in it; enroll somebody first")
        self._cache: tuple[int, NDArray[np.int64], NDArray[np.float32]] | None = None
        self._index: tuple[tuple[int, int], Any] | None = None
        with self._errors():
            if not self._path.is_file():
                self._create(fingerprint)
            self._db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")  # a removed voice is overwritten, not just unlinked
            theirs = self._one("SELECT value FROM meta WHERE key = 'fingerprint'")
        if theirs != fingerprint:
            raise InputError(
                f"{self.folder}: holds embeddings of model {theirs}, not of {fingerprint}; "
                "use that model, or enroll everybody anew in another store"
            )

    def close(self) -> None:
        """Close the file; all that was enrolled stays."""
        self._db.close()

    def enroll(self, name: str, embeddings: NDArray) -> int:
        """Add utterances of a speaker, new or known, and return how many the speaker then has.

        They are on disk when this returns.

        Args:
            name: the speaker's.
            embeddings: (N, D), or (D,) for one.

        Raises:
            InputError: an empty name; embeddings that are zero, not finite, or of another dimension than
                before.
        """
        self.enroll_all([(name, embeddings)])
        with self._errors():
            counted = (
                "SELECT count(*) FROM utterances WHERE speaker = (SELECT id FROM speakers WHERE name = ?)"
            )
            return self._one(counted, name)

    def enroll_all(self, people: Iterable[tuple[str, NDArray]]) -> None:
        """Add utterances of many speakers, (name, embeddings) each as for `enroll`, all of them or none."""
        with self._writing():
            for name, embeddings in people:
                if not name.strip():
                    raise InputError("enroll: expected a name, found an empty one")
                rows = np.ascontiguousarray(np.atleast_2d(embeddings), "<f4")
                unit(rows)  # refuses what has no direction
                self._check_dim(rows.shape[1])
                self._db.execute("INSERT OR IGNORE INTO speakers (name) VALUES (?)", (name,))
                speaker = self._one("SELECT id FROM speakers WHERE name = ?", name)
                values = [(speaker, row.tobytes()) for row in rows]
                self._db.executemany("INSERT INTO utterances (speaker, embedding) VALUES (?, ?)", values)

    def remove(self, name: str) -> int:
        """Forget a speaker and return how many utterances that were; a search index is deleted with it.

        Raises:
            InputError: nobody of that name is enrolled.
        """
        with self._writing():
            speaker = self._one("SELECT id FROM speakers WHERE name = ?", name)
            if speaker is None:
                raise InputError(f"{self.folder}: nobody named {name!r} is enrolled")
            removed = self._db.execute("DELETE FROM utterances WHERE speaker = ?", (speaker,)).rowcount
            self._db.execute("DELETE FROM speakers WHERE id = ?", (speaker,))
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'removals'")
            self._index_path.unlink(missing_ok=True)
        return removed

    def names(self) -> list[str]:
        """Return who is enrolled, sorted."""
        with self._errors():
            return [name for (name,) in self._db.execute("SELECT name FROM speakers ORDER BY name")]

    def utterances(self, name: str) -> NDArray[np.float32]:
        """Return the embeddings (N, D) enrolled for a speaker.

        Raises:
            InputError: nobody of that name is enrolled.
        """
        of_name = "WHERE speaker = (SELECT id FROM speakers WHERE name = ?) ORDER BY id"
        with self._errors():
            rows = self._db.execute(f"SELECT embedding FROM utterances {of_name}", (name,)).fetchall()
        if not rows:
            raise InputError(f"{self.folder}: nobody named {name!r} is enrolled")
        return np.stack([np.frombuffer(blob, "<f4") for (blob,) in rows])

    def models(self) -> tuple[list[str], NDArray[np.float32]]:
        """Return names and models, float32 (speakers, D), in the order of their enrolment."""
        with self._reading():
            speakers, models = self._models()
            names = dict(self._db.execute("SELECT id, name FROM speakers"))
        return [names[speaker] for speaker in speakers.tolist()], models

    def identify(
        self, embedding: NDArray, top: int = 5, threshold: float | None = None, use_index: bool = False
    ) -> Identification:
        """Return the enrolled speakers most similar to an embedding (D,), and who it is, if a threshold is
        given.

        The threshold is a cosine similarity, best a calibrated one (`Calibration.score_threshold`). It is
        reached by chance the more often, the more speakers are enrolled: with a false-alarm rate f per
        comparison, a stranger is taken for one of N with a probability of up to N f.

        Args:
            embedding: (D,), any length but zero.
            top: how many candidates.
            threshold: similarity from which the best candidate counts as identified.
            use_index: search the index that `build_index` made, plus exactly whoever was enrolled since;
                nearly always the same answer, and much faster among millions.

        Raises:
            InputError: nobody enrolled; another dimension; no index, or faiss not installed.
        """
        if top < 1:
            raise InputError(f"identify: top {top}: expected one candidate or more")
        query = unit(np.asarray(embedding, np.float32).reshape(1, -1))
        with self._reading():
            if not self._one("SELECT count(*) FROM (SELECT 1 FROM speakers LIMIT 1)"):
                raise InputError(f"{self.folder}: nobody is enrolled")
            self._check_dim(query.shape[1])
            found = self._search_index(query, top) if use_index else _best(*self._models(), query[0], top)
            # By similarity; speakers that score the same, by who was enrolled first.
            ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
            named = [(self._one("SELECT name FROM speakers WHERE id = ?", s), v) for s, v in ranked]
        # The index may know somebody who is not enrolled at the moment this reads.
        candidates = tuple((name, v) for name, v in named if name is not None)[:top]
        accepted = threshold is not None and candidates[0][1] >= threshold
        return Identification(candidates, threshold, candidates[0][0] if accepted else None)

    @property
    def has_index(self) -> bool:
        """Whether there is a search index; who was enrolled after it was built is searched exactly."""
        return self._index_path.is_file()

    def build_index(self) -> None:
        """Build the search index of all models enrolled now, for `identify(..., use_index=True)`.

        Every four dimensions of a model are kept as one of sixteen prototypes; a search compares the query
        with all of these codes, then exactly with the hundred times `top` models that come out best. An
        inverted file was tried: it compares with fewer, but missed speakers in groups it did not look into.

        Raises:
            InputError: nobody enrolled; faiss not installed.
        """
        faiss = _faiss()
        with self._reading():
            last = self._one("SELECT coalesce(max(id), 0) FROM utterances")
            removals = self._one("SELECT value FROM meta WHERE key = 'removals'")
            speakers, models = self._models()
        if not len(speakers):
            raise InputError(f"{self.folder}: nobody is enrolled")
        dim = models.shape[1]
        coarse = len(models) >= _COARSE_FROM and dim % 4 == 0
        kind = f"IDMap,PQ{dim // 4}x4fs,RFlat" if coarse else "IDMap,Flat"
        index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(models[:: max(1, len(models) // _TRAINED_ON)])
        index.add_with_ids(models, speakers)
        if coarse:
            faiss.downcast_index(index.index).k_factor = 100
        aside = self._index_path.with_suffix(f".{os.getpid()}.part")
        try:
            faiss.write_index(index, str(aside))
            with self._errors(), self._transaction("BEGIN IMMEDIATE"):
                if self._one("SELECT value FROM meta WHERE key = 'removals'") != removals:
                    raise InputError(f"{self.folder}: somebody was removed meanwhile; build the index again")
                aside.replace(self._index_path)
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'indexed'", (last,))
        finally:
            aside.unlink(missing_ok=True)

    def _search_index(self, query: NDArray[np.float32], top: int) -> dict[int, float]:
        """Return speaker -> similarity of the best by the index, and of whoever was enrolled since."""
        faiss = _faiss()
        if not self.has_index:
            raise InputError(f"{self.folder}: no search index; build it first (build_index)")
        stat = self._index_path.stat()
        stamp = (stat.st_ino, stat.st_mtime_ns)
        if self._index is None or self._index[0] != stamp:
            self._index = (stamp, faiss.read_index(str(self._index_path)))
        indexed = self._one("SELECT value FROM meta WHERE key = 'indexed'")
        new, models = self._read_models(
            "WHERE speaker IN (SELECT speaker FROM utterances WHERE id > ?)", indexed
        )
        similarities, speakers = self._index[1].search(query, top + len(new))
        found = {int(s): float(v) for s, v in zip(speakers[0], similarities[0], strict=True) if s >= 0}
        return found | dict(zip(new.tolist(), (models @ query[0]).tolist(), strict=True))

    def _models(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids (speakers,) and models (speakers, D) of everybody, kept until something changes."""
        changes = self._one("SELECT value FROM meta WHERE key = 'changes'")
        if self._cache is None or self._cache[0] != changes:
            self._cache = None  # its memory goes before the next is made
            self._cache = (changes, *self._read_models(""))
        return self._cache[1:]

    def _read_models(self, where: str, *values: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return ids, ascending, and models of the speakers of the utterances that an SQL clause selects."""
        ids = self._db.execute(f"SELECT DISTINCT speaker FROM utterances {where} ORDER BY speaker", values)
        speakers = np.fromiter((speaker for (speaker,) in ids), np.int64)
        dim = int(self._one("SELECT value FROM meta WHERE key = 'dim'") or 0)
        sums = np.zeros((len(speakers), dim), np.float32)
        rows = self._db.execute(f"SELECT speaker, embedding FROM utterances {where}", values)
        while some := rows.fetchmany(_READ_ROWS):
            mine, owner = np.unique([speaker for speaker, _ in some], return_inverse=True)
            embeddings = np.frombuffer(b"".join([blob for _, blob in some]), "<f4").reshape(len(some), dim)
            sums[np.searchsorted(speakers, mine)] += owner_sums(unit(embeddings), owner, len(mine))
        return speakers, unit(sums)

    def _create(self, fingerprint: str) -> None:
        """Make an empty store beside its place, and put it there unless another process was faster."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_suffix(f".{os.getpid()}.part")
        try:
            db = sqlite3.connect(aside)
            db.execute("PRAGMA journal_mode = WAL")  # readers and a writer don't wait for each other
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('fingerprint', ?)", (fingerprint,))
            db.commit()
            db.close()
            with suppress(FileExistsError):
                os.link(aside, self._path)
        finally:
            aside.unlink(missing_ok=True)

    def _check_dim(self, dim: int) -> None:
        known = self._one("SELECT value FROM meta WHERE key = 'dim'")
        if known is None:
            self._db.execute("INSERT INTO meta VALUES ('dim', ?)", (dim,))
        elif known != dim:
            raise InputError(f"{self.folder}: holds embeddings of {known} dimensions, found {dim}")

    def _one(self, sql: str, *values: Any) -> Any:
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._db.execute(begin)
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """All that is read inside belongs to the same moment."""
        with self._errors(), self._transaction("BEGIN"):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All that is written inside is on disk after it, or nothing of it is."""
        with self._errors(), self._transaction("BEGIN IMMEDIATE"):
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'changes'")
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{self._path}: {error}") from error


def _best(
    speakers: NDArray[np.int64], models: NDArray[np.float32], query: NDArray[np.float32], top: int
) -> dict[int, float]:
    """Return speaker -> similarity of the most similar, by comparing with all."""
    similarities = models @ query
    least = np.partition(similarities, -top)[-top] if top < len(similarities) else -np.inf
    best = np.flatnonzero(similarities >= least)
    return dict(zip(speakers[best].tolist(), similarities[best].tolist(), strict=True))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError("the search index needs faiss: pip install faiss-cpu") from error
    return faiss
