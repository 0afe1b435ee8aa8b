"""Calibration with quality measures (QMF), on trials that are drawn from the training speakers.

Source: Thienpondt, Desplanques and Demuynck 2021, arXiv:2010.11255, section 4, and WeSpeaker's `score_calibration`.
Departures: short recordings are cut from longer ones, so that a corpus without short recordings will do; durations and
magnitudes enter as logarithms; the cohort of a trial never holds its own speakers.

The network has heard these speakers, so it tells them apart better than others. The weights carry over to others, as
the published error rates show; the level of the likelihood ratios does so less. `speakerverif calibrate` fits both on
trials of others.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from speakerverif.config import Recipe
from speakerverif.corpora._prepared import balanced_trials
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.data.scores import ScoreList
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.inference.embed import embed, print_failures
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring import calibration, quality_measures
from speakerverif.scoring.calibration import Calibration

# Trials are drawn within groups of speakers, and scored against a cohort of the others: at least as many groups, of at
# most as many speakers.
GROUPS, GROUP_SPEAKERS = 5, 200
DRAWN = "trials drawn from the training speakers"


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Recordings of one group of training speakers, each whole and as a cut.

    Attributes:
        utterances: N, whole ones and cuts.
        recording: int64 (N,), equal where two come from the same recording.
        is_short: bool (N,), whether it is a cut.
    """

    utterances: list[Utterance]
    recording: NDArray[np.int64]
    is_short: NDArray[np.bool_]

    def without(self, ids: set[str]) -> "Cuts":
        """Return these without some utterances."""
        kept = np.array([utterance.id not in ids for utterance in self.utterances])
        utterances = [self.utterances[i] for i in np.flatnonzero(kept)]
        return Cuts(utterances, self.recording[kept], self.is_short[kept])


