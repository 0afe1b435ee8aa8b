"""Calibration and fusion: scores become natural-log likelihood ratios; thresholds get stated error rates.

SciPy is imported where something is fitted: applying a calibration, as `verify` does, needs none, and it is slow to
import.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from speakerverif._util import toml
from speakerverif._util.files import replacing
from speakerverif._util.messages import named
from speakerverif._util.ranges import FINITE, Range
from speakerverif.data.scores import ScoreList
from speakerverif.errors import InputError
from speakerverif.scoring.decision import (
    Codes,
    DecisionPoint,
    check_both_classes,
    operating_point,
    threshold_at_far,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """An affine map from the scores of one or more systems, and quality measures, to one LLR.

    Attributes:
        kinds: the kind of each system's scores.
        quality: names of the quality measures.
        weights: one for each system, then one for each quality measure.
        bias: what is added; LLR = weights · inputs + bias, natural logarithm.
        p_target: the prior at which it was trained.
        trials: name of the list it was fitted on.
        trials_sha256: that list's hash.
        fingerprint: the model whose scores they were; empty if unknown.
        scoring: how that model's embeddings were scored, as `Scoring.name` says; empty if unknown.
        point: the operating point chosen on the same list, its threshold an LLR; None if none was.
        speech_s: seconds of speech on a side of that list's trials, their geometric mean; 0 if unknown.
    """

    kinds: tuple[str, ...]
    quality: tuple[str, ...]
    weights: Annotated[tuple[float, ...], FINITE]
    bias: Annotated[float, FINITE]
    p_target: Annotated[float, Range(0, 1, above=True)]
    trials: str
    trials_sha256: str
    fingerprint: str
    scoring: str = ""
    point: DecisionPoint | None = None
    speech_s: float = 0.0

    @property
    def measures(self) -> list[str]:
        """The quality measures, of which `quality` names both columns (`measures.of_trials`)."""
        return list(dict.fromkeys(name.removesuffix("_low").removesuffix("_high") for name in self.quality))

    def llr(self, inputs: Array) -> Array:
        """Return LLRs (N,) of inputs (N, systems + quality measures), in the order of `weights`."""
        llrs: Array = inputs @ np.array(self.weights) + self.bias
        return llrs

    def apply(self, scores: Sequence[ScoreList], quality: Mapping[str, Array] | None = None) -> ScoreList:
        """Return calibrated scores of the trials of `scores[0]`.

        Args:
            scores: one list per system, in the order of `kinds`; the others hold the same pairs.
            quality: (N,) for each measure, trial by trial as in `scores[0]`.

        Raises:
            InputError: another number or kind of scores, or other measures, than it was fitted on.
        """
        kinds, measures = tuple(one.kind for one in scores), quality or {}
        if kinds != self.kinds or set(measures) != set(self.quality):
            raise InputError(
                f"calibration fitted on {self.trials}: expected scores of kind {_names(self.kinds)} and "
                f"measures {_names(self.quality)}; found {_names(kinds)} and {_names(tuple(measures))}"
            )
        llr = self.llr(_inputs(scores, {name: measures[name] for name in self.quality}))
        return ScoreList(trials=scores[0].trials, scores=llr, kind="llr")

    def score_threshold(self, llr: float) -> float:
        """Return the raw score at which a single system without quality measures reaches an LLR."""
        if len(self.weights) != 1:
            raise InputError(f"calibration with {len(self.weights)} inputs: no single score has a given LLR")
        return (llr - self.bias) / self.weights[0]

    def save(self, path: str | Path, private: bool = False) -> None:
        """Write a TOML file, whole or not at all; a private one can be read by this user alone."""
        with replacing(path) as file:
            if private:
                Path(file.name).chmod(0o600)
            file.write(toml.format_toml(toml.to_dict(self)).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Return the calibration of a TOML file.

        Raises:
            InputError: no such file; a key too many, too few, or of another type.
        """
        return cls.of_table(toml.read_toml(path), str(path))

    @classmethod
    def of_table(cls, table: dict[str, Any], where: str) -> "Calibration":
        """Return the calibration of a TOML table; `where` names it in errors, which are those of `load`."""
        return toml.from_dict(cls, table, where)

    def problems(self) -> Iterator[str]:
        """Yield contradictions between values, as `key: found ..., expected ...`."""
        inputs = len(self.kinds) + len(self.quality)
        if not self.kinds or len(self.weights) != inputs:
            yield f"weights: found {len(self.weights)}, expected {max(inputs, 1)}, one per input"
        if self.p_target == 1:
            yield "p_target: found 1, expected less"


