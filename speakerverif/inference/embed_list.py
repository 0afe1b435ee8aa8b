"""Long lists embedded part by part: a run that was killed goes on where it was, and ends in the same table.

The parts are files in the folder `<table>.parts`, which vanishes when the table is written.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import replacing, write_json
from speakerverif._util.progress import Progress
from speakerverif.audio.channels import Channel
from speakerverif.audio.reading import Files
from speakerverif.data._npz import read_arrays, write_arrays
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.tables import check_ending, write_tables
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.inference.embed import BATCH_SIZE, GPU_BATCH_SIZE, embed
from speakerverif.models.folder import ModelFolder

# A part has this many batches, and about this many bytes of audio per recording of a batch at most.
PART_BATCHES = 16
PART_BYTES = 4 << 20
# Bytes of a second of audio, where a list gives the duration: 16 bits at 16 kHz.
BYTES_PER_S = 32_000
_NAME = re.compile(r"(\d{9,})-(\d{9,})\.npz")
_ARRAYS = ("row", "embeddings", "durations", "speech", "failed", "reasons")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedList:
    """The outcome of a list: how many recordings were embedded, in how many dimensions, and which were not.

    Attributes:
        embedded: number of rows of the table.
        dim: dimensions of an embedding.
        failed: id -> reason.
        resumed: number of recordings that a former run had finished.
    """

    embedded: int
    dim: int
    failed: dict[str, str]
    resumed: int


def embed_list(
    folder: ModelFolder,
    manifest: Manifest,
    out: Path,
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    crops: int = 0,
    channel: Channel = None,
) -> EmbeddedList:
    """Write the table of a list's embeddings, in the list's order; goes on where a former run was stopped.

    Memory doesn't grow with the list, apart from the list itself. A run that was stopped at any point, and the next
    one, write the same bytes as a run that was not: parts begin and end at the same recordings, and none is done twice.

    Args:
        folder: the loaded model.
        manifest: the list.
        out: the table to write; its ending says in which format.
        device: as of `embed`.
        batch_size: as of `embed`.
        crops: as of `embed`.
        channel: of recordings that have several and name none; as of `reading.read`.

    Raises:
        InputError: another ending, parts of another list or model, another process at work on the same table, or
            nothing could be embedded.
    """
    check_ending(out)
    batch_size = batch_size or (BATCH_SIZE if device == "cpu" else GPU_BATCH_SIZE)
    plan = {
        "list": _digest(manifest),
        "model": folder.fingerprint,
        "engine": folder.engine,
        "precision": folder.precision,
        "device": device,
        "batch_size": batch_size,
        "crops": crops,
        "channel": channel,
    }
    parts = Path(f"{out}.parts")
    with _locked(parts, plan):
        for stale in (*parts.glob("*.part"), *_stale(out)):
            stale.unlink()
        finished = _finished(parts, len(manifest))
        resumed = start = finished[-1][1] if finished else 0
        if resumed:
            _log.info(f"{parts}: {resumed:,} of {len(manifest):,} recordings are done; going on after them")
        with Progress(len(manifest), "embed", "recording", done=resumed) as progress:
            while start < len(manifest):
                end = _end_of_part(manifest, start, batch_size)
                some = manifest.select(np.arange(start, end))
                table = embed(
                    folder,
                    some,
                    device=device,
                    batch_size=batch_size,
                    crops=crops,
                    label="",
                    source=Files(channel),
                )
                _write_part(parts / f"{start:09d}-{end:09d}.npz", some, start, table)
                finished.append((start, end))
                progress.update(end - start)
                start = end
        tables = _PartTables(parts, finished, manifest, folder.fingerprint)
        failed = tables.failed
        if len(tables):
            write_tables(tables, out)
        shutil.rmtree(parts)
    if not len(tables):
        first = next(iter(failed.items()))
        raise InputError(f"nothing could be embedded; no file was written; {first[0]}: {first[1]}")
    return EmbeddedList(len(manifest) - len(failed), folder.model.embedding_dim, failed, resumed)


class _PartTables(Sequence[EmbeddingTable]):
    """The parts as tables, each read from its file when it is asked for; parts without embeddings are left out."""

    def __init__(
        self, folder: Path, finished: list[tuple[int, int]], manifest: Manifest, fingerprint: str
    ) -> None:
        self._manifest, self._fingerprint = manifest, fingerprint
        self._files: list[Path] = []
        self.failed: dict[str, str] = {}
        for start, end in finished:
            path = folder / f"{start:09d}-{end:09d}.npz"
            arrays = read_arrays(path, ("row", "failed", "reasons"))
            self.failed |= zip(self._ids(arrays["failed"]), arrays["reasons"].tolist(), strict=True)
            if len(arrays["row"]):
                self._files.append(path)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, i: int) -> EmbeddingTable: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[EmbeddingTable]: ...
    def __getitem__(self, i: int | slice) -> EmbeddingTable | Sequence[EmbeddingTable]:
        if isinstance(i, slice):
            return [self[place] for place in range(*i.indices(len(self)))]
        arrays = read_arrays(self._files[i], _ARRAYS)
        return EmbeddingTable(
            self._ids(arrays["row"]),
            arrays["embeddings"],
            arrays["durations"],
            arrays["speech"],
            ["ok"] * len(arrays["row"]),
            self._fingerprint,
        )

    def _ids(self, rows: NDArray[np.int64]) -> list[str]:
        return [name.decode() for name in self._manifest.ids[rows].tolist()]


@contextmanager
def _locked(parts: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Hold a folder of parts, made where it is missing, against other processes.

    Raises:
        InputError: another process holds it, or its parts are of another plan.
    """
    record = parts / "plan.json"
    try:
        parts.mkdir(parents=True, exist_ok=True)
        lock = os.open(parts / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{parts}: can't write: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{parts}: another process is writing this table") from error
        if record.is_file():
            former = json.loads(record.read_text("utf-8"))
            other = [name for name in plan if former.get(name) != plan[name]]
            if other:
                raise InputError(
                    f"{parts}: holds the parts of a run with another {', '.join(other)}; finish that run, "
                    "or remove the folder to begin anew"
                )
        else:
            write_json(record, plan)
        yield
    finally:
        os.close(lock)


def _digest(manifest: Manifest) -> str:
    """Return a hash of a list's content."""
    digest = hashlib.sha256(manifest.root.encode("utf-8", "surrogateescape"))
    for column in (manifest.ids, manifest.paths, manifest.start_s, manifest.duration_s, manifest.channel):
        digest.update(f"{column.dtype.str}{column.shape}".encode())
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    return digest.hexdigest()


def _stale(out: Path) -> list[Path]:
    """Return the files that a killed process left next to the table; no other is at work on it while it is locked."""
    target = Path(os.path.realpath(out))
    names = re.compile(re.escape(target.stem) + r"\.(npz|ark|scp|parquet)\.\d+\.part")
    return [path for path in target.parent.iterdir() if names.fullmatch(path.name)]


def _finished(parts: Path, size: int) -> list[tuple[int, int]]:
    """Return first row and end of the parts that follow each other from the first row on."""
    ends = {int(match[1]): int(match[2]) for path in parts.iterdir() if (match := _NAME.fullmatch(path.name))}
    finished, start = [], 0
    while start in ends and start < ends[start] <= size:
        finished.append((start, ends[start]))
        start = ends[start]
    return finished


def _end_of_part(manifest: Manifest, start: int, batch_size: int) -> int:
    """Return the end of the part that begins at `start`; it depends on the list and the sizes of its files alone."""
    left = float(PART_BYTES * batch_size)
    most = min(len(manifest), start + PART_BATCHES * batch_size)
    for row in range(start, most):
        duration_s = float(manifest.duration_s[row])
        if math.isnan(duration_s):
            try:
                left -= os.stat(manifest[row].path).st_size  # noqa: PTH116 (Path is slow, a million times)
            except (OSError, ValueError):
                continue
        else:
            left -= BYTES_PER_S * duration_s
        if left <= 0:
            return row + 1
    return most


def _write_part(path: Path, some: Manifest, start: int, table: EmbeddingTable) -> None:
    names = [name.decode() for name in some.ids.tolist()]
    good = [start + i for i, name in enumerate(names) if name not in table.failed]
    failed = [start + i for i, name in enumerate(names) if name in table.failed]
    arrays: dict[str, NDArray[Any]] = {
        "row": np.array(good, np.int64),
        "embeddings": np.asarray(table.embeddings, np.float32),
        "durations": np.asarray(table.durations, np.float32),
        "speech": np.asarray(table.speech, np.float32),
        "failed": np.array(failed, np.int64),
        "reasons": np.array([table.failed[names[row - start]] for row in failed], np.str_),
    }
    with replacing(path) as file:
        write_arrays(file, {name: (array.dtype, array.shape, [array]) for name, array in arrays.items()})
