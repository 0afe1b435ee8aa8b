"""The rows of an enrolment store: speakers and their recordings, sealed when written and opened when read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif.errors import InputError
from speakerverif.inference._store_file import (
    RECORDING_COLUMNS,
    VERSION,
    Connection,
    dimensions,
    joined,
    value,
)
from speakerverif.inference.samples import Embeddings, Sample, stored_sample
from speakerverif.scoring.normalization import owner_sums, unit

_READ_ROWS = 20_000  # embeddings read from the file at a time
_COLUMNS = ("embedding", *RECORDING_COLUMNS)
_SEALED = {"embedding", "path", "sha256", "audio"}


def next_row(db: Connection, table: str) -> int:
    """Return the id that the next row of a table gets; ids of removed rows are not used again."""
    return 1 + (value(db, "SELECT seq FROM sqlite_sequence WHERE name = ?", table) or 0)


def speaker_row(db: Connection, name: str) -> int | None:
    """Return the id of a speaker by name; None where nobody of that name is enrolled."""
    row = db.execute(
        "SELECT id, name FROM speakers WHERE name BETWEEN ? AND ?", db.seal.bounds(name, "name")
    ).fetchone()
    if row is None:
        return None
    db.seal.open(row[1], "name", row[0], row[0])  # refuses a name that was moved to another speaker
    return int(row[0])


def enrolled_row(db: Connection, name: str, folder: Path) -> int:
    """Return the id of a speaker by name, or raise `InputError` where nobody of that name is enrolled."""
    speaker = speaker_row(db, name)
    if speaker is None:
        raise InputError(f"{folder}: nobody named {name!r} is enrolled")
    return speaker


def speaker_names(db: Connection) -> dict[int, str]:
    """Return id -> name of all speakers."""
    rows = db.execute("SELECT id, name FROM speakers")
    return {row: str(db.seal.open(stored, "name", row, row)) for row, stored in rows}


def name_of(db: Connection, speaker: int) -> str | None:
    """Return the name of a speaker by id; None where there is no such speaker."""
    stored = value(db, "SELECT name FROM speakers WHERE id = ?", speaker)
    return None if stored is None else str(db.seal.open(stored, "name", speaker, speaker))


def add_speaker(db: Connection, name: str) -> int:
    """Add a speaker without recordings, and return the id."""
    row = next_row(db, "speakers")
    db.execute("INSERT INTO speakers VALUES (?, ?)", (row, db.seal.seal(name, "name", row, row)))
    return row


def add_recording(db: Connection, row: int, speaker: int, values: dict[str, Any]) -> None:
    """Add a recording with its values by column."""
    sealed = [
        db.seal.seal(fact, column, row, speaker) if column in _SEALED else fact
        for column, fact in values.items()
    ]
    columns = ", ".join(("id", "speaker", *values))
    db.execute(
        f"INSERT INTO utterances ({columns}) VALUES (?, ?{', ?' * len(values)})", (row, speaker, *sealed)
    )


def read_samples(db: Connection, speaker: int, audio: bool) -> list[Sample]:
    """Return the recordings of a speaker, in the order of their enrolment."""
    columns = ["embedding"]
    if value(db, "PRAGMA user_version") >= VERSION:
        columns += [column for column in RECORDING_COLUMNS if audio or column != "audio"]
    rows = db.execute(
        f"SELECT id, {', '.join(columns)} FROM utterances WHERE speaker = ? ORDER BY id", (speaker,)
    )
    dim = dimensions(db)
    samples = []
    for row, *stored in rows:
        facts = {
            column: db.seal.open(fact, column, row, speaker) if column in _SEALED else fact
            for column, fact in zip(columns, stored, strict=True)
            if fact is not None
        }
        embedding = np.frombuffer(joined([facts.pop("embedding", None)], dim), "<f4")
        samples.append(stored_sample(embedding, facts))
    return samples


def read_models(db: Connection, where: str, *values: int) -> tuple[NDArray[np.int64], Embeddings]:
    """Return ids, ascending, and models of the speakers of the utterances that an SQL clause selects."""
    ids = db.execute(f"SELECT DISTINCT speaker FROM utterances {where} ORDER BY speaker", values)
    rows = [speaker for (speaker,) in ids]
    if not all(isinstance(speaker, int) for speaker in rows):
        raise ValueError("a recording without a speaker; restore a backup")
    speakers, dim = np.array(rows, np.int64), dimensions(db)
    sums = np.zeros((len(speakers), dim), np.float32)
    for owners, embeddings in _blocks(db, where, values, dim):
        some, owner = np.unique(owners, return_inverse=True)
        sums[np.searchsorted(speakers, some)] += owner_sums(unit(embeddings), owner, len(some))
    return speakers, unit(sums)


def _blocks(
    db: Connection, where: str, values: tuple[int, ...], dim: int
) -> Iterator[tuple[list[int], Embeddings]]:
    """Yield speakers (N,) and embeddings (N, D), a block at a time."""
    rows = db.execute(f"SELECT id, speaker, embedding FROM utterances {where}", values)
    while block := rows.fetchmany(_READ_ROWS):
        blobs = [db.seal.open(blob, "embedding", row, speaker) for row, speaker, blob in block]
        embeddings = np.frombuffer(joined(blobs, dim), "<f4").reshape(len(block), dim)
        yield [speaker for _, speaker, _ in block], embeddings