def fit(
    scores: Sequence[ScoreList],
    quality: Mapping[str, Array] | None = None,
    p_target: float = 0.05,
    far: float | None = None,
    fingerprint: str = "",
    scoring: str = "",
    units: tuple[Codes, Codes] | None = None,
    speech_s: float = 0.0,
) -> Calibration:
    """Return the calibration, or with several systems the fusion, that is best on labelled trials.

    Args:
        scores: one list for each system; the trials and labels are those of the first, pairs are matched.
        quality: (N,) for each measure, trial by trial as in `scores[0]`; see `measures.of_trials`.
        p_target: the prior whose region of scores matters most.
        far: false-alarm rate whose threshold is to be chosen and stored with the error rates it has.
        fingerprint: the model whose scores they are.
        scoring: how its embeddings were scored, as `Scoring.name` says.
        units: the speakers of the enroll and the test sides, as `operating_point` takes them.
        speech_s: seconds of speech on a side of the trials, as `quality_measures.typical_speech` returns them.

    Raises:
        InputError: no labels, or of one class only; pairs missing; a constant or non-finite input; a single
            system whose scores are lower for targets.
    """
    trials, measures = scores[0].trials, quality or {}
    labels = trials.labels
    if labels is None:
        raise InputError(f"{trials.name}: has no labels; calibration needs trials with known answers")
    weights, bias = fit_affine(_inputs(scores, measures), labels, p_target)
    if len(scores) == 1 and weights[0] <= 0:
        raise InputError(
            f"{trials.name}: target trials score lower than non-targets (weight {weights[0]:.3g}); "
            "expected similarities, higher for the same speaker"
        )
    fitted = Calibration(
        kinds=tuple(one.kind for one in scores),
        quality=tuple(measures),
        weights=tuple(weights.tolist()),
        bias=bias,
        p_target=p_target,
        trials=trials.name,
        trials_sha256=trials.sha256,
        fingerprint=fingerprint,
        scoring=scoring,
        speech_s=speech_s,
    )
    if far is None:
        return fitted
    llr = fitted.apply(scores, quality).scores
    point = operating_point(llr, labels, threshold_at_far(llr, labels, far), units)
    return dataclasses.replace(fitted, point=point)


def fit_affine(
    inputs: Array, labels: NDArray[np.bool_], p_target: float, ridge: float = 1e-6
) -> tuple[Array, float]:
    """Return weights (K,) and bias of the prior-weighted logistic regression of labels on inputs (N, K).

    Minimised is p/T Σ log(1 + e^−(llr + logit p)) over targets, plus (1−p)/F Σ log(1 + e^(llr + logit p))
    over non-targets, plus ridge/2 |weights|² of standardised inputs. The ridge is too small to move a fit
    that data determine; where targets and non-targets are separable, it keeps the weights finite.

    Source: Brümmer and Du Preez 2006, "Application-independent evaluation of speaker detection", section 6;
        departure: the ridge.

    Raises:
        InputError: labels of one class only; an input that is constant or not finite; a prior not in (0, 1).
    """
    from scipy import optimize, special

    if not 0 < p_target < 1:
        raise InputError(f"p_target {p_target}: expected a probability between 0 and 1, both excluded")
    check_both_classes(labels)
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0)
    bad = np.flatnonzero(~(scale > 1e-12 * np.abs(centre)) | ~np.isfinite(scale))
    if bad.size:
        raise InputError(f"inputs {bad.tolist()} of the calibration: expected finite values that differ")
    design = np.column_stack([(inputs - centre) / scale, np.ones(len(inputs))])
    sign = np.where(labels, 1.0, -1.0)
    share = np.where(labels, p_target / labels.sum(), (1 - p_target) / (~labels).sum())
    penalty = ridge * np.append(np.ones(inputs.shape[1]), 0.0)  # none on the bias
    offset = special.logit(p_target)

    def loss(w: Array) -> float:
        return float(share @ np.logaddexp(0, -sign * (design @ w + offset)) + 0.5 * penalty @ w**2)

    def gradient(w: Array) -> Array:
        slopes: Array = -(share * sign * special.expit(-sign * (design @ w + offset))) @ design
        return slopes + penalty * w

    def hessian(w: Array) -> Array:
        p = special.expit(design @ w + offset)
        curvature: Array = (design.T * (share * p * (1 - p))) @ design
        return curvature + np.diag(penalty)

    start = np.append(np.zeros(inputs.shape[1]), -offset)
    optimum = optimize.minimize(
        loss, start, method="trust-exact", jac=gradient, hess=hessian, options={"gtol": 1e-9}
    )
    weights = optimum.x[:-1] / scale
    return weights, float(optimum.x[-1] - weights @ centre)


def _inputs(scores: Sequence[ScoreList], quality: Mapping[str, Array]) -> Array:
    """Return the inputs (N, K) of the trials of `scores[0]`: the systems' scores, then the measures."""
    first = scores[0]
    columns = [first.scores, *(_matched(first, other) for other in scores[1:])]
    for name, values in quality.items():
        if len(values) != len(first.scores):
            raise InputError(f"quality measure {name}: {len(values)} values for {len(first.scores)} trials")
        columns.append(np.asarray(values, np.float64))
    return np.column_stack(columns)


def _matched(first: ScoreList, other: ScoreList) -> Array:
    """Return the scores of `other` for the pairs of `first`, trial by trial; the rows of both may have any order."""
    trials, theirs = first.trials, other.trials
    code = {name: i for i, name in enumerate(trials.ids)}
    local = np.array([code.get(name, -1) for name in theirs.ids], np.int64)
    enroll, test = local[theirs.enroll], local[theirs.test]
    named_rows = np.flatnonzero((enroll >= 0) & (test >= 0))
    keys, at = np.unique(enroll[named_rows] * len(trials.ids) + test[named_rows], return_index=True)
    wanted = trials.pair_keys()
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    missing = np.flatnonzero(keys[place] != wanted) if len(keys) else np.arange(len(wanted))
    if missing.size:
        raise InputError(
            f"{theirs.name}: no score for {missing.size} of the {len(wanted)} pairs of {trials.name}: "
            f"{named([trials.pair(i) for i in missing[:6]])}"
        )
    return other.scores[named_rows][at][place]


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
