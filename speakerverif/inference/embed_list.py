"""Long lists embedded part by part: a run that was killed continues where it was, and ends in the same table.

The parts are files in the folder `<table>.parts`, which vanishes when the table is written.
"""

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import replacing, write_json
from speakerverif._util.json_files import read_json
from speakerverif._util.messages import named
from speakerverif._util.progress import Progress
from speakerverif._util.tar import archive_of
from speakerverif.audio.channels import Channel
from speakerverif.audio.reading import Files
from speakerverif.data._manifest_files import Listed
from speakerverif.data._npz import read_arrays, write_arrays
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.tables import check_ending, write_tables
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.inference._spooled_list import SpooledList
from speakerverif.inference.embed import BATCH_SIZE, GPU_BATCH_SIZE, embed
from speakerverif.models.folder import ModelFolder

# A part has this many batches, and about this many bytes of audio per recording of a batch at most.
PART_BATCHES = 16
PART_BYTES = 4 << 20
# Bytes of a second of audio, where a list gives the duration: 16 bits at 16 kHz.
BYTES_PER_S = 32_000
PARTS_VERSION = 2
LIST, PLAN = "list.db", "plan.json"
_ARRAYS = ("ids", "embeddings", "durations", "speech")
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
    rows: Manifest | Iterable[Listed],
    out: Path,
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    crops: int = 0,
    channel: Channel = None,
) -> EmbeddedList:
    """Write the table of a list's embeddings, in the list's order; continues where a former run was stopped.

    Memory doesn't grow with the list, only with the recordings that can't be embedded. A run that was stopped at any
    point, and the next one, write the same bytes as a run that was not: parts begin and end at the same recordings, and
    none is done twice, except where a recording has changed since.

    Args:
        folder: the loaded model.
        rows: the list; utterances with their lines are taken one after the other, once.
        out: the table to write; its ending says in which format.
        device: as of `embed`.
        batch_size: as of `embed`.
        crops: as of `embed`.
        channel: of recordings that have several and name none; as of `reading.read`.

    Raises:
        InputError: another ending, a repeated id, parts of another list or model, another process at work on the same
            table, or nothing could be embedded.
    """
    check_ending(out)
    batch_size = batch_size or (BATCH_SIZE if device == "cpu" else GPU_BATCH_SIZE)
    listed = (Listed(row, u) for row, u in enumerate(rows, 1)) if isinstance(rows, Manifest) else rows
    plan = {
        "parts": PARTS_VERSION,
        "model": folder.fingerprint,
        "engine": folder.engine,
        "precision": folder.precision,
        "device": device,
        "batch_size": batch_size,
        "crops": crops,
        "channel": channel,
    }
    parts = Path(f"{out}.parts")
    with _locked(parts), closing(SpooledList(parts / LIST, listed)) as spooled:
        _check_plan(parts / PLAN, plan | {"list": spooled.digest})
        for stale in (*parts.glob("*.part"), *_stale(out)):
            stale.unlink()
        finished: list[Path] = []
        start = resumed = 0
        with Progress(len(spooled), "embed", "recording") as progress:
            while start < len(spooled):
                part = _next_part(spooled, start, batch_size)
                path = parts / f"{start:09d}-{start + len(part.utterances):09d}.npz"
                if _is_finished(path, part):
                    resumed += len(part.utterances)
                else:
                    some = Manifest.from_utterances(part.utterances)
                    options: Any = {"device": device, "batch_size": batch_size, "crops": crops, "label": ""}
                    _write_part(path, part, embed(folder, some, source=Files(channel), **options))
                finished.append(path)
                start += len(part.utterances)
                progress.update(len(part.utterances))
        if resumed:
            _log.info(f"{parts}: {resumed:,} of {len(spooled):,} recordings were done by a former run")
        tables = _PartTables(finished, folder.fingerprint)
        if len(tables):
            write_tables(tables, out)
        shutil.rmtree(parts)
    if not len(tables):
        name, reason = next(iter(tables.failed.items()))
        raise InputError(f"nothing could be embedded; no file was written; {name}: {reason}")
    embedded = len(spooled) - len(tables.failed)
    return EmbeddedList(embedded, folder.model.embedding_dim, tables.failed, resumed)


