"""The scale of a model's comparisons: back end, normalisation and calibration, the same for every command."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreKind
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.inference import stored_calibration
from speakerverif.inference.samples import Sample
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring import quality_measures
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.decision import DecisionPoint
from speakerverif.scoring.scorer import Scoring


@dataclass(frozen=True)
class Compared:
    """Scores of speakers (rows) and recordings (columns).

    Attributes:
        scores: float64 (speakers, recordings), higher for the same speaker.
        kind: cosine similarities in [-1, 1], a PLDA's, normalised ones.
        llrs: float64 (speakers, recordings), calibrated natural-log likelihood ratios; None without a calibration.
    """

    scores: NDArray[np.float64]
    kind: ScoreKind
    llrs: NDArray[np.float64] | None


@dataclass(frozen=True)
class Decision:
    """A decision and its threshold.

    Attributes:
        accepted: None where neither a calibration nor a threshold allows a decision.
        threshold: the score; None: no decision, or quality measures count too.
        llr_threshold: the log likelihood ratio; None: no decision, or one by a score.
    """

    accepted: bool | None
    threshold: float | None = None
    llr_threshold: float | None = None


@dataclass(frozen=True)
class Scale:
    """Scoring, calibration and decision of a model's comparisons.

    Attributes:
        scoring: back end and normalisation.
        calibration: scores to log likelihood ratios; None: there is none.
        source: file of the calibration; the model's folder where it is the model's own, or where there is none.
        file: the same as text; None where it is the model's own, or where there is none.
    """

    scoring: Scoring
    calibration: Calibration | None
    source: Path

    file: str | None = None

    @classmethod
    def of(
        cls, folder: ModelFolder, calibration: str | Path | None = None, store: str | Path | None = None
    ) -> "Scale":
        """Return the scale of a model.

        Args:
            folder: the loaded model.
            calibration: a file that `speakerverif calibrate` wrote. None: the store's own where it has one
                (`calibration.toml` in it), else the user's own of this model, else the model's.
            store: the folder of the store that is searched.

        Raises:
            InputError: a calibration of another model, or of scores that the model doesn't make.
        """
        scoring = folder.scoring()
        fitted, source = stored_calibration.find(folder, calibration, store)
        if fitted is not None:
            stored_calibration.refuse_unfit(fitted, source, scoring)
        return cls(scoring, fitted, source, None if source == folder.path else str(source))

    def compare(self, people: Sequence[Sequence[Sample]], recordings: EmbeddingTable) -> Compared:
        """Return the scores of all pairs of an enrolled speaker and a recording.

        They are scored as a list of trials, so that the scores equal those of lists.

        Args:
            people: the samples of each speaker, one or more.
            recordings: what to compare with them.

        Raises:
            InputError: a calibration with quality measures that are unknown for some recording.
        """
        # With a space in it no id can be that of a file or speaker in the cohort.
        models = [f"enrolled speaker {i}" for i in range(len(people))]
        enroll_map = {
            model: [f"{model} sample {k}" for k in range(len(samples))]
            for model, samples in zip(models, people, strict=True)
        }
        tests = [f"test recording {i}" for i in range(len(recordings))]
        samples = [sample for speaker in people for sample in speaker]
        table = EmbeddingTable(
            ids=[*(file for files in enroll_map.values() for file in files), *tests],
            embeddings=np.concatenate([[sample.embedding for sample in samples], recordings.embeddings]),
            durations=np.concatenate([[sample.duration_s for sample in samples], recordings.durations]),
            speech=np.concatenate([[sample.speech_s for sample in samples], recordings.speech]),
            status=["ok"] * (len(samples) + len(tests)),
            fingerprint=recordings.fingerprint,
        )
        enroll = np.repeat(np.arange(len(models), dtype=np.int32), len(tests))
        test = np.tile(np.arange(len(models), len(models) + len(tests), dtype=np.int32), len(models))
        trials = TrialList((*models, *tests), enroll, test, None, "the comparison")
        scores, _ = self.scoring.score(trials, table, enroll_map)
        shape, llrs = (len(models), len(tests)), None
        if self.calibration is not None:
            quality = quality_measures.of_trials(
                self.calibration.measures, trials, table, enroll_map, self.scoring
            )
            llrs = self.calibration.apply([scores], quality).scores.reshape(shape)
        return Compared(scores.scores.reshape(shape), scores.kind, llrs)

    def check(self, threshold: float | None, llr_threshold: float | None) -> None:
        """Raise `InputError` for thresholds that decide nothing: not finite, both, or an LLR without a calibration."""
        for name, value in (("threshold", threshold), ("llr_threshold", llr_threshold)):
            if value is not None and not math.isfinite(value):
                raise InputError(f"{name} {value}: expected a finite number")
        if threshold is not None and llr_threshold is not None:
            raise InputError("threshold and llr_threshold both set a threshold: give one")
        if llr_threshold is not None and self.calibration is None:
            raise InputError(
                f"{self.source}: is not calibrated, so that no log likelihood ratio is known; "
                "run `speakerverif calibrate`, or give a threshold of the score"
            )

    def decide(
        self, score: float, llr: float | None, threshold: float | None, llr_threshold: float | None
    ) -> Decision:
        """Return whether a comparison counts as the same speaker.

        Args:
            score: of the comparison.
            llr: of the comparison, where there is a calibration.
            threshold: accept at this score or above.
            llr_threshold: accept at this log likelihood ratio or above. With neither, at the operating point that the
                calibration chose, if it chose one.
        """
        if threshold is not None:
            return Decision(score >= threshold, threshold)
        fitted = self.calibration
        if fitted is None or llr is None:
            return Decision(None)
        if llr_threshold is None:
            if fitted.point is None:
                return Decision(None)
            llr_threshold = fitted.point.threshold
        at_score = None if fitted.quality else fitted.score_threshold(llr_threshold)
        return Decision(llr >= llr_threshold, at_score, llr_threshold)

    def point_at(self, llr_threshold: float | None) -> DecisionPoint | None:
        """Return the error rates measured at a threshold; None unless it is the operating point of the calibration."""
        point = None if self.calibration is None else self.calibration.point
        return point if point is not None and llr_threshold == point.threshold else None


def probability(llr: float, prior: float = 0.5) -> float:
    """Return P(same speaker) of a log likelihood ratio at a prior."""
    return 0.5 * (1 + math.tanh((llr + math.log(prior / (1 - prior))) / 2))
