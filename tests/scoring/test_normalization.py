"""Score normalisation against hand-worked values and a brute-force loop."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import ArrayLike

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreList
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.scoring import normalization


def table_of(embeddings: ArrayLike, ids: Sequence[str], fingerprint: str = "model") -> EmbeddingTable:
    count = len(ids)
    seconds = np.ones(count, np.float32)
    return EmbeddingTable(
        ids, np.asarray(embeddings, np.float32), seconds, seconds, ["ok"] * count, fingerprint
    )


def example(
    seed: int = 0, files: int = 12, cohort_size: int = 30, trials: int = 50, dim: int = 6
) -> tuple[ScoreList, EmbeddingTable, EmbeddingTable]:
    """Return cosine scores of random trials, their embeddings, and a cohort."""
    rng = np.random.default_rng(seed)
    table = table_of(rng.standard_normal((files, dim)), [f"u{i}" for i in range(files)])
    cohort = table_of(rng.standard_normal((cohort_size, dim)), [f"c{i}" for i in range(cohort_size)])
    enroll, test = rng.integers(0, files, (2, trials)).astype(np.int32)
    pairs = TrialList(tuple(table.ids), enroll, test, None, name="trials.txt")
    own = normalization.unit(table.embeddings.astype(np.float64))
    scores = np.einsum("ij,ij->i", own[enroll], own[test])
    return ScoreList(trials=pairs, scores=scores, kind="cosine"), table, cohort


def brute_force(
    scores: ScoreList, table: EmbeddingTable, cohort: EmbeddingTable, top_n: int, sides: Sequence[str]
) -> np.ndarray:
    """One trial after the other, sorting everything, in float64."""
    own = normalization.unit(table.embeddings.astype(np.float64))
    others = normalization.unit(cohort.embeddings.astype(np.float64))
    out = []
    for i, j, raw in zip(scores.trials.enroll, scores.trials.test, scores.scores, strict=True):
        parts = []
        for row in [{"enroll": i, "test": j}[side] for side in sides]:
            highest = np.sort(others @ own[row])[::-1][:top_n]
            parts.append((raw - highest.mean()) / highest.std())
        out.append(np.mean(parts))
    return np.array(out)


def test_as_norm_by_hand() -> None:
    """Cohort cosines 0.8, 0.6, 0 of enroll and 0.6, 0.8, -1 of test: the top two are 0.7 ± 0.1 on both."""
    table = table_of([[1, 0], [0, 1]], ["a", "b"])
    cohort = table_of([[0.8, 0.6], [0.6, 0.8], [0.0, -1.0]], ["x", "y", "z"])
    trials = TrialList(("a", "b"), np.zeros(1, np.int32), np.ones(1, np.int32), None, name="one")
    found = normalization.as_norm(
        ScoreList(trials=trials, scores=np.zeros(1), kind="cosine"), table, cohort, top_n=2
    )
    assert_allclose(found.scores, [-7.0], rtol=1e-5)
    assert found.kind == "normalized"


@pytest.mark.parametrize("top_n", [2, 7, 30])
def test_as_norm_agrees_with_brute_force(top_n: int) -> None:
    scores, table, cohort = example()
    expected = brute_force(scores, table, cohort, top_n, ("enroll", "test"))
    assert_allclose(
        normalization.as_norm(scores, table, cohort, top_n).scores, expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("kind", "sides"), [("z", ["enroll"]), ("t", ["test"]), ("s", ["enroll", "test"])])
def test_whole_cohort_norms_agree_with_brute_force(kind: Literal["z", "t", "s"], sides: list[str]) -> None:
    scores, table, cohort = example(1)
    expected = brute_force(scores, table, cohort, 30, sides)
    assert_allclose(
        normalization.normalize(scores, table, cohort, kind).scores, expected, rtol=1e-4, atol=1e-4
    )


def test_mirrored_trials_score_alike_and_rows_may_come_in_any_order() -> None:
    scores, table, cohort = example(2)
    found = normalization.as_norm(scores, table, cohort, 10).scores
    trials = scores.trials
    mirrored = dataclasses.replace(trials, enroll=trials.test, test=trials.enroll)
    again = normalization.as_norm(dataclasses.replace(scores, trials=mirrored), table, cohort, 10)
    assert_allclose(again.scores, found, rtol=1e-12)

    order = np.random.default_rng(3).permutation(len(trials.enroll))
    shuffled = dataclasses.replace(trials, enroll=trials.enroll[order], test=trials.test[order])
    reversed_cohort = table_of(cohort.embeddings[::-1], list(cohort.ids)[::-1])
    again = normalization.as_norm(
        ScoreList(shuffled, scores.scores[order], "cosine"), table, reversed_cohort, 10
    )
    assert_allclose(again.scores, found[order], rtol=1e-5, atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, table, cohort = example(4)
    whole = normalization.as_norm(scores, table, cohort, 10).scores
    monkeypatch.setattr(normalization, "_BLOCK_SCORES", 70)  # two embeddings at a time
    assert_allclose(normalization.as_norm(scores, table, cohort, 10).scores, whole, rtol=1e-5, atol=1e-5)


def test_an_enrolled_model_is_the_mean_of_its_unit_vectors() -> None:
    _, table, cohort = example(5)
    own = normalization.unit(table.embeddings.astype(np.float64))
    model = normalization.unit((own[1] + own[2] + own[3])[None])[0]
    trials = TrialList(("m", "u0"), np.zeros(1, np.int32), np.ones(1, np.int32), None, name="models")
    scores = ScoreList(trials=trials, scores=np.array([model @ own[0]]), kind="cosine")
    found = normalization.as_norm(scores, table, cohort, 10, enroll_map={"m": ["u1", "u2", "u3"]})
    pooled = table_of([model, own[0]], ["m", "u0"])
    assert_allclose(found.scores, normalization.as_norm(scores, pooled, cohort, 10).scores, rtol=1e-4)
    with pytest.raises(InputError, match="no utterances for m"):
        normalization.as_norm(scores, table, cohort, 10, enroll_map={"other": ["u1"]})


def test_speaker_means_by_hand() -> None:
    table = table_of([[10, 0], [0, 1], [3, 4]], ["a1", "a2", "b1"])
    means = normalization.speaker_means(table, {"a1": "anna", "a2": "anna", "b1": "bert"})
    assert list(means.ids) == ["anna", "bert"]
    assert_allclose(means.embeddings, [[np.sqrt(0.5), np.sqrt(0.5)], [0.6, 0.8]], rtol=1e-6)
    assert_allclose(means.durations, [2, 1])
    with pytest.raises(InputError, match="no speaker is known for b1"):
        normalization.speaker_means(table, {"a1": "anna", "a2": "anna"})


def test_a_cohort_that_shares_speakers_or_ids_with_the_trials_is_refused() -> None:
    scores, table, cohort = example(6)
    same_id = table_of(cohort.embeddings, ["u3", *list(cohort.ids)[1:]])
    with pytest.raises(InputError, match=r"shares 1 speakers or ids with the trials of trials\.txt: u3"):
        normalization.as_norm(scores, table, same_id, 10)
    speakers = {"u3": "anna", "u4": "bert", "c9": "anna"}
    with pytest.raises(InputError, match=": anna;"):
        normalization.as_norm(scores, table, cohort, 10, speakers=speakers)
    of_speaker_means = table_of(cohort.embeddings, ["bert", *list(cohort.ids)[1:]])
    with pytest.raises(InputError, match=": bert;"):
        normalization.as_norm(scores, table, of_speaker_means, 10, speakers={"u4": "bert"})


def test_what_can_not_be_normalised_is_refused() -> None:
    scores, table, cohort = example(7)
    with pytest.raises(InputError, match="top_n 31: expected 2 to 30"):
        normalization.as_norm(scores, table, cohort, 31)
    with pytest.raises(InputError, match="by model other, the trials by model"):
        normalization.as_norm(scores, table, table_of(cohort.embeddings, cohort.ids, "other"), 10)
    with pytest.raises(InputError, match="found kind 'plda'"):
        normalization.as_norm(dataclasses.replace(scores, kind="plda"), table, cohort, 10)
    with pytest.raises(InputError, match="are not these embeddings' cosines"):
        normalization.as_norm(
            scores, dataclasses.replace(table, embeddings=table.embeddings + 0.1), cohort, 10
        )
    with pytest.raises(InputError, match="score the same against all 30"):
        normalization.as_norm(scores, table, table_of(np.ones((30, 6)), cohort.ids), 30)
    broken = cohort.embeddings.copy()
    broken[4, 2] = np.nan
    with pytest.raises(InputError, match=r"rows \[4\]: expected embeddings that are finite"):
        normalization.as_norm(scores, table, table_of(broken, cohort.ids), 10)
