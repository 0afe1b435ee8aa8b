"""Two recordings to one answer: how alike their speakers are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakerverif.checkpoint import ModelFolder
from speakerverif.embed import embed
from speakerverif.errors import InputError
from speakerverif.lists import Utterance


@dataclass(frozen=True)
class Verification:
    """The comparison of two recordings.

    `same_speaker` is None unless a threshold was given: a score by itself decides nothing, because a threshold that
    fits one kind of recording is wrong for another.
    """

    score: float
    same_speaker: bool | None
    threshold: float | None
    durations_s: tuple[float, float]
    speech_s: tuple[float, float]
    fingerprint: str


def verify(
    folder: ModelFolder,
    enroll: str | Path,
    test: str | Path,
    threshold: float | None = None,
    device: str = "cpu",
) -> Verification:
    """Return the cosine similarity of two recordings' embeddings; higher means more likely the same speaker.

    Args:
        folder: the loaded model.
        enroll: an audio file.
        test: an audio file.
        threshold: accept at this score or above.
        device: where the model is.

    Raises:
        InputError: a recording can't be embedded (unreadable, silent, too short, ...).
    """
    utterances = [Utterance("enroll", str(enroll), ""), Utterance("test", str(test), "")]
    table = embed(folder, utterances, device=device, label="verify")
    if table.failed:
        paths = {"enroll": enroll, "test": test}
        raise InputError("; ".join(_reason(paths[side], why) for side, why in table.failed.items()))
    unit = table.embeddings / np.linalg.norm(table.embeddings, axis=1, keepdims=True)
    score = float(unit[0] @ unit[1])
    return Verification(
        score=score,
        same_speaker=None if threshold is None else score >= threshold,
        threshold=threshold,
        durations_s=(float(table.durations[0]), float(table.durations[1])),
        speech_s=(float(table.speech[0]), float(table.speech[1])),
        fingerprint=table.fingerprint,
    )


def _reason(path: str | Path, why: str) -> str:
    """Return the message of one recording; those about a file name it already."""
    return why if str(path) in why else f"{path}: {why}"
