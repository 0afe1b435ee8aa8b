"""Records of a scoring as typed values: what was scored, how, and the figures; each to JSON and back."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speakerverif._util.json_files import check_types
from speakerverif.errors import InputError
from speakerverif.evaluation.figures import Figures, Interval, optional
from speakerverif.scoring.facts import BackendFacts, NormFacts


@dataclass(frozen=True)
class ListFacts:
    """The trial list and its audit.

    Attributes:
        name: where it was read.
        sha256: of the file's bytes.
        known_as: the published list that it is; None: none.
        self_pairs: trials of a file against itself, or against a model enrolled with it.
        duplicates: rows that repeat an earlier pair.
        mirrored: pairs that are also there with their sides swapped.
        labels_against_speakers: labels that contradict the speakers of the files; None: speakers unknown.
        missing: trials without a score: 0, because such a trial is an error.
    """

    name: str
    sha256: str
    known_as: str | None
    self_pairs: int
    duplicates: int
    mirrored: int
    labels_against_speakers: int | None = None
    missing: int = 0

    @property
    def audit(self) -> str:
        """The audit in one line."""
        counts = ("missing", "self_pairs", "duplicates", "mirrored")
        return ", ".join(f"{getattr(self, name):,} {name}".replace("_", "-") for name in counts)

    def to_json(self) -> dict[str, Any]:
        """Return the list's part of a record."""
        keys = ("name", "sha256", "known_as", "missing", "self_pairs", "duplicates", "mirrored")
        return {key: getattr(self, key) for key in (*keys, "labels_against_speakers")}


@dataclass(frozen=True)
class ModelFacts:
    """The model whose embeddings were scored.

    Attributes:
        name: None: unknown.
        fingerprint: None: unknown.
        engine: the program that ran it; None: unknown.
        training_speakers_in_trials: speakers of the trials that the model was trained on; None: unknown.
    """

    name: str | None
    fingerprint: str | None
    engine: str | None = None
    training_speakers_in_trials: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the model's part of a record."""
        engine = {} if self.engine is None else {"engine": self.engine}
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            **engine,
            "training_speakers_in_trials": self.training_speakers_in_trials,
        }


@dataclass(frozen=True)
class CalibrationFacts:
    """The calibration that made the scores likelihood ratios: the list it was fitted on, and its prior."""

    calibrated_on: str
    p_target: float


@dataclass(frozen=True)
class GroupCost:
    """The least normalised detection cost of a group of trials at one prior; None: too few trials or speakers."""

    key: str
    minimum: float | None = None
    ci95: Interval | None = None


