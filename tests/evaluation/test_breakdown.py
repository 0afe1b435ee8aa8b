"""Figures by group: who is in which group, hand-counted, and that each equals what the group alone gives."""

import json

import numpy as np
import pytest

from speakerverif.data.metadata import Column
from speakerverif.data.scores import ScoreList
from speakerverif.data.speakers import Units, units_of
from speakerverif.data.trials import TrialList
from speakerverif.evaluation.breakdown import breakdown, format_breakdown, group_trials
from speakerverif.evaluation.evaluate import Settings, evaluate
from speakerverif.evaluation.intervals import estimate
from speakerverif.evaluation.metrics import det_curve
from speakerverif.evaluation.records import ColumnBreakdown, ScoringRecord


def random_task(speakers: int = 12, each: int = 5, seed: int = 0) -> tuple[ScoreList, Units, ScoringRecord]:
    """Return every pair of a small corpus, scored with noise that grows with the speaker's number."""
    rng = np.random.default_rng(seed)
    ids = tuple(f"s{s:02}/{u}" for s in range(speakers) for u in range(each))
    owner = np.repeat(np.arange(speakers), each)
    enroll, test = (side.astype(np.int32) for side in np.triu_indices(len(ids), 1))
    labels = owner[enroll] == owner[test]
    scores = labels * 2.0 + rng.normal(size=len(labels)) * (0.5 + owner[enroll] / speakers)
    found = ScoreList(TrialList(ids, enroll, test, labels, "all"), scores)
    return found, units_of(found.trials), evaluate(found, Settings())


def trials_of(*pairs: str) -> TrialList:
    ids = tuple(dict.fromkeys(name for pair in pairs for name in pair.split()))
    enroll, test = np.array([[ids.index(name) for name in pair.split()] for pair in pairs], np.int32).T
    return TrialList(ids, enroll, test, None)


def groups(trials: TrialList, **values: str) -> dict[str, list[int]]:
    found = group_trials(trials, Column("x", values))
    return {name: np.flatnonzero(found.member == k).tolist() for k, name in enumerate(found.names)}


def test_pairs_of_values_in_either_order() -> None:
    trials = trials_of("a b", "b c", "c a", "c d", "d d", "a e")
    found = groups(trials, a="f", b="f", c="m", d="m")
    assert found == {"f": [0], "m": [3, 4], "f – m": [1, 2], "not given": [5]}


def test_many_values_make_one_group_of_different_ones() -> None:
    trials = trials_of("a b", "b c", "c d", "d a", "a a")
    found = groups(trials, a="1", b="2", c="3", d="10")
    assert found == {"1": [4], "different": [0, 1, 2, 3]}


def test_few_numbers_stand_in_their_order_not_in_the_alphabets() -> None:
    assert list(groups(trials_of("a a", "b b", "a b"), a="10", b="9")) == ["9", "10", "9 – 10"]


def test_a_value_called_as_a_group_is_not_mixed_up_with_it() -> None:
    found = group_trials(trials_of("a a", "b b"), Column("x", {"a": "not given"}))
    assert found.names == ["not given", "not given"]
    assert found.member.tolist() == [0, 1] and found.without == 1


def test_numbers_fall_into_quartiles_of_the_lower_side() -> None:
    ids = [f"u{k}" for k in range(12)]
    trials = trials_of(*(f"u{k} u11" for k in range(12)))  # the lower of both is k + 1
    found = groups(trials, **{name: str(k + 1) for k, name in enumerate(ids)})
    assert found == {
        "1 ≤ x < 3": [0, 1],
        "3 ≤ x < 6": [2, 3, 4],
        "6 ≤ x < 9": [5, 6, 7],
        "9 ≤ x ≤ 12": [8, 9, 10, 11],
    }
    missing = groups(trials, **{name: str(k + 1) for k, name in enumerate(ids) if k != 4})
    assert missing["not given"] == [4]
    ties = groups(trials, **{name: str(max(1.5, k - 2)) for k, name in enumerate(ids)})
    assert sum(map(len, ties.values())) == 12 and next(iter(ties)).startswith("1.5 ≤ x < ")


def test_a_model_has_the_value_that_its_files_share() -> None:
    trials = trials_of("ann x", "bob x")
    column = Column("gender", {"1": "f", "2": "f", "3": "m", "x": "f"})
    found = group_trials(trials, column, {"ann": ["1", "2"], "bob": ["2", "3"]})
    assert [found.names[k] for k in found.member] == ["f", "not given"] and found.without == 1


