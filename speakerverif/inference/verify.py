"""Two recordings, or a recording and an enrolled speaker, to one answer: how alike the speakers are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreKind
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.inference.embed import embed_all
from speakerverif.inference.enrollment import Store
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring import quality_measures
from speakerverif.scoring.scorer import Scoring


@dataclass(frozen=True)
class Verification:
    """One comparison.

    A score by itself decides nothing, because a threshold that fits one kind of recording is wrong for another:
    `same_speaker` is None unless the model is calibrated or a threshold was given.

    Attributes:
        score: as the model scores; higher means more likely the same speaker.
        kind: what the score is: a cosine similarity in [-1, 1], a PLDA's, a normalised one.
        llr: calibrated natural-log likelihood ratio; None without a calibration.
        same_speaker: the decision, or None.
        threshold: what the decision was made at, a score; None: none was made, or quality measures count too.
        llr_threshold: the same as a likelihood ratio; None: no decision, or one by a threshold given.
        durations_s: of the recordings.
        speech_s: active speech in them.
        fingerprint: of the model.
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


@dataclass(frozen=True)
class Identification:
    """The most similar speakers, and whether the best of them is similar enough.

    Attributes:
        candidates: (name, cosine similarity) pairs, best first.
        threshold: the similarity asked for; None: no decision was asked for.
        name: the best candidate, where it was accepted; None: nobody was, or no decision was asked for.
    """

    candidates: tuple[tuple[str, float], ...]
    threshold: float | None
    name: str | None


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
        InputError: a recording can't be embedded (unreadable, silent, too short, ...); a calibration that does not
            fit how the model scores.
    """
    table = embed_all(folder, [enroll, test], device)
    return compare(folder, table, table.embeddings[:1], threshold, llr_threshold)


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
    enrolled = Store(store, folder.fingerprint).utterances(name)
    return compare(folder, embed_all(folder, [test], device), enrolled, threshold, llr_threshold)


def compare(
    folder: ModelFolder,
    recordings: EmbeddingTable,
    enrolled: NDArray,
    threshold: float | None,
    llr_threshold: float | None,
) -> Verification:
    """Return the comparison of a speaker's embeddings (N, D) with the last of the recordings.

    It is a list of one trial, so that nothing is scored another way than lists are.
    """
    scoring, calibration = Scoring.load(folder.path, folder.fingerprint), folder.calibration
    # With a space in it no id can be that of a file or speaker in the cohort.
    ids = [*(f"enrolled {i}" for i in range(len(enrolled))), "test recording"]
    trial = TrialList(
        ("enrolled model", ids[-1]), np.zeros(1, np.int32), np.ones(1, np.int32), None, "the pair"
    )
    first = len(recordings) - 1  # 0: nothing is known of the enrolled recordings but their embeddings
    durations, speech = (
        np.concatenate([column[:first], np.full(len(enrolled) - first, np.nan), column[first:]])
        for column in (recordings.durations, recordings.speech)
    )
    table = EmbeddingTable(
        ids,
        np.concatenate([enrolled, recordings.embeddings[-1:]]),
        durations,
        speech,
        ["ok"] * len(ids),
        folder.fingerprint,
    )
    enroll_map = {trial.ids[0]: ids[:-1]}
    scores, _ = scoring.score(trial, table, enroll_map)
    score, llr, same_speaker = float(scores.scores[0]), None, None
    if calibration is not None:
        if calibration.scoring not in ("", scoring.name):
            raise InputError(
                f"{folder.path}: calibrated on scores of {calibration.scoring}, but now scores by "
                f"{scoring.name}; calibrate it again"
            )
        quality = quality_measures.of_trials(calibration.measures, trial, table, enroll_map)
        llr = float(calibration.apply([scores], quality).scores[0])
        if llr_threshold is None and calibration.point is not None:
            llr_threshold = calibration.point.threshold
    if threshold is not None:
        same_speaker, llr_threshold = score >= threshold, None
    elif llr is not None and llr_threshold is not None and calibration is not None:
        same_speaker = llr >= llr_threshold
        threshold = None if calibration.quality else calibration.score_threshold(llr_threshold)
    return Verification(
        score=score,
        kind=scores.kind,
        llr=llr,
        same_speaker=same_speaker,
        threshold=threshold,
        llr_threshold=None if same_speaker is None else llr_threshold,
        durations_s=tuple(recordings.durations.tolist()),
        speech_s=tuple(recordings.speech.tolist()),
        fingerprint=folder.fingerprint,
    )
