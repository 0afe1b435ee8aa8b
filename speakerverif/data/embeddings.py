"""Embedding tables."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import replacing
from speakerverif._util.messages import named
from speakerverif.data import _columns
from speakerverif.data._npz import read_arrays, write_arrays
from speakerverif.errors import InputError


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of utterances by id, with the fingerprint of the model that computed them.

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
        """Return the row indices of ids, int64.

        Raises:
            InputError: ids that are not in the table, with their number and the first few.
        """
        rows = np.fromiter(map(self._row.get, ids, repeat(-1)), np.int64, len(ids))
        missing = list(dict.fromkeys(ids[i] for i in np.flatnonzero(rows < 0).tolist()))
        if missing:
            raise InputError(f"no embedding for {len(missing)} files: {named(missing)}")
        return rows

    def save(self, path: str | Path) -> None:
        """Write an `.npz` of plain arrays, without pickles."""
        save_parts([self], path)

    @classmethod
    def load(cls, path: str | Path) -> "EmbeddingTable":
        """Return the table in an `.npz` file; only `ids` and `embeddings` are required.

        Raises:
            InputError: as `_npz.read_arrays` and `_columns.checked`.
        """
        return cls.checked(str(path), read_arrays(path, _columns.NAMES))

    @classmethod
    def checked(cls, where: str, arrays: dict[str, NDArray[Any]]) -> "EmbeddingTable":
        """Return a table of the given columns by name; errors as `_columns.checked`."""
        return cls(*_columns.checked(where, arrays))


def save_parts(parts: Sequence[EmbeddingTable], path: str | Path) -> None:
    """Write consecutive parts of a table to one `.npz` file, whose bytes don't depend on the division into parts.

    Args:
        parts: at least one; iterated once per column, so they may be read from disk each time.
        path: the file.
    """
    rows = sum(map(len, parts))
    texts: dict[str, Callable[[EmbeddingTable], Sequence[str]]] = {
        "ids": lambda part: part.ids,
        "status": lambda part: part.status,
    }
    numbers: dict[str, Callable[[EmbeddingTable], NDArray[np.float32]]] = {
        "embeddings": lambda part: part.embeddings,
        "durations": lambda part: part.durations,
        "speech": lambda part: part.speech,
    }
    types = {
        name: np.dtype(f"<U{max(1, max(max(map(len, column(part)), default=1) for part in parts))}")
        for name, column in texts.items()
    }
    dim = parts[0].embeddings.shape[1]
    fingerprint = np.array(parts[0].fingerprint, np.str_)
    arrays = {
        name: (np.dtype("<f4"), (rows, dim) if name == "embeddings" else (rows,), map(column, parts))
        for name, column in numbers.items()
    }
    written: dict[str, tuple[np.dtype[Any], tuple[int, ...], Iterable[NDArray[Any]]]] = {
        "ids": (types["ids"], (rows,), (np.array(part.ids, types["ids"]) for part in parts)),
        **arrays,
        "status": (types["status"], (rows,), (np.array(part.status, types["status"]) for part in parts)),
        "fingerprint": (fingerprint.dtype, (), [fingerprint]),
    }
    with replacing(path) as file:
        write_arrays(file, written)
