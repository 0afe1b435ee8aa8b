"""Two recordings, or a recording and an enrolled speaker, to one answer: how alike the speakers are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speakerverif.audio import reading
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreKind
from speakerverif.errors import InputError
from speakerverif.inference.chunks import Source
from speakerverif.inference.embed import embed_all
from speakerverif.inference.enrollment import Store
from speakerverif.inference.samples import Sample
from speakerverif.inference.scale import Scale, probability
from speakerverif.models.folder import ModelFolder


@dataclass(frozen=True)
class Verification:
    """One comparison.

    A score by itself decides nothing, because a threshold that fits one kind of recording is wrong for another:
    `same_speaker` is None unless the model is calibrated or a threshold was given.

    Attributes:
        score: as the model scores; higher means more likely the same speaker.
        kind: of the score: a cosine similarity in [-1, 1], a PLDA's, a normalised one.
        llr: calibrated natural-log likelihood ratio; None without a calibration.
        probability: P(same speaker) at a 50 % prior; None without a calibration.
        same_speaker: the decision, or None.
        threshold: of the decision, a score; None: none was made, or quality measures count too.
        llr_threshold: of the decision, a likelihood ratio; None: no decision, or one by a threshold given.
        durations_s: of the recordings.
        speech_s: active speech in them.
        fingerprint: of the model.
        calibrated_on: the trials that the calibration was fitted on; None without a calibration.
        calibration: file of the calibration; None: the model's own, or none.
    """

    score: float
    kind: ScoreKind
    llr: float | None
    same_speaker: bool | None
    threshold: float | None
    llr_threshold: float | None
    durations_s: tuple[float, ...]
    speech_s: tuple[float, ...]
    fingerprint: str
    probability: float | None = None
    calibrated_on: str | None = None
    calibration: str | None = None


def verify(
    folder: ModelFolder,
    enroll: str | Path,
    test: str | Path,
    *,
    threshold: float | None = None,
    llr_threshold: float | None = None,
    calibration: str | Path | None = None,
    device: str = "cpu",
    source: Source = reading,
) -> Verification:
    """Return the comparison of the speakers of two recordings.

    Args:
        folder: the loaded model.
        enroll: an audio file.
        test: an audio file.
        threshold: accept at this score or above.
        llr_threshold: accept at this log likelihood ratio or above, where the model is calibrated. With neither, a
            calibrated model decides at the operating point that its calibration chose, if it chose one.
        calibration: a calibration's file in place of the model's own.
        device: where the model is.
        source: reads the recordings.

    Raises:
        InputError: a recording can't be embedded (unreadable, silent, too short, ...); a calibration that does not
            fit how the model scores; a threshold that isn't finite.
    """
    scale = Scale.of(folder, calibration)
    scale.check(threshold, llr_threshold)
    return compare_recordings(
        scale, embed_all(folder, [enroll, test], device, source), threshold, llr_threshold
    )


def verify_enrolled(
    folder: ModelFolder,
    store: str | Path,
    name: str,
    test: str | Path,
    *,
    threshold: float | None = None,
    llr_threshold: float | None = None,
    calibration: str | Path | None = None,
    device: str = "cpu",
    source: Source = reading,
) -> Verification:
    """Return the comparison of an enrolled speaker with the speaker of a recording; as `verify`.

    Raises:
        InputError: as `verify`; no such store, one of another model, no speaker of that name.
    """
    scale = Scale.of(folder, calibration, store)
    scale.check(threshold, llr_threshold)
    samples = Store(store, folder.fingerprint).samples(name)
    recording = embed_all(folder, [test], device, source)
    return compare(scale, samples, recording, threshold, llr_threshold)


def compare_recordings(
    scale: Scale, pair: EmbeddingTable, threshold: float | None, llr_threshold: float | None
) -> Verification:
    """Return the comparison of the two recordings of a table, the first as the enrolled one."""
    enrolled = [Sample(pair.embeddings[0], "", "", float(pair.durations[0]), float(pair.speech[0]))]
    return compare(scale, enrolled, pair, threshold, llr_threshold)


def compare_embeddings(
    scale: Scale,
    enroll: NDArray[np.floating],
    test: NDArray[np.floating],
    fingerprint: str,
    threshold: float | None = None,
    llr_threshold: float | None = None,
) -> Verification:
    """Return the comparison of embeddings of a model.

    Args:
        scale: of the model.
        enroll: (D,), or (N, D) of several recordings of the enrolled speaker.
        test: (D,).
        fingerprint: of the model.
        threshold: as for `verify`.
        llr_threshold: as for `verify`.

    Raises:
        InputError: other shapes; values that aren't finite; a calibration with quality measures other than the
            embeddings' magnitude, which embeddings alone don't give.
    """
    rows, query = np.atleast_2d(np.asarray(enroll, np.float32)), np.asarray(test, np.float32)
    if rows.ndim != 2 or query.ndim != 1 or rows.shape[1] != len(query) or not len(rows):
        raise InputError(
            f"compare: expected embeddings of shape (D,) or (N, D), and (D,); found {np.shape(enroll)} and "
            f"{np.shape(test)}"
        )
    for name, values in (("first", rows), ("second", query[None])):
        if not (np.isfinite(values).all() and np.any(values, axis=1).all()):
            raise InputError(f"compare: the {name} embedding is zero or not finite")
    scale.check(threshold, llr_threshold)
    unknown = np.full(1, np.nan, np.float32)
    table = EmbeddingTable(["test"], query[None], unknown, unknown, ["ok"], fingerprint)
    result = compare(scale, [Sample(row) for row in rows], table, threshold, llr_threshold)
    return replace(result, durations_s=(), speech_s=())


def compare(
    scale: Scale,
    enrolled: Sequence[Sample],
    recordings: EmbeddingTable,
    threshold: float | None,
    llr_threshold: float | None,
) -> Verification:
    """Return the comparison of a speaker's samples with the last recording; the durations of all are reported."""
    last = EmbeddingTable(
        recordings.ids[-1:],
        recordings.embeddings[-1:],
        recordings.durations[-1:],
        recordings.speech[-1:],
        recordings.status[-1:],
        recordings.fingerprint,
    )
    compared = scale.compare([enrolled], last)
    score = float(compared.scores[0, 0])
    llr = None if compared.llrs is None else float(compared.llrs[0, 0])
    decision = scale.decide(score, llr, threshold, llr_threshold)
    return Verification(
        score=score,
        kind=compared.kind,
        llr=llr,
        same_speaker=decision.accepted,
        threshold=decision.threshold,
        llr_threshold=decision.llr_threshold,
        durations_s=tuple(recordings.durations.tolist()),
        speech_s=tuple(recordings.speech.tolist()),
        fingerprint=recordings.fingerprint,
        probability=None if llr is None else probability(llr),
        calibrated_on=None if scale.calibration is None else scale.calibration.trials,
        calibration=scale.file,
    )
