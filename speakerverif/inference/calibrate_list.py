"""A calibration, or a fusion of several systems, fitted on a labelled trial list."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speakerverif.data.formats.tables import read_table
from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.speakers import files_of, read_enroll_map, read_speaker_tables, units_of
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.metrics import DetCurve, act_dcf
from speakerverif.inference.score_sources import ListRequest, Place, ScoreFiles, quality_of, scores_of
from speakerverif.scoring import quality_measures
from speakerverif.scoring.backends._linear import Adaptation as Method
from speakerverif.scoring.calibration import Calibration, fit
from speakerverif.scoring.scorer import Scoring


@dataclass(frozen=True)
class Adaptation:
    """A new domain that a model's PLDA is adapted to.

    Attributes:
        table: embeddings of the domain by the same model, of speakers who are in no trials.
        method: "coral+" and "kaldi" need no speakers, "interpolate" does (see `Plda.adapt`).
        weight: 0 keeps the trained covariances, 1 takes the new ones.
    """

    table: Place
    method: Method = "coral+"
    weight: float = 0.5

    def of(self, scoring: Scoring, speakers: Sequence[Place] = ()) -> Scoring:
        """Return a scoring adapted to the domain.

        Args:
            scoring: of the model.
            speakers: tables of the embeddings' speakers; none: from their paths.

        Raises:
            InputError: as `Scoring.adapted`.
        """
        table = read_table(self.table)
        owners = read_speaker_tables(speakers, table.ids) if self.method == "interpolate" else None
        return scoring.adapted(
            table, Path(self.table).name, method=self.method, weight=self.weight, speakers=owners
        )


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest(ListRequest):
    """A labelled trial list to fit a calibration on.

    Attributes:
        quality: quality measures that are further inputs: `duration`, `speech`, `magnitude`, `cohort`.
        p_target: the prior whose region of scores matters most.
        far: false-alarm rate whose threshold is chosen; None: no threshold.
        model: folder of the model that the calibration is for; None: the source's, where it is known.
        adaptation: a new domain to adapt the model's PLDA to first; None: it stays.
    """

    quality: Sequence[str] = ()
    p_target: float = 0.05
    far: float | None = None
    model: Path | None = None
    adaptation: Adaptation | None = None


@dataclass(frozen=True)
class CalibratedList:
    """A fitted calibration and its figures on the list that it was fitted on.

    Attributes:
        calibration: to save with its `save`.
        llrs: likelihood ratios of the trials.
        act_dcf: normalised cost at the threshold that prior and costs set.
        min_dcf: least normalised cost over all thresholds.
        scoring: of the model that the calibration is for, adapted where that was asked for; None where no model was
            named.
        adapted: the same where it was adapted, to save in the model's folder with its `save`; None: not adapted.
    """

    calibration: Calibration
    llrs: ScoreList
    act_dcf: float
    min_dcf: float
    scoring: Scoring | None = None
    adapted: Scoring | None = None

    def keep(self, model: Path) -> Path:
        """Write the calibration where `verify` and `identify` look for that of a model, and return the file.

        Raises:
            InputError: they would refuse it: it is of other scores than the model's; the file can't be written.
        """
        # It imports torch, which a fit on ready scores doesn't need.
        from speakerverif.inference import stored_calibration

        if self.scoring is None:
            raise InputError(f"{model}: the calibration was fitted for no model: name it in the request")
        path = stored_calibration.place_of(model, self.scoring.plan.fingerprint)
        stored_calibration.keep(self.calibration, path, self.scoring)
        return path


def calibrate_list(request: CalibrationRequest) -> CalibratedList:
    """Return the calibration that is best on a labelled trial list.

    Raises:
        InputError: wrong input; scores that are not those of `request.model`.
        NotEmbeddedError: recordings are there but can't be embedded.
    """
    identity = None if request.model is None else _identity(request.model)
    adapted = None
    if request.adaptation is not None:
        if identity is None or isinstance(request.source, ScoreFiles):
            raise InputError("an adaptation is of a model's back end: name the model, and no score files")
        adapted = request.adaptation.of(identity[1], request.speakers)
        identity, request = (identity[0], adapted), dataclasses.replace(request, scoring=adapted)
    if identity is not None and isinstance(request.source, ScoreFiles):
        source = _of_kind(request.source, identity[1].kind, request.model)
        request = dataclasses.replace(request, source=source)
    trials = TrialList.read(request.trials)
    enroll_map = read_enroll_map(request.enroll_map) if request.enroll_map else None
    scored = scores_of(request, trials, enroll_map)
    fingerprint, scoring = scored.fingerprint, scored.scoring
    if identity is not None:
        fingerprint, scoring = identity[0], identity[1].name
        if scored.scoring not in ("", scoring) or scored.fingerprint not in ("", fingerprint):
            raise InputError(
                f"{request.model}: is model {fingerprint} and scores by {scoring}; found scores of "
                f"{scored.fingerprint or 'an unknown model'} by {scored.scoring}"
            )
    units = units_of(trials, read_speaker_tables(request.speakers, files_of(trials, enroll_map)), enroll_map)
    quality = quality_of(request.quality, request, scored, enroll_map)
    table = scored.table
    calibration = fit(
        scored.systems,
        quality,
        p_target=request.p_target,
        far=request.far,
        fingerprint=fingerprint,
        scoring=scoring,
        units=(units.enroll, units.test) if units.kind == "speaker" else None,
        speech_s=0.0 if table is None else quality_measures.typical_speech(trials, table, enroll_map),
    )
    llrs = calibration.apply(scored.systems, quality)
    assert trials.labels is not None  # `fit` refuses a list without labels
    actual = act_dcf(llrs.scores, trials.labels, request.p_target).cost
    least = DetCurve.of(llrs).min_dcf(request.p_target).cost
    of_model = None if identity is None else identity[1]
    return CalibratedList(calibration, llrs, actual, least, of_model, adapted)


def _identity(model: Path) -> tuple[str, Scoring]:
    """Return the fingerprint of a model folder and its scoring."""
    from speakerverif.models.folder import read_model_folder

    fingerprint = read_model_folder(model).fingerprint
    return fingerprint, Scoring.load(model, fingerprint)


def _of_kind(source: ScoreFiles, kind: ScoreKind, model: Path | None) -> ScoreFiles:
    """Return score files with the kind of a model's scores, where they name none.

    Raises:
        InputError: they name another kind: a calibration of such scores would be refused with this model.
    """
    others = [other for other in source.kinds if other != kind]
    if others:
        raise InputError(f"{model}: its scores are of kind {kind}, found score files of kind {others[0]}")
    return dataclasses.replace(source, kinds=(kind,))
