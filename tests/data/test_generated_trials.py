"""Generated trials: counts by hand, no recording on both sides, each pair once, durations matched."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakerverif.data.generated_trials import generate_trials
from speakerverif.errors import InputError


def recordings(counts: dict[str, int]) -> tuple[list[str], list[str]]:
    """Return ids and speakers of so many recordings of each speaker."""
    ids = [f"{name}/{k}" for name, count in counts.items() for k in range(count)]
    return ids, [one.partition("/")[0] for one in ids]


def test_counts_by_hand() -> None:
    ids, speakers = recordings({"ann": 3, "bob": 3, "cho": 1})
    made = generate_trials(ids, speakers, np.ones(7))
    # Two speakers have three pairs each; each of the six has one non-target trial for each of two other speakers, and
    # no pair of recordings is compared twice: cho's one recording meets each of the others' at most once.
    assert made.trials.labels is not None and made.enroll_map is None
    assert made.trials.labels.sum() == 6 and 8 <= (~made.trials.labels).sum() <= 12
    two = generate_trials(ids, speakers, np.ones(7), enrolled=2)
    assert two.enroll_map is not None and two.trials.labels is not None
    assert two.trials.labels.sum() == 2 and [len(files) for files in two.enroll_map.values()] == [2, 2]
    assert (~two.trials.labels).sum() == 4


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 7), min_size=2, max_size=6),
    enrolled=st.integers(1, 3),
    seed=st.integers(0, 99),
    most=st.sampled_from([20, 50_000]),
)
def test_no_recording_is_on_both_sides_and_no_pair_twice(
    counts: list[int], enrolled: int, seed: int, most: int
) -> None:
    ids, speakers = recordings({f"s{k}": count for k, count in enumerate(counts)})
    durations = np.random.default_rng(seed).uniform(1, 9, len(ids))
    if max(counts) <= enrolled:
        with pytest.raises(InputError, match=f"{enrolled + 1} recordings"):
            generate_trials(ids, speakers, durations, enrolled, most, seed)
        return
    made = generate_trials(ids, speakers, durations, enrolled, most, seed)
    owner, trials, labels = dict(zip(ids, speakers, strict=True)), made.trials, made.trials.labels
    assert labels is not None
    pairs = set()
    for model, test, label in zip(trials.enroll_ids(), trials.test_ids(), labels, strict=True):
        files = (made.enroll_map or {model: [model]})[model]
        assert len(set(files)) == enrolled and test not in files and len({owner[one] for one in files}) == 1
        assert (owner[files[0]] == owner[test]) == label
        pairs.add(frozenset((model, test)))
    assert len(pairs) == len(trials)
    again = generate_trials(ids, speakers, durations, enrolled, most, seed)
    assert again.trials.sha256 == trials.sha256 and list(again.trials.ids) == list(trials.ids)


def test_durations_of_both_kinds_of_trials_are_alike() -> None:
    # Half of the speakers speak long, half short: drawn at random, non-targets would differ from targets in length.
    rng = np.random.default_rng(0)
    ids, speakers = recordings({f"s{k}": 8 for k in range(10)})
    durations = np.array([rng.uniform(1, 2) if i % 8 < 3 else rng.uniform(8, 9) for i in range(80)])
    made = generate_trials(ids, speakers, durations, enrolled=1, max_trials=400)
    length = dict(zip(ids, durations, strict=True))
    labels = made.trials.labels
    assert labels is not None
    for side in (made.trials.enroll_ids(), made.trials.test_ids()):
        shares = [
            np.mean([length[one] > 5 for one in itertools.compress(side, kind)]) for kind in (labels, ~labels)
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.05)


def test_few_trials_are_spread_over_the_speakers() -> None:
    ids, speakers = recordings({"ann": 30, "bob": 5, "cho": 5})
    made = generate_trials(ids, speakers, np.full(40, np.nan), max_trials=60)
    assert made.trials.labels is not None and len(made.trials) <= 60
    targets = list(itertools.compress(made.trials.enroll_ids(), made.trials.labels))
    assert {name: sum(one.startswith(name) for one in targets) for name in ("ann", "bob", "cho")} == {
        "ann": 4,
        "bob": 4,
        "cho": 4,
    }
