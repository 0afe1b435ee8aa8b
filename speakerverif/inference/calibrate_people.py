"""A calibration, and a threshold with its error rates, from recordings of people: a folder, a list or a store.

Trials are generated from the recordings. The calibration is fitted on all of them; its figures are cross-fitted: each
trial is judged by a calibration and a threshold that were fitted without its speakers.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speakerverif._util import resources
from speakerverif.audio.channels import Channel
from speakerverif.data.generated_trials import GeneratedTrials, generate_trials
from speakerverif.data.speakers import units_of
from speakerverif.errors import InputError
from speakerverif.evaluation.cross_calibration import FOLDS, held_out
from speakerverif.evaluation.metrics import act_dcf, cllr, det_curve
from speakerverif.inference import stored_calibration
from speakerverif.inference.embedded_people import EmbeddedPeople, People, PeopleStore, embedded_people
from speakerverif.inference.engines import Engine, load_for_inference
from speakerverif.inference.enrollment import Store
from speakerverif.models.folder import CALIBRATION
from speakerverif.models.precision import Precision
from speakerverif.scoring import quality_measures
from speakerverif.scoring.calibration import Calibration, fit
from speakerverif.scoring.decision import bayes_threshold, operating_point
from speakerverif.scoring.scorer import Scoring

MIN_SPEAKERS = FOLDS  # a fold of the cross-fitting holds one speaker or more


@dataclass(frozen=True, kw_only=True)
class PeopleRequest:
    """People's recordings to calibrate a model on.

    Attributes:
        people: where they are.
        model: model folder, ONNX file or `org/name` on the hub; None: the built-in one.
        enrolled: recordings per enrolment.
        quality: quality measures that are further inputs: `duration`, `speech`, `magnitude`, `cohort`.
        far: false-alarm rate whose threshold is chosen; None: the threshold of the prior, at equal costs.
        p_target: the prior whose region of scores matters most.
        max_trials: generated trials, at most.
        seed: of the trials and of the cross-fitting.
        device: "cpu" or "cuda".
        engine: the program that runs the model.
        precision: of the network's products.
        threads: CPU threads; None: as many as this process may use.
        channel: of recordings that have several.
    """

    people: People
    model: Path | None = None
    enrolled: int = 1
    quality: Sequence[str] = ()
    far: float | None = None
    p_target: float = 0.05
    max_trials: int = 50_000
    seed: int = 0
    device: str = "cpu"
    engine: Engine = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    channel: Channel = None


@dataclass(frozen=True)
class CalibratedPeople:
    """A fitted calibration, and what its figures rest on.

    The figures, and the error rates of `calibration.point`, are cross-fitted: no trial is judged by a calibration or a
    threshold that was fitted on its speakers.

    Attributes:
        calibration: fitted on all trials.
        place: file where the next command looks for it; `keep` writes it there.
        generated: the trials.
        speakers: number of speakers in them.
        recordings: number of recordings of these people, repeated ones counted once.
        repeated: recordings that were given twice.
        speaker_pairs: number of pairs of different speakers that were compared.
        mean_test_s: mean duration of the tested recordings, seconds, in target and in non-target trials; nan where
            durations are unknown.
        act_dcf: normalised cost at the threshold that prior and costs set.
        min_dcf: least normalised cost over all thresholds.
        cllr: cost of the likelihood ratios, bits.
        scoring: of the model.
    """

    calibration: Calibration
    place: Path
    generated: GeneratedTrials
    speakers: int
    recordings: int
    repeated: tuple[str, ...]
    speaker_pairs: int
    mean_test_s: tuple[float, float]
    act_dcf: float
    min_dcf: float
    cllr: float
    scoring: Scoring

    def keep(self) -> None:
        """Write the calibration to `place`, from where `verify`, `identify` and the store's decisions use it.

        Raises:
            InputError: the file can't be written.
        """
        stored_calibration.keep(self.calibration, self.place, self.scoring)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON writes it."""
        labels = np.asarray(self.generated.trials.labels)
        has_durations = not math.isnan(self.mean_test_s[0])
        return {
            "calibration": dataclasses.asdict(self.calibration),
            "speakers": self.speakers,
            "speaker_pairs": self.speaker_pairs,
            "recordings": self.recordings,
            "repeated": list(self.repeated),
            "targets": int(np.sum(labels)),
            "nontargets": int(np.sum(~labels)),
            "mean_test_s": list(self.mean_test_s) if has_durations else None,
            "held_out": {"act_dcf": self.act_dcf, "min_dcf": self.min_dcf, "cllr": self.cllr},
        }