@dataclass(frozen=True)
class GroupFigures:
    """Error rates of one group of trials; None: too few trials (for an interval: speakers).

    Attributes:
        group: its name.
        targets: target trials.
        nontargets: non-target trials.
        units: speakers (or files) in the group.
        costs: one for each prior of the whole list.
        p_miss: at the EER threshold of the whole list.
        p_fa: likewise.
        eer: of the group alone.
        eer_ci95: its interval.
    """

    group: str
    targets: int
    nontargets: int
    units: int
    costs: tuple[GroupCost, ...]
    p_miss: float | None = None
    p_fa: float | None = None
    eer: float | None = None
    eer_ci95: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the group's part of a record."""
        return {
            "group": self.group,
            "targets": self.targets,
            "nontargets": self.nontargets,
            "units": self.units,
            "eer": self.eer,
            "eer_ci95": optional(list, self.eer_ci95),
            "min_dcf": {cost.key: cost.minimum for cost in self.costs},
            "min_dcf_ci95": {cost.key: optional(list, cost.ci95) for cost in self.costs},
            "p_miss": self.p_miss,
            "p_fa": self.p_fa,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "GroupFigures":
        """Return the object from the output of `to_json`."""
        costs = tuple(
            GroupCost(key, minimum, optional(Interval._make, data["min_dcf_ci95"][key]))
            for key, minimum in data["min_dcf"].items()
        )
        rest = {
            key: data[key] for key in ("group", "targets", "nontargets", "units", "p_miss", "p_fa", "eer")
        }
        return cls(**rest, costs=costs, eer_ci95=optional(Interval._make, data["eer_ci95"]))


@dataclass(frozen=True)
class ColumnBreakdown:
    """Figures of the groups that one column makes of the trials.

    Attributes:
        column: its name.
        by: how it groups trials, in words.
        without: ids whose value is unknown.
        left_out: why there are no groups; None: there are.
        groups: in order.
    """

    column: str
    by: str
    without: int
    left_out: str | None
    groups: tuple[GroupFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the column's part of a record."""
        return {**vars(self), "groups": [group.to_json() for group in self.groups]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ColumnBreakdown":
        """Return the object from the output of `to_json`."""
        return cls(**{**data, "groups": tuple(map(GroupFigures.from_json, data["groups"]))})


@dataclass(frozen=True)
class Comparison:
    """Another system's figures on the same trials, and the paired difference of the EERs.

    Attributes:
        against: the other system's score file.
        figures: of the other system.
        difference: EER of this system less that of the other; negative where this one is better.
        difference_ci95: in samples of speakers that both share; None: no interval.
        p_value: two-sided, of no difference; None: too few speakers, or speakers unknown.
    """

    against: str
    figures: Figures
    difference: float
    difference_ci95: Interval | None
    p_value: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the comparison's part of a record."""
        return {
            "scores": self.against,
            **self.figures.to_json(),
            "difference": self.difference,
            "difference_ci95": optional(list, self.difference_ci95),
            "p_value": self.p_value,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Comparison":
        """Return the object from the output of `to_json`."""
        limits = optional(Interval._make, data["difference_ci95"])
        return cls(data["scores"], Figures.from_json(data), data["difference"], limits, data["p_value"])


@dataclass(frozen=True)
class ScoringRecord:
    """A scored trial list: its figures and the facts needed to compare them with others.

    Attributes:
        targets: target trials.
        nontargets: non-target trials.
        figures: of the scores.
        trial_list: what was scored.
        raw: figures before normalisation; None where nothing was normalised.
        crops: how much of each recording was embedded; None: unknown.
        backend: what compared the embeddings; None: unknown.
        norm: how scores were normalised; None: not at all.
        calibration: what made likelihood ratios of the scores; None: unknown.
        model: whose embeddings they are; None: unknown.
        extra_scores: scores that the file held for pairs that are not in the list; None: not counted.
        breakdown: figures of groups of trials; None: not asked for.
        comparison: with another system; None: not asked for.
        seconds: duration of the evaluation.
    """

    targets: int
    nontargets: int
    figures: Figures
    trial_list: ListFacts
    raw: Figures | None = None
    crops: str | None = None
    backend: BackendFacts | None = None
    norm: NormFacts | None = None
    calibration: CalibrationFacts | None = None
    model: ModelFacts | None = None
    extra_scores: int | None = None
    breakdown: tuple[ColumnBreakdown, ...] | None = None
    comparison: Comparison | None = None
    seconds: float = 0.0

    @property
    def trials(self) -> int:
        """Number of trials."""
        return self.targets + self.nontargets

    def before_normalisation(self) -> "ScoringRecord | None":
        """Return the record of the raw scores; None where nothing was normalised."""
        if self.raw is None:
            return None
        return dataclasses.replace(
            self, figures=self.raw, raw=None, norm=None, breakdown=None, comparison=None
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values; `from_json` reads it back."""
        record: dict[str, Any] = {
            "trials": self.trials,
            "targets": self.targets,
            "nontargets": self.nontargets,
            **self.figures.to_json(),
            "raw": optional(Figures.to_json, self.raw),
            "crops": self.crops,
            "backend": optional(BackendFacts.to_json, self.backend),
            "norm": optional(NormFacts.to_json, self.norm),
            "calibration": None if self.calibration is None else vars(self.calibration).copy(),
            "list": self.trial_list.to_json(),
            "model": optional(ModelFacts.to_json, self.model),
        }
        if self.extra_scores is not None:
            record["extra_scores"] = self.extra_scores
        if self.comparison is not None:
            record["against"] = self.comparison.to_json()
        record["seconds"] = self.seconds
        if self.breakdown is not None:
            record["breakdown"] = [column.to_json() for column in self.breakdown]
        return record

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str | Path = "record") -> "ScoringRecord":
        """Return the object from the output of `to_json`.

        Raises:
            InputError: a key is missing or unknown, or a value has another type.
        """
        try:
            record = cls(
                targets=data["targets"],
                nontargets=data["nontargets"],
                figures=Figures.from_json(data),
                trial_list=ListFacts(**data["list"]),
                raw=optional(Figures.from_json, data["raw"]),
                crops=data["crops"],
                backend=optional(BackendFacts.from_json, data["backend"]),
                norm=optional(NormFacts.from_json, data["norm"]),
                calibration=optional(lambda facts: CalibrationFacts(**facts), data["calibration"]),
                model=optional(lambda facts: ModelFacts(**facts), data["model"]),
                extra_scores=data.get("extra_scores"),
                breakdown=optional(
                    lambda columns: tuple(map(ColumnBreakdown.from_json, columns)), data.get("breakdown")
                ),
                comparison=optional(Comparison.from_json, data.get("against")),
                seconds=data["seconds"],
            )
            check_types(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where}: not the record of a scoring: {type(error).__name__}: {error}"
            ) from error
        return record
