"""Open-set identification: the enrolled speaker of a recording, or none of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreKind
from speakerverif.errors import InputError
from speakerverif.inference.embed import embed_all
from speakerverif.inference.enrollment import Store
from speakerverif.inference.scale import Scale
from speakerverif.models.folder import ModelFolder

# Enrolled speakers nearest by cosine similarity, who are then scored as the model scores: back end, normalisation.
NEAREST = 100


@dataclass(frozen=True)
class Identification:
    """The most similar speakers, and whether the best of them is similar enough.

    Attributes:
        candidates: (name, score) pairs, best first; the scores that `verify` gives.
        threshold: of the decision, a score; None: no decision was made, or quality measures count too.
        name: the best candidate, where it was accepted; None: it was refused, or no decision was made.
        kind: of the scores: cosine similarities, a PLDA's, normalised ones.
        llrs: of the candidates, calibrated natural-log likelihood ratios; None without a calibration.
        llr_threshold: of the decision, a likelihood ratio; None: no decision, or one by a threshold given.
        margin: best score less the runner-up's; None where one speaker is enrolled.
        enrolled: how many speakers are.
        probability: P(best candidate) at a 50 % prior of an enrolled speaker, shared equally by all enrolled; None
            without a calibration. See `log_odds`.
        decided: whether a decision was made.
        duration_s: of the recording.
        speech_s: active speech in it.
        fingerprint: of the model.
        calibration: file of the calibration; None: the model's own, or none.
    """

    candidates: tuple[tuple[str, float], ...]
    threshold: float | None
    name: str | None
    kind: ScoreKind
    llrs: tuple[float, ...] | None
    llr_threshold: float | None
    margin: float | None
    enrolled: int
    probability: float | None
    decided: bool
    duration_s: float
    speech_s: float
    fingerprint: str
    calibration: str | None = None


def identify(
    folder: ModelFolder,
    store: Store,
    recording: str | Path,
    *,
    top: int = 5,
    threshold: float | None = None,
    llr_threshold: float | None = None,
    calibration: str | Path | None = None,
    use_index: bool = False,
    device: str = "cpu",
) -> Identification:
    """Return the enrolled speakers most similar to a recording, and the decision where one can be made.

    A threshold is on the scale of `verify`'s: the best candidate is accepted where `verify` accepts it. A stranger has
    as many chances to be taken for somebody as there are speakers enrolled: with a false-alarm rate f per comparison,
    the rate among N is up to N f.

    Args:
        folder: the loaded model.
        store: of that model.
        recording: an audio file.
        top: how many candidates to return.
        threshold: accept at this score or above.
        llr_threshold: accept at this log likelihood ratio or above, where there is a calibration. With neither, at
            the operating point that the calibration chose, if it chose one.
        calibration: a calibration's file, in place of the store's and the model's own.
        use_index: search the store's index; for hundreds of thousands of speakers.
        device: where the model is.

    Raises:
        InputError: a recording that can't be embedded; nobody enrolled; a calibration or threshold that doesn't fit.
    """
    scale = Scale.of(folder, calibration, store.folder)
    scale.check(threshold, llr_threshold)
    table = embed_all(folder, [recording], device)
    return identify_all(scale, store, table, top, threshold, llr_threshold, use_index)[0]


def identify_all(
    scale: Scale,
    store: Store,
    table: EmbeddingTable,
    top: int = 5,
    threshold: float | None = None,
    llr_threshold: float | None = None,
    use_index: bool = False,
) -> list[Identification]:
    """Return the identification of each recording of a table; as `identify`."""
    scale.check(threshold, llr_threshold)
    if top < 1:
        raise InputError(f"identify: top {top}: expected one candidate or more")
    enrolled = len(store)
    results = []
    for row in range(len(table)):
        recording = EmbeddingTable(
            table.ids[row : row + 1],
            table.embeddings[row : row + 1],
            table.durations[row : row + 1],
            table.speech[row : row + 1],
            ["ok"],
            table.fingerprint,
        )
        names = [name for name, _ in store.search(table.embeddings[row], max(top, NEAREST), use_index)]
        names, people = store.samples_of(names)
        if not names:
            raise InputError(f"{store.folder}: nobody is enrolled")
        compared = scale.compare(people, recording)
        # Of equal scores the one with the higher cosine similarity, then who was enrolled first, comes first.
        order = np.argsort(-compared.scores[:, 0], kind="stable")
        scores = compared.scores[order, 0]
        llrs = None if compared.llrs is None else compared.llrs[order, 0]
        best = None if llrs is None else float(llrs[0])
        decision = scale.decide(float(scores[0]), best, threshold, llr_threshold)
        results.append(
            Identification(
                candidates=tuple((names[i], float(s)) for i, s in zip(order[:top], scores, strict=False)),
                threshold=decision.threshold,
                name=names[order[0]] if decision.accepted else None,
                kind=compared.kind,
                llrs=None if llrs is None else tuple(llrs[:top].tolist()),
                llr_threshold=decision.llr_threshold,
                margin=float(scores[0] - scores[1]) if len(scores) > 1 else None,
                enrolled=enrolled,
                probability=None if llrs is None else 0.5 * (1 + math.tanh(log_odds(llrs, enrolled) / 2)),
                decided=decision.accepted is not None,
                duration_s=float(table.durations[row]),
                speech_s=float(table.speech[row]),
                fingerprint=table.fingerprint,
                calibration=scale.file,
            )
        )
    return results


def log_odds(llrs: NDArray[np.float64] | Sequence[float], enrolled: int, prior: float = 0.5) -> float:
    """Return the natural-log odds that the best candidate speaks, against all other enrolled speakers and strangers.

    By Bayes' rule over the enrolled, equally likely, and a stranger: the best candidate's likelihood ratio times
    prior / enrolled, divided by the sum of that over the others and of 1 - prior. A close runner-up and a large
    gallery lower it.

    Args:
        llrs: natural-log likelihood ratios (N,) of the candidates, against a stranger.
        enrolled: how many speakers are, N or more; those who aren't candidates add nothing to the sum.
        prior: probability that the speaker is enrolled at all.
    """
    weights = np.sort(np.asarray(llrs, np.float64))[::-1] + math.log(prior / enrolled)
    return float(weights[0] - np.logaddexp.reduce([*weights[1:], math.log1p(-prior)]))
