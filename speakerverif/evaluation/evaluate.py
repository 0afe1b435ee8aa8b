"""The record of a scoring: error rates and costs of labelled scores."""

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.speakers import EnrollMap, Units, units_of
from speakerverif.data.trial_audit import audit
from speakerverif.evaluation.figures import DetectionCosts, Figures, Interval, IntervalFacts, OperatingPoint
from speakerverif.evaluation.intervals import estimate, paired_difference
from speakerverif.evaluation.metrics import DetCurve, act_dcf, cllr
from speakerverif.evaluation.records import CalibrationFacts, Comparison, ListFacts, ModelFacts, ScoringRecord
from speakerverif.scoring.facts import BackendFacts, NormFacts
from speakerverif.scoring.speaker_intervals import why_no_interval


@dataclass(frozen=True)
class Settings:
    """The figures to compute.

    Attributes:
        p_targets: priors of a target trial for the detection costs.
        intervals: whether to give intervals.
    """

    p_targets: Sequence[float] = (0.01, 0.05)
    intervals: bool = True

    @property
    def priors(self) -> dict[str, float]:
        """The priors by the names that a record gives them."""
        return {f"{p:g}": p for p in self.p_targets}


@dataclass(frozen=True)
class Provenance:
    """The steps that made the scores; None: unknown, or not applied.

    Attributes:
        crops: how much of each recording was embedded.
        backend: what compared the embeddings.
        norm: how the scores were normalised.
        calibration: what made likelihood ratios of them.
        model: whose embeddings they are.
        training_speakers: speakers that the model was trained on, to count those in the trials.
    """

    crops: str | None = None
    backend: BackendFacts | None = None
    norm: NormFacts | None = None
    calibration: CalibrationFacts | None = None
    model: ModelFacts | None = None
    training_speakers: Collection[str] | None = None


def evaluate(
    scores: ScoreList,
    settings: Settings | None = None,
    *,
    speakers: Mapping[str, str] | None = None,
    enroll_map: EnrollMap | None = None,
    raw: ScoreList | None = None,
    provenance: Provenance | None = None,
) -> ScoringRecord:
    """Return the record of a scoring.

    Args:
        scores: with labels.
        settings: the figures to compute; None: the defaults.
        speakers: file -> speaker; None: from the paths (see `units_of`).
        enroll_map: model -> its files.
        raw: the same trials before normalisation, whose figures the record holds too.
        provenance: how the scores were made; None: unknown.

    Raises:
        InputError: no labels, one class only, scores that are not finite, a pair with both labels.
    """
    began = time.perf_counter()
    settings, provenance = settings or Settings(), provenance or Provenance()
    trials, curve = scores.trials, DetCurve.of(scores)
    audited, units = audit(trials, enroll_map), units_of(trials, speakers, enroll_map)
    known = units.source in ("table", "paths")
    model = provenance.model
    if model is not None and known and provenance.training_speakers is not None:
        heard = len(set(units.names) & set(provenance.training_speakers))
        model = dataclasses.replace(model, training_speakers_in_trials=heard)
    return ScoringRecord(
        targets=int(curve.misses[-1]),
        nontargets=int(curve.false_alarms[0]),
        figures=_figures(scores, curve, units, settings),
        trial_list=ListFacts(
            name=trials.name,
            sha256=trials.sha256,
            known_as=audited.known_as,
            self_pairs=audited.self_pairs,
            duplicates=audited.duplicates,
            mirrored=audited.mirrored,
            labels_against_speakers=int(((units.enroll == units.test) != trials.labels).sum())
            if known
            else None,
        ),
        raw=None if raw is None else _figures(raw, DetCurve.of(raw), units, settings),
        crops=provenance.crops,
        backend=provenance.backend,
        norm=provenance.norm,
        calibration=provenance.calibration,
        model=model,
        seconds=time.perf_counter() - began,
    )


def _figures(scores: ScoreList, curve: DetCurve, units: Units, settings: Settings) -> Figures:
    """Return the figures of scores, with their intervals."""
    labels, priors = np.asarray(scores.trials.labels), settings.priors
    figures = figures_of(curve, priors, scores.kind)
    costs = list(figures.costs)
    if scores.kind == "llr":
        figures = dataclasses.replace(figures, cllr=cllr(scores.scores, labels))
        actual = [act_dcf(scores.scores, labels, p).cost for p in priors.values()]
        costs = [dataclasses.replace(cost, actual=a) for cost, a in zip(costs, actual, strict=True)]
    figures = dataclasses.replace(figures, costs=tuple(costs))
    if not settings.intervals:
        return figures
    facts = IntervalFacts(units.kind, len(units.names), units.source)
    if facts.speakers is None:  # files of one speaker are alike: an interval over files would be too narrow
        reason = why_no_interval(None)
        costs = [dataclasses.replace(cost, no_interval=reason) for cost in costs]
        return dataclasses.replace(figures, costs=tuple(costs), no_interval=reason, intervals=facts)
    estimates = estimate(scores.scores, labels, units.enroll, units.test, list(priors.values()))
    return dataclasses.replace(
        figures,
        costs=tuple(
            dataclasses.replace(cost, ci95=Interval.of(figure.interval()), no_interval=figure.why_none)
            for cost, figure in zip(costs, estimates.min_dcf, strict=True)
        ),
        eer_ci95=Interval.of(estimates.eer.interval()),
        no_interval=estimates.eer.why_none,
        intervals=facts,
    )


def compare(
    scores: ScoreList, other: ScoreList, against: str, units: Units, settings: Settings
) -> Comparison:
    """Return another system's figures on the same trials, and the difference of the EERs.

    Args:
        scores: of this system.
        other: of the other system, for the same trials in the same order.
        against: where the other scores were read.
        units: the speakers of both sides.
        settings: the figures to compute.
    """
    figures = _figures(other, DetCurve.of(other), units, settings)
    if not settings.intervals or units.kind == "file":
        return Comparison(against, figures, DetCurve.of(scores).eer().rate - figures.eer, None, None)
    labels = np.asarray(scores.trials.labels)
    paired = paired_difference(other.scores, scores.scores, labels, units.enroll, units.test)
    return Comparison(against, figures, paired.difference, Interval.of(paired.interval), paired.p_value)


def figures_of(curve: DetCurve, priors: Mapping[str, float], kind: ScoreKind) -> Figures:
    """Return the figures that a curve alone gives; `priors` by the names that the record gives them."""
    eer, costs = curve.eer(), {key: curve.min_dcf(p) for key, p in priors.items()}
    return Figures(
        score_kind=kind,
        eer=eer.rate,
        eer_threshold=eer.threshold,
        costs=tuple(
            DetectionCosts(key, cost.cost, OperatingPoint(_finite(cost.threshold), cost.p_miss, cost.p_fa))
            for key, cost in costs.items()
        ),
        min_cllr=curve.min_cllr(),
    )


def _finite(threshold: float) -> float | None:
    """Return a threshold as a record holds it: None accepts nothing."""
    return threshold if np.isfinite(threshold) else None