def test_figures_are_those_of_the_group_alone() -> None:
    scores, units, record = random_task()
    column = Column("half", {name: "low" if name < "s06" else "high" for name in scores.trials.ids})
    (halves,) = breakdown(scores, [column], units, record.figures)
    low = next(group for group in halves.groups if group.group == "low")
    rows = (units.enroll < 6) & (units.test < 6)
    values, labels = scores.scores[rows], np.asarray(scores.trials.labels)[rows]
    assert (low.targets, low.nontargets, low.units) == (60, 375, 6)
    assert low.eer == det_curve(values, labels).eer().rate
    assert low.costs[1].key == "0.05"
    assert low.costs[1].minimum == det_curve(values, labels).min_dcf(0.05).cost
    # Six speakers: a rate and a cost, but no interval.
    assert low.eer_ci95 is None and low.costs[1].ci95 is None
    assert low.p_miss == np.mean(values[labels] < record.figures.eer_threshold)
    assert low.p_fa == np.mean(values[~labels] >= record.figures.eer_threshold)
    assert sum(group.targets + group.nontargets for group in halves.groups) == record.trials


def test_what_is_too_few_is_null_and_says_so() -> None:
    scores, units, record = random_task()
    column = Column("who", {name: "one" if name < "s01" else "rest" for name in scores.trials.ids})
    (who,) = breakdown(scores, [column], units, record.figures)
    one, rest, mixed = who.groups
    assert one.targets == 10 and one.eer is None and one.p_miss is None and one.p_fa is None
    assert mixed.group == "one – rest" and mixed.eer is None and mixed.p_fa is not None
    # One false alarm in 1,375 costs 99 / 1375 = 0.072; in 375 it would cost 0.26.
    assert rest.nontargets == 1375 and rest.costs[0].minimum is not None
    half = Column("half", {n: str(n < "s06") for n in scores.trials.ids})
    (halves,) = breakdown(scores, [half], units, record.figures)
    assert halves.groups[1].nontargets == 375 and halves.groups[1].costs[0].minimum is None
    text = format_breakdown([who])
    assert "too few" in text and "nan" not in text.lower()
    written = json.loads(json.dumps(who.to_json(), allow_nan=False))
    assert ColumnBreakdown.from_json(written) == who
    assert written["groups"][0]["min_dcf"] == {"0.01": None, "0.05": None}


def test_nine_speakers_give_no_interval_and_ten_do() -> None:
    scores, units, record = random_task(speakers=19, each=4)
    column = Column("x", {name: "few" if name < "s09" else "more" for name in scores.trials.ids})
    few, more, mixed = breakdown(scores, [column], units, record.figures)[0].groups
    assert few.units == 9 and few.eer is not None and few.eer_ci95 is None
    assert mixed.eer is None and more.units == 10 and more.eer_ci95 is not None
    rows = (units.enroll >= 9) & (units.test >= 9)
    sides = units.enroll[rows] - 9, units.test[rows] - 9
    alone = estimate(scores.scores[rows], np.asarray(scores.trials.labels)[rows], *sides)
    assert more.eer_ci95 == alone.eer.interval()


def test_the_order_of_the_trials_does_not_matter() -> None:
    scores, units, record = random_task()
    column = Column("x", {name: name[-1] for name in scores.trials.ids})
    order = np.random.default_rng(1).permutation(len(scores.trials))
    t = scores.trials
    assert t.labels is not None
    shuffled = ScoreList(
        TrialList(t.ids, t.test[order], t.enroll[order], t.labels[order], t.name), scores.scores[order]
    )
    again = breakdown(shuffled, [column], units_of(shuffled.trials), record.figures)
    assert again == breakdown(scores, [column], units, record.figures)


def test_a_column_of_names_is_left_out_and_that_is_said() -> None:
    scores, units, record = random_task()
    (found,) = breakdown(
        scores, [Column("file", {n: f"n{n}" for n in scores.trials.ids})], units, record.figures
    )
    assert found.groups == () and found.left_out == "60 values, more than 30"
    assert "file: left out" in format_breakdown([found])


@pytest.mark.parametrize("columns", [[], [Column("x", {})]])
def test_nothing_known_is_no_failure(columns: list[Column]) -> None:
    scores, units, record = random_task(speakers=6, each=3)
    found = breakdown(scores, columns, units, record.figures)
    assert [group.group for column in found for group in column.groups] == ["not given"] * len(columns)
