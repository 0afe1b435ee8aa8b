"""Open-set identification, measured: labelled recordings searched in a store, or a labelled trial list of all pairs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speakerverif.data.scores import ScoreKind
from speakerverif.errors import InputError
from speakerverif.evaluation.open_set import OpenSetRecord, evaluate_open_set
from speakerverif.inference.embedded_people import MIN_COSINE
from speakerverif.inference.score_list import ScoreRequest, score_list
from speakerverif.inference.score_sources import NotEmbeddedError, Recordings
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.normalization import unit


@dataclass(frozen=True, kw_only=True)
class OpenSetSettings:
    """The figures to compute; see `evaluate_open_set`.

    Attributes:
        sizes: of the galleries; none: several.
        fpirs: false-positive rates whose thresholds are chosen.
        thresholds: fixed ones, likelihood ratios where there is a calibration, else scores.
        galleries: drawn per size.
        seed: of the draws.
    """

    sizes: Sequence[int] = ()
    fpirs: Sequence[float] = (0.01, 0.05)
    thresholds: Sequence[float] = ()
    galleries: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """Labelled recordings to search in a store.

    Attributes:
        probes: a list of recordings with their speakers, as `enroll --manifest` takes it.
        store: folder of the store.
        recordings: how they are embedded; its `scoring` and `crops` do nothing.
        calibration: a calibration's file, in place of the store's, the user's and the model's own.
        settings: the figures to compute.
    """

    probes: Path
    store: Path
    recordings: Recordings = field(default_factory=Recordings)
    calibration: Path | None = None
    settings: OpenSetSettings = field(default_factory=OpenSetSettings)


def score_identification(request: SearchRequest) -> OpenSetRecord:
    """Return the error rates of naming the speakers of recordings in a store, and in galleries drawn from it.

    They are of likelihood ratios where there is a calibration, whose threshold is measured too; else of scores.

    Raises:
        InputError: wrong input; a recording that is enrolled itself; see `evaluate_open_set`.
        NotEmbeddedError: recordings that can't be embedded, all named.
    """
    # They import torch, which a list of ready scores doesn't need.
    from speakerverif._util import resources
    from speakerverif.audio.reading import Files
    from speakerverif.inference.embed import embed, explained
    from speakerverif.inference.engines import load_for_inference
    from speakerverif.inference.enrollment import Store
    from speakerverif.inference.people import utterances_of_people
    from speakerverif.inference.scale import Scale

    how = request.recordings
    resources.use(how.threads)
    utterances = utterances_of_people(request.probes, how.audio_root)
    folder = load_for_inference(how.model, how.device, how.engine, how.precision)
    scale = Scale.of(folder, request.calibration, request.store)
    names, people = (store := Store(request.store, folder.fingerprint)).samples_of(store.names())
    if not names:
        raise InputError(f"{request.store}: nobody is enrolled")
    if how.channel == "each":
        raise InputError("channel each: expected one recording per search: name a channel")
    table = embed(folder, utterances, device=how.device, label="identify", source=Files(how.channel))
    if table.failed:
        reasons = "\n".join(f"  {name}: {explained(reason)}" for name, reason in table.failed.items())
        raise NotEmbeddedError(
            f"{len(table.failed)} of {len(utterances)} recordings could not be embedded:\n{reasons}"
        )
    enrolled = unit(np.stack([sample.embedding for samples in people for sample in samples]))
    for name, row in zip(table.ids, unit(table.embeddings, table.ids), strict=True):
        if float((enrolled @ row).max()) > MIN_COSINE:
            raise InputError(f"{request.probes}: {name!r} is enrolled itself; expected other recordings")
    compared = scale.compare(people, table)
    searched = [utterance.speaker for utterance in utterances]
    values = compared.scores if compared.llrs is None else compared.llrs
    kind: ScoreKind = compared.kind if compared.llrs is None else "llr"
    return _evaluated(values, names, searched, kind, request.settings, scale.calibration)


def score_identification_list(request: ScoreRequest, settings: OpenSetSettings) -> OpenSetRecord:
    """Return the error rates of identification of a labelled list in which each test meets each enrolled speaker.

    Raises:
        InputError: wrong input; unknown speakers, two models of one speaker, pairs that are missing or repeated; see
            `evaluate_open_set`.
        NotEmbeddedError: recordings are there but can't be embedded.
    """
    # The intervals of verification are not asked for.
    settings_of_list = dataclasses.replace(request.settings, intervals=False)
    scored = score_list(dataclasses.replace(request, settings=settings_of_list))
    trials, units = scored.scores.trials, scored.units
    if units is None or units.kind != "speaker":
        raise InputError(f"{request.trials}: expected labels, and speakers from --speakers or from the paths")
    models, model = np.unique(trials.enroll, return_inverse=True)
    tests, test = np.unique(trials.test, return_inverse=True)
    if len(trials) != len(models) * len(tests) or len(np.unique(model * len(tests) + test)) != len(trials):
        raise InputError(
            f"{request.trials}: {len(trials):,} trials of {len(models):,} enroll ids and {len(tests):,} tests; "
            f"identification needs all {len(models) * len(tests):,} pairs, each once"
        )
    values = np.empty((len(models), len(tests)))
    values[model, test] = scored.scores.scores
    of_model, of_test = np.empty(len(models), np.int64), np.empty(len(tests), np.int64)
    of_model[model], of_test[test] = units.enroll, units.test
    if len(np.unique(of_model)) != len(of_model):
        raise InputError(
            f"{request.trials}: some speakers have several enroll ids; expected one, of several files with --enroll-map"
        )
    fitted = Calibration.load(request.calibration) if request.calibration else None
    enrolled, searched = ([units.names[code] for code in side] for side in (of_model, of_test))
    return _evaluated(values, enrolled, searched, scored.scores.kind, settings, fitted)


def _evaluated(
    values: NDArray[np.float64],
    enrolled: Sequence[str],
    searched: Sequence[str],
    kind: ScoreKind,
    settings: OpenSetSettings,
    calibration: Calibration | None,
) -> OpenSetRecord:
    """Return the figures; the threshold of the calibration, where it chose one, is measured first."""
    point = None if calibration is None else calibration.point
    return evaluate_open_set(
        values,
        enrolled,
        searched,
        kind,
        sizes=settings.sizes,
        thresholds=[*([] if point is None else [point.threshold]), *settings.thresholds],
        fpirs=settings.fpirs,
        galleries=settings.galleries,
        seed=settings.seed,
    )
