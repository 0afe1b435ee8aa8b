"""Recordings to embeddings: exact whatever the batch, in bounded memory, with a status for every file."""

import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from speakerverif import audio
from speakerverif.checkpoint import ModelFolder
from speakerverif.errors import InputError
from speakerverif.lists import EmbeddingTable, Utterance
from speakerverif.model import SpeakerModel
from speakerverif.onnx_engine import OnnxModel
from speakerverif.progress import Progress
from speakerverif.quality import assess

LONGEST_PIECE_S = 120.0  # a longer recording is embedded in equal pieces of at most this
BATCH_AUDIO_S = 120.0  # padding included: with it the memory of a batch is bounded
BATCH_SIZE = 32
WHOLE = "whole utterance"


class Source(Protocol):
    """Where recordings are read: the module `audio`, or what stands in for files with the same two functions."""

    def info(self, path: str, /) -> audio.AudioInfo:
        """Return rate, channels and length."""

    def read(self, path: str, start_s: float, duration_s: float | None, sample_rate: int, /) -> np.ndarray:
        """Return the part as mono samples at `sample_rate`."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording that goes through the encoder at once."""

    row: int
    start_s: float
    duration_s: float
    to_end: bool = False  # read to where the file ends, which a header may have rounded


@dataclass(frozen=True)
class Embedded:
    """What became of one recording."""

    embedding: np.ndarray | None
    speech_s: float
    status: str


def embed(
    folder: ModelFolder,
    utterances: list[Utterance],
    *,
    device: str = "cpu",
    batch_size: int = BATCH_SIZE,
    crops: int = 0,
    label: str = "embed",
    source: Source = audio,
) -> EmbeddingTable:
    """Return the embedding of every utterance; those that could not be embedded are in `table.failed`.

    The embedding of a recording depends on nothing but the recording and the model: not on the batch, the order or
    the day. Recordings longer than `LONGEST_PIECE_S` are cut into equal pieces, and the unit embeddings of the
    pieces that hold speech are averaged.

    Args:
        folder: the loaded model.
        utterances: ids must differ.
        device: "cpu" or "cuda"; the model must be there.
        batch_size: recordings that go through the encoder at once, at most.
        crops: 0 embeds whole utterances; N averages the unit embeddings of N evenly spaced crops as long as the
            model's training crops.
        label: of the progress line.
        source: reads what utterances name as their paths.

    Raises:
        InputError: no utterances at all.
    """
    if not utterances:
        raise InputError("nothing to embed: the list of recordings is empty")
    table_rows: list[Embedded | None] = [None] * len(utterances)
    durations = np.zeros(len(utterances))
    pieces: list[Piece] = []
    for row, utterance in enumerate(utterances):
        try:
            durations[row] = _duration(utterance, source)
        except InputError as error:
            table_rows[row] = Embedded(None, 0.0, str(error))
            continue
        pieces += _cut(row, utterance, durations[row], crops, folder.recipe.train.crop_s)

    done: dict[int, list[tuple[np.ndarray | None, float, str]]] = {}
    with Progress(len(pieces), label, "piece") as progress:
        for piece, result in _embed_pieces(folder.model, utterances, pieces, device, batch_size, source):
            done.setdefault(piece.row, []).append(result)
            progress.update(1)
    for row, results in done.items():
        table_rows[row] = _combine(results)
    return _table(utterances, table_rows, durations, folder.fingerprint)


def embed_all(
    folder: ModelFolder, paths: Sequence[str | Path], device: str = "cpu", source: Source = audio
) -> EmbeddingTable:
    """Return the embeddings of a few recordings, every one of them; their ids are their places in the list.

    Raises:
        InputError: a recording can't be embedded.
    """
    utterances = [Utterance(str(i), str(path), "") for i, path in enumerate(paths)]
    table = embed(folder, utterances, device=device, source=source)
    if table.failed:
        reasons = ((str(paths[int(i)]), why) for i, why in table.failed.items())
        raise InputError("; ".join(why if path in why else f"{path}: {why}" for path, why in reasons))
    return table


def embed_waveforms(
    model: SpeakerModel | OnnxModel, waveforms: list[np.ndarray], device: str = "cpu"
) -> np.ndarray:
    """Return float32 (N, dim): embeddings of mono float32 waveforms at the model's rate, in one batch."""
    lengths = torch.tensor([len(w) for w in waveforms])
    batch = torch.zeros(len(waveforms), int(lengths.max()))
    for row, waveform in enumerate(waveforms):
        batch[row, : len(waveform)] = torch.from_numpy(waveform)
    ragged: Tensor | None = None if (lengths == lengths[0]).all() else lengths.to(device)
    with torch.inference_mode():
        return model(batch.to(device), ragged).float().cpu().numpy()


def _duration(utterance: Utterance, source: Source) -> float:
    """Return the seconds of an utterance, from the list or else from the file's header."""
    if utterance.duration_s is not None:
        return utterance.duration_s
    return source.info(utterance.path).duration_s - utterance.start_s


