"""A scored trial list: its scores, calibrated where asked for, and their record."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speakerverif.data._rows import WrongRows
from speakerverif.data.metadata import read_columns
from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.speakers import (
    EnrollMap,
    Units,
    files_of,
    read_enroll_map,
    read_speaker_tables,
    units_of,
)
from speakerverif.data.trial_audit import audit
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation.breakdown import breakdown
from speakerverif.evaluation.evaluate import Settings, compare, evaluate
from speakerverif.evaluation.records import CalibrationFacts, ScoringRecord
from speakerverif.inference.score_sources import ListRequest, TrialScores, quality_of, scores_of
from speakerverif.scoring.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class ScoreRequest(ListRequest):
    """A trial list to score.

    Attributes:
        calibration: a calibration or fusion that makes likelihood ratios of the scores; None: none.
        breakdown_by: `[NAME=]FILE` of facts about files, utterances or speakers, to break the figures down by.
        against: another system's scores of the list, to compare the EERs; None: none.
        against_kind: the kind of those scores.
        settings: the figures to compute.
    """

    calibration: str | Path | None = None
    breakdown_by: Sequence[str] = ()
    against: str | Path | None = None
    against_kind: ScoreKind = "cosine"
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class ScoredList:
    """A scored trial list.

    Attributes:
        scores: of the trials; likelihood ratios where a calibration was named.
        record: their figures; None where the list has no labels.
        units: the speakers of both sides of every trial; None where the list has no labels.
        raw: scores before normalisation; None where nothing was normalised.
        systems: the scores that the calibration was applied to; without one, the scores.
    """

    scores: ScoreList
    record: ScoringRecord | None
    units: Units | None
    raw: ScoreList | None
    systems: tuple[ScoreList, ...]


def score_list(request: ScoreRequest) -> ScoredList:
    """Return the scores of a trial list, and their figures where it has labels.

    Raises:
        InputError: everything that is wrong with the input, together.
        NotEmbeddedError: recordings are there but can't be embedded.
    """
    wrong = WrongRows()
    trials = TrialList.read(request.trials, wrong)
    enroll_map = read_enroll_map(request.enroll_map) if request.enroll_map else None
    problems = [str(wrong)] if wrong.count else []
    try:
        scored = scores_of(request, trials, enroll_map, sound=not problems)
        scores, provenance = scored.systems[0], scored.provenance
        if request.calibration:
            scores, facts = _calibrated(request.calibration, request, scored, enroll_map)
            provenance = dataclasses.replace(provenance, calibration=facts)
    except InputError as error:
        problems.append(str(error))
    if problems:
        raise InputError(f"{request.trials}: {'; '.join(problems)}; besides: {audit(trials, enroll_map)}")
    if trials.labels is None:
        return ScoredList(scores, None, None, scored.raw, scored.systems)
    files = files_of(trials, enroll_map)
    speakers = read_speaker_tables(request.speakers, files)
    record = evaluate(
        scores,
        request.settings,
        speakers=speakers,
        enroll_map=enroll_map,
        raw=scored.raw,
        provenance=provenance,
    )
    units = units_of(trials, speakers, enroll_map)
    if request.breakdown_by:
        columns = read_columns(request.breakdown_by, files, speakers)
        groups = breakdown(scores, columns, units, record.figures, enroll_map)
        record = dataclasses.replace(record, breakdown=groups)
    if request.against:
        other = ScoreList.read(request.against, trials, request.against_kind)
        comparison = compare(scores, other, str(request.against), units, request.settings)
        record = dataclasses.replace(record, comparison=comparison)
    return ScoredList(scores, record, units, scored.raw, scored.systems)


def _calibrated(
    path: str | Path, request: ListRequest, scored: TrialScores, enroll_map: EnrollMap | None
) -> tuple[ScoreList, CalibrationFacts]:
    """Return likelihood ratios of scores by a stored calibration, and the record's facts about it.

    Raises:
        InputError: a calibration of another model or back end, of other kinds of scores, or of quality measures
            that are unknown for these files.
    """
    calibration = Calibration.load(path)
    for what, theirs, ours in (
        ("model", calibration.fingerprint, scored.fingerprint),
        ("scores", calibration.scoring, scored.scoring),
    ):
        if theirs and ours and theirs != ours:
            raise InputError(f"{path}: fitted on {what} {theirs!r}, these are of {ours!r}")
    quality = quality_of(calibration.measures, request, scored, enroll_map)
    facts = CalibrationFacts(calibration.trials, calibration.p_target)
    return calibration.apply(scored.systems, quality), facts