def calibrate_people(request: PeopleRequest) -> CalibratedPeople:
    """Return a calibration fitted on people's recordings, with figures on speakers that it was not fitted on.

    Raises:
        InputError: wrong input; one recording under two names; too few speakers or recordings for a calibration, or for
            the false-alarm rate asked for.
        NotEmbeddedError: recordings that can't be embedded, all named.
    """
    if not 1 <= request.enrolled <= 1000:
        raise InputError(f"enrolled {request.enrolled}: expected 1 to 1000 recordings per enrolment")
    if request.far is not None and not 0 < request.far < 1:
        raise InputError(f"far {request.far}: expected a rate between 0 and 1, both excluded")
    resources.use(request.threads)
    folder = load_for_inference(request.model, request.device, request.engine, request.precision)
    place = stored_calibration.place_of(folder.path, folder.fingerprint)
    if isinstance(request.people, PeopleStore):
        in_store = Store(request.people.path).fingerprint
        if in_store == folder.fingerprint:
            place = Path(request.people.path) / CALIBRATION
        elif request.model is None:
            raise InputError(
                f"{request.people.path}: holds embeddings of model {in_store}: name it with --model"
            )
    people = embedded_people(folder, request.people, request.device, request.channel)
    _refuse_too_few(request, people.speakers)
    name = Path(request.people.path).resolve().name
    several = "" if request.enrolled == 1 else f", {request.enrolled} recordings enrolled"
    generated = generate_trials(
        people.table.ids,
        people.speakers,
        people.table.durations,
        request.enrolled,
        request.max_trials,
        request.seed,
        f"{name}, {len(set(people.speakers))} speakers{several}",
    )
    return calibrated(request, folder.scoring(), people, generated, place)


def calibrated(
    request: PeopleRequest, scoring: Scoring, people: EmbeddedPeople, generated: GeneratedTrials, place: Path
) -> CalibratedPeople:
    """Return the calibration that is best on generated trials, with cross-fitted figures; as `calibrate_people`.

    Args:
        request: what to fit.
        scoring: of the model.
        people: whose recordings the trials compare.
        generated: the trials.
        place: where the calibration is to be kept.
    """
    trials, enroll_map, table = generated.trials, generated.enroll_map, people.table
    assert trials.labels is not None
    owners = dict(zip(table.ids, people.speakers, strict=True))
    units = units_of(trials, owners, enroll_map)
    codes = units.enroll, units.test
    pairs = np.unique(np.sort(np.stack(codes)[:, ~trials.labels], axis=0), axis=1).shape[1]
    if request.far is not None:
        _refuse_unknowable(request.far, pairs, int(np.sum(~trials.labels)), len(units.names))
    scores, _ = scoring.score(trials, table, enroll_map, owners)
    quality = quality_measures.of_trials(request.quality, trials, table, enroll_map, scoring)
    fitted = fit(
        [scores],
        quality,
        request.p_target,
        request.far,
        fingerprint=table.fingerprint,
        scoring=scoring.name,
        units=codes,
        speech_s=quality_measures.typical_speech(trials, table, enroll_map),
    )
    inputs = np.column_stack([scores.scores, *quality.values()])
    judged = held_out(inputs, trials.labels, units, request.p_target, request.far, request.seed)
    prior_threshold = bayes_threshold(request.p_target)
    threshold = prior_threshold if fitted.point is None else fitted.point.threshold
    above = judged.llrs - (prior_threshold if fitted.point is None else judged.thresholds)
    point = dataclasses.replace(operating_point(above, trials.labels, 0.0, codes), threshold=threshold)
    tested_s = table.durations[table.rows_of([trials.ids[i] for i in trials.test.tolist()])]
    return CalibratedPeople(
        calibration=dataclasses.replace(fitted, point=point),
        place=place,
        generated=generated,
        speakers=len(units.names),
        recordings=len(table),
        repeated=people.repeated,
        speaker_pairs=pairs,
        mean_test_s=(float(tested_s[trials.labels].mean()), float(tested_s[~trials.labels].mean())),
        act_dcf=act_dcf(judged.llrs, trials.labels, request.p_target).cost,
        min_dcf=det_curve(judged.llrs, trials.labels).min_dcf(request.p_target).cost,
        cllr=cllr(judged.llrs, trials.labels),
        scoring=scoring,
    )


def _refuse_too_few(request: PeopleRequest, speakers: Sequence[str]) -> None:
    """Raise `InputError` for fewer speakers with enough recordings than a cross-fitted calibration needs."""
    names, counts = np.unique(np.asarray(speakers), return_counts=True)
    needed = request.enrolled + 1
    enough = int(np.sum(counts >= needed))
    if enough < MIN_SPEAKERS:
        raise InputError(
            f"{request.people.path}: a calibration can't be known from {enough} speakers with {needed} recordings or "
            f"more (of {len(names)} speakers); expected {MIN_SPEAKERS} such speakers or more"
        )


def _refuse_unknowable(far: float, pairs: int, nontargets: int, speakers: int) -> None:
    """Raise `InputError` for a false-alarm rate that so few people can't show.

    A rate is about pairs of strangers: among fewer than 1 / far pairs, not even one pair of people that is taken for
    one person would be so rare.
    """
    needed = math.ceil(round(1 / far, 9))
    if pairs >= needed and nontargets >= needed:
        return
    people = math.ceil((1 + math.sqrt(1 + 8 * needed)) / 2)
    comparisons = min(pairs, nontargets)
    raise InputError(
        f"--far {far:g}: needs {needed} pairs of different speakers and as many non-target trials ({people} speakers "
        f"or more); {speakers} speakers give {pairs} pairs and {nontargets} trials: give more people, or a rate of "
        f"{math.ceil(1e4 / comparisons) / 1e4:g} or more"
    )
