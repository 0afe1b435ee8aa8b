"""The enrolment store: enrolled speakers, their embeddings, and the search for those most similar to a recording.

A folder with one SQLite file. Every enrolment is a transaction that is on disk before the call returns. A `Store` may
be used by many threads and processes at once, survives a fork, and reads a folder that can't be written to.
"""

import datetime
import itertools
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif.errors import InputError
from speakerverif.inference._store_file import (
    RECORDING_COLUMNS,
    VERSION,
    Connection,
    StoreFile,
    check_dim,
    value,
)
from speakerverif.inference._store_index import StoreIndex
from speakerverif.inference._store_rows import (
    add_recording,
    add_speaker,
    enrolled_row,
    name_of,
    next_row,
    read_models,
    read_samples,
    speaker_names,
    speaker_row,
)
from speakerverif.inference.samples import (
    Embeddings,
    EnrolledSpeaker,
    Sample,
    as_samples,
    check_name,
)
from speakerverif.inference.store_encryption import read_key
from speakerverif.scoring.normalization import unit


class Store:
    """Enrolled speakers of one model. A speaker's model is the mean of unit vectors, scaled to length 1."""

    def __init__(
        self,
        folder: str | Path,
        fingerprint: str | None = None,
        create: bool = False,
        key_file: str | Path | None = None,
    ) -> None:
        """Open a store.

        Args:
            folder: where it is.
            fingerprint: of the model whose embeddings are to be enrolled and identified; None: any, to list or change
                its speakers.
            create: make the folder and an empty store where there is none, encrypted where there is a key.
            key_file: holds the key of an encrypted store; None: the environment variable
                SPEAKERVERIF_STORE_KEY_FILE names it, or the store is plain.

        Raises:
            InputError: no store there; not a store; one of another model, or of another key; a key for a plain one.
        """
        self.folder = Path(folder)
        self._file = StoreFile(self.folder, fingerprint, create, read_key(key_file))
        self._index = StoreIndex(self.folder)
        self._loading = threading.Lock()
        self._cache: tuple[int, NDArray[np.int64], Embeddings] | None = None

    def close(self) -> None:
        """Forget what was read into memory; all that was enrolled stays, and the store can be used again."""
        self._cache = None
        self._index.close()

    @property
    def encrypted(self) -> bool:
        """Whether the store is encrypted."""
        return self._file.key is not None

    @property
    def fingerprint(self) -> str:
        """The model whose embeddings the store holds."""
        with self._file.reading() as db:
            return str(value(db, "SELECT value FROM meta WHERE key = 'fingerprint'"))

    def enroll(self, name: str, embeddings: NDArray[Any] | Sequence[Sample]) -> int:
        """Add recordings of a speaker, new or enrolled already, and return how many the speaker then has.

        They are on disk when this returns.

        Args:
            name: the speaker's.
            embeddings: (N, D), or (D,) for one; or samples.

        Raises:
            InputError: an empty name; embeddings that are zero, not finite, or of another dimension than
                before.
        """
        self.enroll_all([(name, embeddings)])
        with self._file.reading() as db:
            speaker = enrolled_row(db, name, self.folder)
            return int(value(db, "SELECT count(*) FROM utterances WHERE speaker = ?", speaker))

    def enroll_all(self, people: Iterable[tuple[str, NDArray[Any] | Sequence[Sample]]]) -> int:
        """Add recordings of many speakers, (name, embeddings) each as for `enroll`, all of them or none.

        A sample whose `sha256` is enrolled for its speaker already is left out.

        Returns:
            how many samples were left out.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        enrolled = "SELECT 1 FROM utterances WHERE sha256 BETWEEN ? AND ? AND speaker = ?"
        repeated = 0
        with self._file.writing() as db:
            row_ids = itertools.count(next_row(db, "utterances"))
            for name, given in people:
                check_name(name)
                samples = as_samples(given)
                rows = np.stack([sample.embedding for sample in samples]).astype("<f4")
                unit(rows)  # refuses what has no direction
                check_dim(db, self.folder, rows.shape[1])
                speaker = speaker_row(db, name) or add_speaker(db, name)
                for sample, row in zip(samples, rows, strict=True):
                    bounds = db.seal.bounds(sample.sha256, "sha256")
                    if sample.sha256 and value(db, enrolled, *bounds, speaker):
                        repeated += 1
                        continue
                    facts = {name: getattr(sample, name) for name in RECORDING_COLUMNS}
                    facts |= {"embedding": row.tobytes(), "enrolled_at": sample.enrolled_at or now}
                    given_facts = {k: None if v in ("", b"") or v != v else v for k, v in facts.items()}
                    add_recording(db, next(row_ids), speaker, given_facts)
        return repeated

    def remove(self, name: str) -> int:
        """Remove a speaker and return how many recordings those were; a search index is deleted too.

        Name, embeddings and kept audio are overwritten in the file before this returns.

        Raises:
            InputError: nobody of that name is enrolled.
        """
        with self._file.writing() as db:
            speaker = enrolled_row(db, name, self.folder)
            removed = db.execute("DELETE FROM utterances WHERE speaker = ?", (speaker,)).rowcount
            db.execute("DELETE FROM speakers WHERE id = ?", (speaker,))
            db.execute("UPDATE meta SET value = value + 1 WHERE key = 'removals'")
            self._index.delete()
        return removed

    def rename(self, name: str, new_name: str) -> None:
        """Give a speaker another name.

        Raises:
            InputError: nobody of that name is enrolled; the new one is empty or somebody else's.
        """
        check_name(new_name)
        with self._file.writing() as db:
            speaker = enrolled_row(db, name, self.folder)
            if name != new_name and speaker_row(db, new_name) is not None:
                raise InputError(f"{self.folder}: somebody named {new_name!r} is enrolled already")
            stored = db.seal.seal(new_name, "name", speaker, speaker)
            db.execute("UPDATE speakers SET name = ? WHERE id = ?", (stored, speaker))

    def names(self) -> list[str]:
        """Return the names of the enrolled speakers, sorted."""
        with self._file.reading() as db:
            return sorted(speaker_names(db).values())

    def speakers(self) -> list[EnrolledSpeaker]:
        """Return the enrolled speakers, sorted by name."""
        with self._file.reading() as db:
            known = value(db, "PRAGMA user_version") >= VERSION
            facts = (
                "CASE WHEN count(speech_s) = count(*) THEN sum(speech_s) END, count(audio), min(enrolled_at)"
            )
            rows = db.execute(
                f"SELECT speaker, count(*), {facts if known else 'NULL, 0, NULL'} FROM utterances GROUP BY speaker"
            )
            names = speaker_names(db)
            speakers = [EnrolledSpeaker(names[speaker], *row) for speaker, *row in rows if speaker in names]
        return sorted(speakers, key=lambda speaker: speaker.name)

    def utterances(self, name: str) -> Embeddings:
        """Return the embeddings (N, D) enrolled for a speaker.

        Raises:
            InputError: nobody of that name is enrolled.
        """
        with self._file.reading() as db:
            samples = read_samples(db, enrolled_row(db, name, self.folder), audio=False)
        return np.stack([sample.embedding for sample in samples])

    def samples(self, name: str) -> list[Sample]:
        """Return a speaker's enrolled recordings, in the order of their enrolment.

        Raises:
            InputError: nobody of that name is enrolled.
        """
        with self._file.reading() as db:
            return read_samples(db, enrolled_row(db, name, self.folder), audio=True)

    def samples_of(self, names: Sequence[str]) -> tuple[list[str], list[list[Sample]]]:
        """Return the names that are enrolled at this moment, and their samples, without kept audio."""
        with self._file.reading() as db:
            ids = {name: row for name in names if (row := speaker_row(db, name)) is not None}
            enrolled = [name for name in names if name in ids]
            return enrolled, [read_samples(db, ids[name], audio=False) for name in enrolled]

    def has(self, name: str) -> bool:
        """Return whether somebody of that name is enrolled."""
        with self._file.reading() as db:
            return speaker_row(db, name) is not None

    def owners(self, sha256: Sequence[str]) -> dict[str, str]:
        """Return hash -> name of its speaker, for the recordings that are enrolled."""
        speaker_of = "SELECT speaker FROM utterances WHERE sha256 BETWEEN ? AND ?"
        with self._file.reading() as db:
            if value(db, "PRAGMA user_version") < VERSION:
                return {}
            found = {text: value(db, speaker_of, *db.seal.bounds(text, "sha256")) for text in sha256}
            owners = {text: name_of(db, speaker) for text, speaker in found.items() if speaker is not None}
        return {text: name for text, name in owners.items() if name is not None}

    def models(self) -> tuple[list[str], Embeddings]:
        """Return names and models, float32 (speakers, D), in the order of their enrolment."""
        with self._file.reading() as db:
            speakers, models = self._models(db)
            names = speaker_names(db)
        return [names[speaker] for speaker in speakers.tolist()], models

    def search(
        self, embedding: NDArray[Any], top: int = 5, use_index: bool = False
    ) -> tuple[tuple[str, float], ...]:
        """Return (name, cosine similarity) of the enrolled speakers most similar to an embedding, best first.

        Args:
            embedding: (D,), any length but zero.
            top: how many.
            use_index: search the index that `build_index` made, and exactly whoever was enrolled since; nearly
                always the same answer, and much faster among millions.

        Raises:
            InputError: nobody enrolled; another dimension; no index, or faiss not installed.
        """
        if top < 1:
            raise InputError(f"identify: top {top}: expected one candidate or more")
        query = unit(np.asarray(embedding, np.float32).reshape(1, -1))
        with self._file.reading() as db:
            if not value(db, "SELECT count(*) FROM (SELECT 1 FROM speakers LIMIT 1)"):
                raise InputError(f"{self.folder}: nobody is enrolled")
            check_dim(db, self.folder, query.shape[1])
            similar = self._indexed(db, query, top) if use_index else _best(*self._models(db), query[0], top)
            # By similarity; speakers that score the same, by who was enrolled first.
            ranked = sorted(similar.items(), key=lambda item: (-item[1], item[0]))
            named = [(name_of(db, s), v) for s, v in ranked]
        # The index may hold somebody who is not enrolled at this moment.
        return tuple((name, v) for name, v in named if name is not None)[:top]

    def __len__(self) -> int:
        """Return the number of enrolled speakers."""
        with self._file.reading() as db:
            return int(value(db, "SELECT count(*) FROM speakers"))

    @property
    def has_index(self) -> bool:
        """Whether there is a search index; who was enrolled after it was built is searched exactly."""
        return self._index.exists

    def build_index(self) -> None:
        """Build the search index of all models enrolled now, for `search(..., use_index=True)`.

        Raises:
            InputError: nobody enrolled; faiss not installed; somebody was removed meanwhile.
        """
        removed = "SELECT value FROM meta WHERE key = 'removals'"
        with self._file.reading() as db:
            last = value(db, "SELECT coalesce(max(id), 0) FROM utterances")
            removals = value(db, removed)
            speakers, models = self._models(db)
            seal = db.seal
        if not len(speakers):
            raise InputError(f"{self.folder}: nobody is enrolled")
        with self._index.built(speakers, models, seal) as put_in_place, self._file.writing() as db:
            if value(db, removed) != removals:
                raise InputError(f"{self.folder}: somebody was removed meanwhile; build the index again")
            put_in_place()
            db.execute("UPDATE meta SET value = ? WHERE key = 'indexed'", (last,))

    def backup(self, folder: str | Path) -> None:
        """Write a copy of the store, as it is at this moment, to another folder.

        Raises:
            InputError: there is a store already; the folder can't be written to.
        """
        target = Path(folder)
        if (target / "store.db").exists():
            raise InputError(f"{target}: has a store already; name another folder")
        with self._file.reading() as db:
            fingerprint = str(value(db, "SELECT value FROM meta WHERE key = 'fingerprint'"))
            StoreFile(target, fingerprint, create=True, key=self._file.key)
            copy = sqlite3.connect(target / "store.db")
            try:
                db.backup(copy)
                copy.execute("UPDATE meta SET value = 0 WHERE key = 'indexed'")
                copy.commit()
            finally:
                copy.close()

    def replace_embeddings(
        self, fingerprint: str, people: Sequence[tuple[str, Sequence[Sample]]], changes: int
    ) -> None:
        """Replace all enrolled samples with those of another model; see `enroll.migrate`.

        Args:
            fingerprint: of the other model, from then on the store's.
            people: (name, samples) of everybody.
            changes: `changes` of the store when the samples were read.

        Raises:
            InputError: somebody was enrolled, renamed or removed since then.
        """
        with self._file.writing() as db:
            if value(db, "SELECT value FROM meta WHERE key = 'changes'") != changes + 1:
                raise InputError(f"{self.folder}: somebody changed the store meanwhile; migrate it again")
            dim = len(people[0][1][0].embedding)
            db.execute("UPDATE meta SET value = ? WHERE key = 'dim'", (dim,))
            db.execute("UPDATE meta SET value = ? WHERE key = 'fingerprint'", (fingerprint,))
            for name, samples in people:
                speaker = enrolled_row(db, name, self.folder)
                ids = db.execute("SELECT id FROM utterances WHERE speaker = ? ORDER BY id", (speaker,))
                for (row,), sample in zip(ids.fetchall(), samples, strict=True):
                    blob = sample.embedding.astype("<f4").tobytes()
                    stored = db.seal.seal(blob, "embedding", row, speaker)
                    db.execute("UPDATE utterances SET embedding = ? WHERE id = ?", (stored, row))
            db.execute("UPDATE meta SET value = value + 1 WHERE key = 'removals'")
            self._index.delete()
        self._file.fingerprint = fingerprint

    @property
    def changes(self) -> int:
        """A number that every change of the store raises."""
        with self._file.reading() as db:
            return int(value(db, "SELECT value FROM meta WHERE key = 'changes'"))

    def _indexed(self, db: Connection, query: Embeddings, top: int) -> dict[int, float]:
        """Return speaker -> similarity of the best by the index, and of all enrolled since it was built."""
        newest = value(db, "SELECT value FROM meta WHERE key = 'indexed'")
        new, models = read_models(
            db, "WHERE speaker IN (SELECT speaker FROM utterances WHERE id > ?)", newest
        )
        similar = self._index.search(query, top + len(new), db.seal)
        return similar | dict(zip(new.tolist(), (models @ query[0]).tolist(), strict=True))

    def _models(self, db: Connection) -> tuple[NDArray[np.int64], Embeddings]:
        """Return ids (speakers,) and models (speakers, D) of all speakers, kept until something changes."""
        changes = value(db, "SELECT value FROM meta WHERE key = 'changes'")
        with self._loading:
            if self._cache is None or self._cache[0] != changes:
                self._cache = None  # its memory goes before the next is made
                self._cache = (changes, *read_models(db, ""))
            return self._cache[1:]


def _best(speakers: NDArray[np.int64], models: Embeddings, query: Embeddings, top: int) -> dict[int, float]:
    """Return speaker -> similarity of the most similar, by comparison with all models."""
    similarities = models @ query
    least = np.partition(similarities, -top)[-top] if top < len(similarities) else -np.inf
    best = np.flatnonzero(similarities >= least)
    return dict(zip(speakers[best].tolist(), similarities[best].tolist(), strict=True))
