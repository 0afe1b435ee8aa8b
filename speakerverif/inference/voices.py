"""Similarity of the voices in a recording, from the embeddings of its segments."""

import numpy as np
from numpy.typing import NDArray

from speakerverif.data.manifest import Utterance
from speakerverif.inference.chunks import Source
from speakerverif.inference.embed import embed
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring.normalization import unit

WINDOW_S, STEP_S = 3.0, 1.5
MAX_WINDOWS = 200  # per recording, evenly spread, so that the cost of an hour is bounded
# Fewer make groups of one window, and single windows of one voice may be unlike.
MIN_EMBEDDINGS = 4
_ROUNDS = 20  # iterations of the grouping, which converges after two or three


def windows(
    duration_s: float, window_s: float = WINDOW_S, step_s: float = STEP_S
) -> list[tuple[float, float]]:
    """Return (start, duration) of the windows of a recording, in seconds; one where it is shorter than two."""
    if not duration_s >= window_s + step_s:
        return [(0.0, duration_s)]
    count = int((duration_s - window_s) / step_s + 1e-6) + 1
    return [(round(i * step_s, 3), window_s) for i in range(count)]


def similarity_of_voices(embeddings: NDArray[np.floating]) -> float:
    """Return the cosine similarity of the two groups into which embeddings (N, D) fall; 1 for too few of them.

    The groups are those of spherical 2-means, started from the sign along the first principal axis: nothing is drawn
    at random. Recordings of one person fall into two groups too, but into similar ones.
    """
    if len(embeddings) < MIN_EMBEDDINGS:
        return 1.0
    rows = unit(np.asarray(embeddings, np.float64))
    centred = rows - rows.mean(axis=0)
    side = (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) > 0
    for _ in range(_ROUNDS):
        if side.all() or not side.any():
            return 1.0
        first, second = unit(np.stack([rows[side].mean(axis=0), rows[~side].mean(axis=0)]))
        closer = rows @ first > rows @ second
        if (closer == side).all():
            break
        side = closer
    return float(first @ second)


def similarity_within(
    folder: ModelFolder, recording: str, duration_s: float, source: Source, device: str = "cpu"
) -> float:
    """Return the similarity of the two groups into which a recording's segments fall.

    Args:
        folder: the loaded model.
        recording: as the source names it.
        duration_s: of the recording.
        source: reads it.
        device: where the model is.
    """
    spans = windows(duration_s)
    if len(spans) > MAX_WINDOWS:
        spans = [spans[i] for i in np.linspace(0, len(spans) - 1, MAX_WINDOWS).astype(int).tolist()]
    if len(spans) < MIN_EMBEDDINGS:
        return 1.0
    utterances = [Utterance(str(i), recording, "", start, length) for i, (start, length) in enumerate(spans)]
    return similarity_of_voices(embed(folder, utterances, device=device, source=source).embeddings)
