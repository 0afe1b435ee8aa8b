"""Embedding tables."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from speakerverif._util.files import open_input, replacing
from speakerverif._util.messages import named, refuse_repeated
from speakerverif.errors import InputError


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of utterances, by id, and the fingerprint of the model that made them.

    Attributes:
        ids: N distinct ids.
        embeddings: float32 (N, dim).
        durations: float32 (N,), seconds of audio.
        speech: float32 (N,), seconds of active speech.
        status: N strings, `ok` or a named reason.
        fingerprint: of the model.
        failed: id -> reason, for utterances that could not be embedded; not written to the file.
    """

    ids: Sequence[str]
    embeddings: np.ndarray
    durations: np.ndarray
    speech: np.ndarray
    status: Sequence[str]
    fingerprint: str
    failed: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _row(self) -> dict[str, int]:
        return dict(zip(self.ids, range(len(self.ids)), strict=True))

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return int64 rows of the ids.

        Raises:
            InputError: ids that are not in the table, all counted and the first few named.
        """
        rows = np.fromiter(map(self._row.get, ids, repeat(-1)), np.int64, len(ids))
        missing = list(dict.fromkeys(ids[i] for i in np.flatnonzero(rows < 0).tolist()))
        if missing:
            raise InputError(f"no embedding for {len(missing)} files: {named(missing)}")
        return rows

    def save(self, path: str | Path) -> None:
        """Write an `.npz` of plain arrays, without pickles."""
        arrays = {
            "ids": np.array(self.ids, np.str_),
            "embeddings": np.asarray(self.embeddings, np.float32),
            "durations": np.asarray(self.durations, np.float32),
            "speech": np.asarray(self.speech, np.float32),
            "status": np.array(self.status, np.str_),
            "fingerprint": np.array(self.fingerprint, np.str_),
        }
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> "EmbeddingTable":
        """Return the table of an `.npz` file; only `ids` and `embeddings` must be in it.

        Raises:
            InputError: unreadable, not an `.npz` of plain arrays, columns that don't fit, an id twice.
        """
        with open_input(path) as file:
            try:
                loaded = np.load(file, allow_pickle=False)
                arrays: dict[str, Any] = {name: loaded[name] for name in loaded.files}
            except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
                raise InputError(f"{path}: expected an .npz file of plain arrays: {error}") from error
        lacking = [name for name in ("ids", "embeddings") if name not in arrays]
        if lacking:
            raise InputError(f"{path}: no array named {' or '.join(lacking)}; found {', '.join(arrays)}")
        ids, embeddings = (
            arrays["ids"].astype(np.str_, copy=False).tolist(),
            arrays["embeddings"].astype(np.float32, copy=False),
        )
        unknown = np.full(len(ids), np.nan, np.float32)
        columns = (
            embeddings,
            arrays.get("durations", unknown),
            arrays.get("speech", unknown),
            arrays["status"].tolist() if "status" in arrays else ["ok"] * len(ids),
        )
        if embeddings.ndim != 2 or any(len(column) != len(ids) for column in columns):
            shapes = ", ".join(f"{name} {np.shape(array)}" for name, array in arrays.items())
            raise InputError(f"{path}: expected embeddings (N, dim) and N of everything else, found {shapes}")
        table = cls(ids, *columns, fingerprint=str(arrays.get("fingerprint", "")))
        if len(table._row) < len(ids):
            refuse_repeated(ids, str(path), range(len(ids)))
        return table