class _PartTables(Sequence[EmbeddingTable]):
    """The parts as tables, each read from its file when it is asked for; parts without embeddings are left out."""

    def __init__(self, files: Iterable[Path], fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._files: list[Path] = []
        self.failed: dict[str, str] = {}
        for path in files:
            arrays = read_arrays(path, ("ids", "failed", "reasons"))
            self.failed |= zip(arrays["failed"].tolist(), arrays["reasons"].tolist(), strict=True)
            if len(arrays["ids"]):
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
            arrays["ids"].tolist(),
            arrays["embeddings"],
            arrays["durations"],
            arrays["speech"],
            ["ok"] * len(arrays["ids"]),
            self._fingerprint,
        )


@contextmanager
def _locked(parts: Path) -> Iterator[None]:
    """Hold a folder of parts, made where it is missing, against other processes.

    A folder that holds no part when the block fails is removed.

    Raises:
        InputError: another process holds it, or it can't be written.
    """
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
        try:
            yield
        except InputError:
            if not (parts / PLAN).exists():
                shutil.rmtree(parts, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _check_plan(record: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a first run; raise `InputError` where a former run had another."""
    if not record.is_file():
        write_json(record, plan)
        return
    former = read_json(record, "remove the folder to begin again")
    other = [name for name in plan if former.get(name) != plan[name]]
    if other:
        raise InputError(
            f"{record.parent}: holds the parts of a run with another {', '.join(other)}; finish that run, "
            "or remove the folder to begin again"
        )


def _stale(out: Path) -> list[Path]:
    """Return the files that a killed process left next to the table; no other is at work on it while it is locked."""
    target = Path(os.path.realpath(out))
    names = re.compile(re.escape(target.stem) + r"\.(npz|ark|scp|parquet)\.\d+\.part")
    return [path for path in target.parent.iterdir() if names.fullmatch(path.name)]


@dataclass(frozen=True)
class _Part:
    """Consecutive utterances, and the state of their files before they are read.

    Attributes:
        utterances: in the list's order.
        stamps: int64 (utterances, 2): size in bytes and time of change in ns of each file; -1 where there is none.
    """

    utterances: list[Utterance]
    stamps: NDArray[np.int64]


def _next_part(spooled: SpooledList, start: int, batch_size: int) -> _Part:
    """Return the part that begins at a row; it depends on the list and the sizes of its files alone."""
    utterances = spooled.rows(start, PART_BATCHES * batch_size)
    stamps = np.full((len(utterances), 2), -1, np.int64)
    left = float(PART_BYTES * batch_size)
    for row, utterance in enumerate(utterances):
        stamps[row] = _stamp(utterance.path)
        if utterance.duration_s is not None:
            left -= BYTES_PER_S * utterance.duration_s
        else:
            left -= max(0, stamps[row, 0])
        if left <= 0:
            return _Part(utterances[: row + 1], stamps[: row + 1])
    return _Part(utterances, stamps)


def _stamp(path: str) -> tuple[int, int]:
    """Return size and time of change of a recording's file, or of the archive that it is in."""
    try:
        found = os.stat(archive_of(path) or path)  # noqa: PTH116 (Path is slow, a million times)
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _is_finished(path: Path, part: _Part) -> bool:
    """Return whether a part was embedded by a former run, and its recordings are as they were then."""
    if not path.is_file():
        return False
    try:
        former = read_arrays(path, ("stamps",))["stamps"]
    except (InputError, KeyError):
        _log.warning(f"{path}: damaged; its recordings are embedded again")
        return False
    if former.shape != part.stamps.shape:
        return False
    changed = np.flatnonzero((former != part.stamps).any(1))
    if len(changed):
        names = named([part.utterances[i].id for i in changed.tolist()])
        _log.warning(
            f"{len(changed)} recordings changed since they were embedded, and are embedded again: {names}"
        )
    return not len(changed)


def _write_part(path: Path, part: _Part, table: EmbeddingTable) -> None:
    failed = [u.id for u in part.utterances if u.id in table.failed]
    arrays: dict[str, NDArray[Any]] = {
        "ids": np.array(table.ids, np.str_),
        "embeddings": np.asarray(table.embeddings, np.float32),
        "durations": np.asarray(table.durations, np.float32),
        "speech": np.asarray(table.speech, np.float32),
        "failed": np.array(failed, np.str_),
        "reasons": np.array([table.failed[name] for name in failed], np.str_),
        "stamps": part.stamps,
    }
    # An array of texts of no characters has no size, which the reader refuses.
    arrays = {n: a.astype("<U1") if a.dtype == np.dtype("<U0") else a for n, a in arrays.items()}
    with replacing(path) as file:
        write_arrays(file, {name: (array.dtype, array.shape, [array]) for name, array in arrays.items()})