def _cut(row: int, utterance: Utterance, duration_s: float, crops: int, crop_s: float) -> list[Piece]:
    """Return the pieces of one recording: itself, equal parts of a long one, or evenly spaced crops."""
    if crops > 0 and duration_s > crop_s:
        starts = np.linspace(0, duration_s - crop_s, crops) if crops > 1 else [(duration_s - crop_s) / 2]
        return [Piece(row, utterance.start_s + float(start), crop_s) for start in starts]
    parts = max(1, math.ceil(duration_s / LONGEST_PIECE_S))
    length = duration_s / parts
    to_end = parts == 1 and utterance.duration_s is None
    return [Piece(row, utterance.start_s + i * length, length, to_end) for i in range(parts)]


def _batches(pieces: list[Piece], batch_size: int) -> Iterator[list[Piece]]:
    """Yield pieces of like length together, longest first, so that memory peaks at once and padding is short."""
    batch: list[Piece] = []
    for piece in sorted(pieces, key=lambda p: -p.duration_s):
        longest = batch[0].duration_s if batch else piece.duration_s
        if batch and (len(batch) == batch_size or (len(batch) + 1) * longest > BATCH_AUDIO_S):
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def _embed_pieces(
    model: SpeakerModel | OnnxModel,
    utterances: list[Utterance],
    pieces: list[Piece],
    device: str,
    batch_size: int,
    source: Source,
) -> Iterator[tuple[Piece, tuple[np.ndarray | None, float, str]]]:
    """Yield every piece with (embedding or None, seconds of speech, status); reading runs ahead of the encoder."""

    def read(piece: Piece) -> tuple[np.ndarray, float, str]:
        utterance = utterances[piece.row]
        wanted = None if piece.to_end else piece.duration_s
        try:
            waveform = source.read(utterance.path, piece.start_s, wanted, model.sample_rate)
        except InputError as error:
            return np.empty(0, np.float32), 0.0, str(error)
        quality = assess(waveform, model.sample_rate)
        return waveform, quality.speech_s, quality.status

    with ThreadPoolExecutor(max_workers=2) as pool:
        batches = _batches(pieces, batch_size)
        ahead = [(batch, pool.map(read, batch)) for batch in itertools.islice(batches, 2)]
        while ahead:
            batch, readings = ahead.pop(0)
            ahead += [(following, pool.map(read, following)) for following in itertools.islice(batches, 1)]
            results = list(readings)
            good = [i for i, (_, _, status) in enumerate(results) if status == "ok"]
            vectors = iter(embed_waveforms(model, [results[i][0] for i in good], device) if good else [])
            for piece, (_, speech_s, status) in zip(batch, results, strict=True):
                vector = next(vectors) if status == "ok" else None
                if vector is not None and not np.isfinite(vector).all():
                    vector, status = None, "non_finite_embedding"
                yield piece, (vector, speech_s, status)


def _combine(results: list[tuple[np.ndarray | None, float, str]]) -> Embedded:
    """Return a recording's embedding from its pieces': a single one as it is, several as their mean direction."""
    vectors = [vector for vector, _, _ in results if vector is not None]
    speech_s = sum(speech for _, speech, _ in results)
    broken = next(
        (status for _, _, status in results if status not in ("ok", "silent", "too_little_speech")), None
    )
    if not vectors or (broken and len(results) > 1):
        return Embedded(None, speech_s, broken or results[0][2])
    if len(results) == 1:
        return Embedded(vectors[0], speech_s, "ok")
    return Embedded(np.mean([v / np.linalg.norm(v) for v in vectors], axis=0), speech_s, "ok")


def _table(
    utterances: list[Utterance], rows: list[Embedded | None], durations: np.ndarray, fingerprint: str
) -> EmbeddingTable:
    """Return the table of what could be embedded, in the order given; the rest by name in `failed`."""
    good = [i for i, row in enumerate(rows) if row is not None and row.embedding is not None]
    failed = {
        utterances[i].id: row.status
        for i, row in enumerate(rows)
        if row is not None and row.embedding is None
    }
    dim = len(rows[good[0]].embedding) if good else 0  # type: ignore[union-attr, arg-type]
    return EmbeddingTable(
        ids=[utterances[i].id for i in good],
        embeddings=np.array([rows[i].embedding for i in good], np.float32).reshape(len(good), dim),  # type: ignore[union-attr]
        durations=durations[good].astype(np.float32),
        speech=np.array([rows[i].speech_s for i in good], np.float32),  # type: ignore[union-attr]
        status=["ok"] * len(good),
        fingerprint=fingerprint,
        failed=failed,
    )


def print_failures(table: EmbeddingTable) -> None:
    """List on standard error what could not be embedded and why."""
    for name, reason in table.failed.items():
        print(f"not embedded: {name}: {reason}", file=sys.stderr)