def check_calibration(recipe: Recipe, num_speakers: int) -> None:
    """Raise `InputError` where a recipe's calibration can't be fitted on the speakers of its training list."""
    config = recipe.calibration
    if not config.trials:
        return
    if "cohort" in config.quality and recipe.score.norm == "none":
        raise InputError('calibration.quality: "cohort" needs a cohort, which score.norm = "none" leaves out')
    if num_speakers < 2:
        raise InputError(f"calibration.trials: found {num_speakers} training speaker, expected 2 or more")
    if recipe.score.norm == "none":
        return
    drawn = min(num_speakers, config.speakers)
    held_out = -(-drawn // _num_groups(drawn))
    least = recipe.score.top_n if recipe.score.norm == "asnorm" else 2
    if num_speakers - held_out < least:
        raise InputError(
            f"calibration.trials: while {held_out} of the {num_speakers} training speakers are in the trials, the "
            f"cohort has fewer than {least}; take a smaller score.top_n or calibration.speakers"
        )


def fit_quality(
    recipe: Recipe, folder: ModelFolder, manifest: Manifest, device: str = "cpu", skip_bad: bool = False
) -> Calibration:
    """Return a calibration with the recipe's quality measures.

    Args:
        recipe: its `[calibration]` and seed.
        folder: the model, with its scoring.
        manifest: the training utterances.
        device: where the model is.
        skip_bad: leave out recordings that can't be embedded.

    Raises:
        InputError: no speaker with two recordings; recordings that can't be embedded; a quality measure that is the
            same in all trials.
    """
    groups = draw(recipe, manifest)
    each = max(2, recipe.calibration.trials // (3 * len(groups)))
    table = embed(folder, [u for group in groups for u in group.utterances], device=device)
    print_failures(table.failed)
    if table.failed and not skip_bad:
        raise InputError(f"{len(table.failed)} cuts of training recordings could not be embedded")
    scoring = folder.scoring()
    rng = np.random.default_rng([recipe.seed, 2])
    scores, columns = [], []
    for group in groups:
        cuts = group.without(set(table.failed))
        held_out = scoring.without({utterance.speaker for utterance in cuts.utterances})
        trials = _trials(cuts, each, rng)
        speakers = {utterance.id: utterance.speaker for utterance in cuts.utterances}
        scores.append(held_out.score(trials, table, None, speakers)[0])
        measures = recipe.calibration.quality
        columns.append(quality_measures.of_trials(measures, trials, table, None, held_out))
    trials = _joined([part.trials for part in scores])
    count = len({utterance.speaker for group in groups for utterance in group.utterances})
    trials = dataclasses.replace(trials, name=f"{len(trials):,} {DRAWN} ({count:,} of them)")
    return calibration.fit(
        [ScoreList(trials, np.concatenate([part.scores for part in scores]), scoring.kind)],
        {name: np.concatenate([part[name] for part in columns]) for name in columns[0]},
        recipe.calibration.p_target,
        fingerprint=folder.fingerprint,
        scoring=scoring.name,
    )


def is_drawn(fitted: Calibration) -> bool:
    """Return whether a calibration was fitted by `fit_quality`."""
    return DRAWN in fitted.trials


def draw(recipe: Recipe, manifest: Manifest) -> list[Cuts]:
    """Return recordings of training speakers, by group of speakers; the same for the same seed and manifest."""
    config, rng = recipe.calibration, np.random.default_rng([recipe.seed, 1])
    drawn = rng.permutation(len(manifest.speakers))[: config.speakers]
    order = np.argsort(manifest.speaker_index, kind="stable")
    of_speaker = np.split(order, np.cumsum(np.bincount(manifest.speaker_index))[:-1])
    groups = []
    for members in np.array_split(drawn, _num_groups(len(drawn))):
        utterances: list[Utterance] = []
        for speaker in members.tolist():
            for row in rng.permutation(of_speaker[speaker])[: config.recordings].tolist():
                whole = manifest[row]
                utterances += [whole, _cut(whole, float(rng.uniform(*config.short_s)), float(rng.random()))]
        places = np.arange(len(utterances))
        groups.append(Cuts(utterances, places // 2, places % 2 == 1))
    return groups


def _num_groups(speakers: int) -> int:
    """Return the number of groups into which speakers are divided, each of two or more."""
    return max(1, min(speakers // 2, max(GROUPS, -(-speakers // GROUP_SPEAKERS))))


def _cut(whole: Utterance, seconds: float, place: float) -> Utterance:
    """Return a part of a recording; `place` from 0 (its start) to 1 (its end). A shorter recording is taken whole."""
    start_s, duration_s = whole.start_s, whole.duration_s
    if duration_s is not None:
        start_s += place * max(0.0, duration_s - seconds)
        seconds = min(seconds, duration_s)
    return dataclasses.replace(whole, id=f"{whole.id} cut", start_s=start_s, duration_s=seconds)


def _trials(cuts: Cuts, each: int, rng: np.random.Generator) -> TrialList:
    """Return `each` trials, or fewer, of two whole recordings, of a whole one and a cut, and of two cuts."""
    ids = [utterance.id for utterance in cuts.utterances]
    names = np.array([utterance.speaker for utterance in cuts.utterances])
    same_speaker = names[:, None] == names[None]
    targets = same_speaker & (cuts.recording[:, None] != cuts.recording[None])
    num_short = cuts.is_short[:, None].astype(int) + cuts.is_short[None]
    return _joined(
        [
            balanced_trials(
                ids, targets & (num_short == n), ~same_speaker & (num_short == n), each, rng, DRAWN
            )
            for n in (0, 1, 2)
        ]
    )


def _joined(lists: list[TrialList]) -> TrialList:
    """Return the trials of several labelled lists, one after the other."""
    place = {name: i for i, name in enumerate(dict.fromkeys(name for part in lists for name in part.ids))}
    enroll, test = (
        np.concatenate(
            [np.array([place[name] for name in part.ids], np.int32)[getattr(part, side)] for part in lists]
        )
        for side in ("enroll", "test")
    )
    labels = np.concatenate([np.asarray(part.labels) for part in lists])
    return TrialList(tuple(place), enroll, test, labels, DRAWN)
