"""Recordings to embeddings: exact whatever the batch, in bounded memory, with a status for every file."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from speakerverif._util.allocator import release_freed_memory
from speakerverif._util.progress import Progress
from speakerverif._util.resources import cores, num_threads
from speakerverif.audio import reading
from speakerverif.audio.speech_check import REASONS
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.inference import chunks
from speakerverif.inference.chunks import Reading, Source, Utterances
from speakerverif.models.folder import ModelFolder
from speakerverif.models.onnx_model import OnnxModel

if TYPE_CHECKING:
    from speakerverif.models.model import SpeakerModel

logger = logging.getLogger(__name__)

# Seconds of audio in a batch, padding included: a CPU core gains nothing by more, and memory is bounded with it.
CORE_S, MOST_CORE_S, GPU_S = 12.0, 120.0, 600.0
BATCH_SIZE, GPU_BATCH_SIZE = 32, 256
# Seconds between returns of freed memory to the system, for long recordings and for others: memory fragments faster
# where all batches are large, and each return slows the next batch.
RELEASE_LONG_S, RELEASE_S = 1.0, 10.0
WHOLE = "whole utterance"

Result = tuple[np.ndarray | None, float, str]  # embedding, seconds of active speech, status


def embed(
    folder: ModelFolder,
    utterances: Utterances,
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    crops: int = 0,
    label: str = "embed",
    source: Source = reading,
) -> EmbeddingTable:
    """Return the embedding of every utterance; those that could not be embedded are in `table.failed`.

    The embedding of a recording depends on nothing but the recording and the model: not on the batch, the order or
    the day. Recordings longer than `pieces.WHOLE_S` are cut into equal pieces, and the unit embeddings of the
    pieces that hold speech are averaged.

    Args:
        folder: the loaded model.
        utterances: ids must differ; a manifest is taken row by row.
        device: "cpu" or "cuda"; the model must be there.
        batch_size: recordings that go through the encoder at once, at most; None: as many as pay on the device.
        crops: 0 embeds whole utterances; N averages the unit embeddings of N evenly spaced crops as long as the
            model's training crops.
        label: of the progress line; empty: there is none.
        source: reads what utterances name as their paths.

    Raises:
        InputError: no utterances at all.
    """
    if not len(utterances):
        raise InputError("nothing to embed: the list of recordings is empty")
    on_gpu = device != "cpu"
    batch_s = GPU_S if on_gpu else min(CORE_S * max(2, num_threads()), MOST_CORE_S)
    batch_size = batch_size or (GPU_BATCH_SIZE if on_gpu else BATCH_SIZE)
    start_s, duration_s, told, status = _times(utterances, source)
    cut = chunks.cut(start_s, duration_s, told, crops, folder.recipe.train.crop_s)
    vectors = np.zeros((len(utterances), folder.model.embedding_dim), np.float32)
    speech_s = np.zeros(len(utterances), np.float32)
    waiting: dict[int, list[Result]] = {}
    batches = chunks.read_ahead(source, utterances, cut, folder.model.sample_rate, batch_size, batch_s)
    released, release_s = time.monotonic(), RELEASE_LONG_S if cut.in_turn.any() else RELEASE_S
    with Progress(len(cut), label, "piece") if label else nullcontext() as progress:
        for readings in batches:
            for piece in readings:
                if piece.whole_s is not None:
                    duration_s[piece.row] = piece.whole_s
            for row, result in _results(folder.model, readings, device):
                results = waiting.setdefault(row, [])
                results.append(result)
                if len(results) == cut.parts[row]:
                    vector, speech_s[row], status[row] = _combine(waiting.pop(row))
                    if vector is not None:
                        vectors[row] = vector
            if progress is not None:
                progress.update(len(readings))
            if time.monotonic() - released > release_s:
                release_freed_memory()
                released = time.monotonic()
    return _table(utterances, vectors, duration_s, speech_s, status, folder.fingerprint)


def embed_all(
    folder: ModelFolder, paths: Sequence[str | Path], device: str = "cpu", source: Source = reading
) -> EmbeddingTable:
    """Return the embeddings of a few recordings, every one of them; their ids are their places in the list.

    Raises:
        InputError: a recording can't be embedded.
    """
    utterances = [Utterance(str(i), str(path), "") for i, path in enumerate(paths)]
    table = embed(folder, utterances, device=device, source=source)
    if table.failed:
        reasons = ((str(paths[int(i)]), why) for i, why in table.failed.items())
        raise InputError(
            "; ".join(why if path in why else f"{path}: {explained(why)}" for path, why in reasons)
        )
    return table


def embed_waveforms(
    model: "SpeakerModel | OnnxModel", waveforms: list[np.ndarray], device: str = "cpu"
) -> np.ndarray:
    """Return float32 (N, dim): embeddings of mono float32 waveforms at the model's rate, in one batch."""
    lengths = np.array([len(waveform) for waveform in waveforms])
    batch = np.zeros((len(waveforms), lengths.max()), np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    if isinstance(model, OnnxModel):
        return model.run(batch, lengths)
    import torch

    ragged = None if (lengths == lengths[0]).all() else torch.from_numpy(lengths).to(device)
    samples = torch.from_numpy(batch)
    if device != "cpu":
        samples = samples.pin_memory()
    with torch.inference_mode():
        embeddings = model(samples.to(device, non_blocking=True), ragged)
    array: np.ndarray = embeddings.float().cpu().numpy()
    return array


def _times(utterances: Utterances, source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Return start and duration of every utterance in seconds, whether the list gives the duration, and a status.

    A duration that the list doesn't give is the header's; nan where the file has none.
    """
    if isinstance(utterances, Manifest):
        start_s, duration_s = utterances.start_s, utterances.duration_s.copy()
    else:
        start_s = np.array([u.start_s for u in utterances])
        duration_s = np.array([np.nan if u.duration_s is None else u.duration_s for u in utterances])
    told, status = ~np.isnan(duration_s), ["ok"] * len(utterances)

    def look(row: int) -> None:
        try:
            duration_s[row] = source.info(utterances[row].path).duration_s - start_s[row]
        except InputError as error:
            status[row] = str(error)

    with ThreadPoolExecutor(cores()) as pool:
        deque(pool.map(look, np.flatnonzero(~told).tolist()), maxlen=0)
    return start_s, duration_s, told, status


def _results(
    model: "SpeakerModel | OnnxModel", readings: list[Reading], device: str
) -> Iterator[tuple[int, Result]]:
    """Yield (row, result) for the pieces of one batch."""
    good = [r.waveform for r in readings if r.status == "ok"]
    vectors = iter(embed_waveforms(model, good, device) if good else [])
    for one in readings:
        vector, status = None, one.status
        if status == "ok":
            vector = next(vectors)
            if not np.isfinite(vector).all():
                vector, status = None, "non_finite_embedding"
        yield one.row, (vector, one.speech_s, status)


def _combine(results: list[Result]) -> Result:
    """Return a recording's embedding from its pieces': a single one unchanged, several as their mean direction."""
    if len(results) == 1:
        return results[0]
    vectors = [vector for vector, _, _ in results if vector is not None]
    speech_s = sum(speech for _, speech, _ in results)
    broken = [status for _, _, status in results if status not in ("ok", "silent", "too_little_speech")]
    if broken or not vectors:
        return None, speech_s, (broken or [results[0][2]])[0]
    return np.mean([v / np.linalg.norm(v) for v in vectors], axis=0), speech_s, "ok"


def _table(
    utterances: Utterances,
    vectors: np.ndarray,
    duration_s: np.ndarray,
    speech_s: np.ndarray,
    status: list[str],
    fingerprint: str,
) -> EmbeddingTable:
    """Return the table of what could be embedded, in the order given; the others by name in `failed`."""
    good = np.array([one == "ok" for one in status])
    failed = {utterances[i].id: status[i] for i in np.flatnonzero(~good).tolist()}
    if failed:
        vectors, duration_s, speech_s = vectors[good], duration_s[good], speech_s[good]
    return EmbeddingTable(
        ids=[utterance.id for utterance, ok in zip(utterances, good, strict=True) if ok],
        embeddings=vectors,
        durations=duration_s.astype(np.float32),
        speech=speech_s,
        status=["ok"] * len(vectors),
        fingerprint=fingerprint,
        failed=failed,
    )


def print_failures(failed: Mapping[str, str]) -> None:
    """Report the recordings that could not be embedded, each with its reason."""
    for name, reason in failed.items():
        where = "" if reason.startswith(f"{name}: ") else f"{name}: "
        line = f"not embedded: {where}{explained(reason)}".replace("\n", "\\n")
        logger.warning(line)


def explained(status: str) -> str:
    """Return a status with its meaning; a reason in words unchanged."""
    meaning = REASONS.get(status)
    return f"{status} ({meaning})" if meaning else status
