"""Two recordings, or a recording and an enrolled speaker, to one answer: how alike the speakers are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakerverif.checkpoint import ModelFolder
from speakerverif.embed import embed_all
from speakerverif.errors import InputError
from speakerverif.lists import EmbeddingTable
from speakerverif.norm import unit
from speakerverif.store import Store


@dataclass(frozen=True)
class Verification:
    """One comparison.

    A score by itself decides nothing, because a threshold that fits one kind of recording is wrong for another:
    `same_speaker` is None unless the model is calibrated or a threshold was given.

    Attributes:
        score: cosine similarity, in [-1, 1]; higher means more likely the same speaker.
        llr: calibrated natural-log likelihood ratio; None without a calibration.
        same_speaker: the decision, or None.
        threshold: what the decision was made at, a score, or None.
        durations_s: of the recordings.
        speech_s: active speech in them.
        fingerprint: of the model.
    """

    score: float
    llr: float | None
    same_speaker: bool | None
    threshold: float | None
    durations_s: tuple[float, ...]
    speech_s: tuple[float, ...]
    fingerprint: str


def verify(
    folder: ModelFolder,
    enroll: str | Path,
    test: str | Path,
    *,
    threshold: float | None = None,
    llr_threshold: float | None = None,
    device: str = "cpu",
) -> Verification:
    """Return how alike the speakers of two recordings are.

    Args:
        folder: the loaded model.
        enroll: an audio file.
        test: an audio file.
        threshold: accept at this score or above.
        llr_threshold: accept at this log likelihood ratio or above, where the model is calibrated. With neither, a
            calibrated model decides at the operating point that its calibration chose, if it chose one.
        device: where the model is.

    Raises:
        InputError: a recording can't be embedded (unreadable, silent, too short, ...).
    """
    table = embed_all(folder, [enroll, test], device)
    return _compare(folder, table, table.embeddings[0], table.embeddings[1], threshold, llr_threshold)


def verify_enrolled(
    folder: ModelFolder,
    store: str | Path,
    name: str,
    test: str | Path,
    *,
    threshold: float | None = None,
    llr_threshold: float | None = None,
    device: str = "cpu",
) -> Verification:
    """Return how alike an enrolled speaker and the speaker of a recording are; as `verify`.

    Raises:
        InputError: as `verify`; no such store, one of another model, nobody of that name.
    """
    names, models = Store(store, folder.fingerprint).models()
    if name not in names:
        raise InputError(f"{store}: nobody named {name!r} is enrolled")
    table = embed_all(folder, [test], device)
    return _compare(folder, table, models[names.index(name)], table.embeddings[0], threshold, llr_threshold)


def _compare(
    folder: ModelFolder,
    table: EmbeddingTable,
    enroll: np.ndarray,
    test: np.ndarray,
    threshold: float | None,
    llr_threshold: float | None,
) -> Verification:
    """Return the comparison of two embeddings; `table` is of the recordings among them."""
    pair = unit(np.stack([enroll, test]))
    score = float(pair[0] @ pair[1])
    calibration, llr = folder.calibration, None
    if calibration is not None:
        llr = float(calibration.llr(np.array([[score]]))[0])
        if llr_threshold is None and calibration.point is not None:
            llr_threshold = calibration.point.threshold
        if threshold is None and llr_threshold is not None:
            threshold = calibration.score_threshold(llr_threshold)
    return Verification(
        score=score,
        llr=llr,
        same_speaker=None if threshold is None else score >= threshold,
        threshold=threshold,
        durations_s=tuple(table.durations.tolist()),
        speech_s=tuple(table.speech.tolist()),
        fingerprint=table.fingerprint,
    )
