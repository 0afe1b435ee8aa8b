"""Back ends against hand-worked values, brute force and other implementations."""

from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import linalg
from scipy.stats import multivariate_normal

from speakerverif.errors import InputError
from speakerverif.scoring.backends import Backend, cosine, lda, plda, wccn
from speakerverif.testing import check_backend

FITTED = [
    cosine.build(cosine.Config(subtract_mean=True)),
    lda.build(lda.Config(dim=3)),
    wccn.build(wccn.Config()),
    wccn.build(wccn.Config(covariance="total")),
    plda.build(plda.Config()),
    plda.build(plda.Config(lda_dim=3, length_norm=False)),
]


def draw(
    rng: np.random.Generator,
    speakers: int = 40,
    utterances: int | np.ndarray = 6,
    dim: int = 5,
    between: np.ndarray | None = None,
    within: np.ndarray | None = None,
    mean: float | np.ndarray = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings float32 (N, dim) and labels (N,) of the two-covariance model."""
    between = np.diag(np.linspace(2, 0.5, dim)) if between is None else between
    within = np.eye(dim) if within is None else within
    counts = np.broadcast_to(utterances, speakers)
    labels = np.repeat(np.arange(speakers), counts)
    offsets = rng.multivariate_normal(np.zeros(dim), between, speakers)
    noise = rng.multivariate_normal(np.zeros(dim), within, len(labels))
    return (mean + offsets[labels] + noise).astype(np.float32), labels


def covariance(rng: np.random.Generator, dim: int) -> np.ndarray:
    root = rng.standard_normal((dim, dim + 2))
    matrix: np.ndarray = root @ root.T / dim
    return matrix


def all_pairs(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    return i.ravel(), j.ravel()


def test_cosine_by_hand() -> None:
    backend = cosine.build(cosine.Config())
    enroll = np.array([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0]], np.float32)
    test = np.array([[2.0, 0.0], [3.0, 4.0]], np.float32)
    scores = backend.score(enroll, test, np.array([0, 1, 2, 0]), np.array([0, 0, 0, 1]))
    assert_allclose(scores, [1, 0, np.sqrt(0.5), 0.6], atol=1e-7)
    assert scores.dtype == np.float64


def test_several_enrolment_utterances_weigh_alike_whatever_their_length() -> None:
    backend = cosine.build(cosine.Config())
    enroll = np.array([[100.0, 0.0], [0.0, 1.0], [0.0, 5.0]], np.float32)  # a model of two, a model of one
    scores = backend.score(
        enroll, np.array([[1.0, 0.0]], np.float32), np.array([0, 1]), np.zeros(2, int), np.array([2, 1])
    )
    assert_allclose(scores, [np.sqrt(0.5), 0.0], atol=1e-7)


def test_mean_subtraction_by_hand() -> None:
    backend = cosine.build(cosine.Config(subtract_mean=True))
    backend.fit(np.array([[0.0, 0.0], [2.0, 4.0]], np.float32), np.array([0, 1]))
    scores = backend.score(np.array([[2.0, 2.0]]), np.array([[1.0, 3.0]]), np.array([0]), np.array([0]))
    assert_allclose(scores, [0.0], atol=1e-7)  # (1, 0) and (0, 1) around the mean (1, 2)


def test_lda_agrees_with_scikit_learn() -> None:
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    rng = np.random.default_rng(0)
    values, labels = draw(rng, utterances=rng.integers(2, 9, 40))
    backend = lda.build(lda.Config(dim=3))
    backend.fit(values, labels)
    oracle = discriminant.LinearDiscriminantAnalysis(solver="eigen", n_components=3).fit(values, labels)
    assert backend.mean is not None and backend.matrix is not None
    ours = (values - backend.mean) @ backend.matrix
    theirs = (values - backend.mean) @ oracle.scalings_[:, :3]
    assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["within", "total"])
def test_whitening_makes_its_covariance_the_identity(kind: Literal["within", "total"]) -> None:
    rng = np.random.default_rng(1)
    values, labels = draw(rng, within=covariance(rng, 5))
    backend = wccn.build(wccn.Config(covariance=kind))
    backend.fit(values, labels)
    assert backend.mean is not None and backend.matrix is not None
    mapped = (values.astype(np.float64) - backend.mean) @ backend.matrix
    if kind == "within":
        mapped -= np.stack([mapped[labels == label].mean(axis=0) for label in labels])
    freedom = len(values) - (40 if kind == "within" else 1)
    assert_allclose(mapped.T @ mapped / freedom, np.eye(5), atol=1e-9)


def brute_force_llr(
    enroll: np.ndarray, test: np.ndarray, mean: np.ndarray, between: np.ndarray, within: np.ndarray
) -> float:
    """Return log p(all | one speaker) − log p(enroll) − log p(test), from dense stacked covariances."""

    def log_density(rows: np.ndarray) -> float:
        count = len(rows)
        dense = np.kron(np.ones((count, count)), between) + np.kron(np.eye(count), within)
        return float(multivariate_normal(np.tile(mean, count), dense).logpdf(np.ravel(rows)))

    return log_density(np.vstack([enroll, test])) - log_density(enroll) - log_density(test[None])


def trained(rng: np.random.Generator, dim: int = 3) -> plda.Plda:
    """Return a PLDA of random parameters, without any processing before it."""
    backend = plda.build(plda.Config(length_norm=False))
    backend.centre, backend.projection = rng.standard_normal(dim), np.eye(dim)
    backend.mean = rng.standard_normal(dim)
    backend.between, backend.within = covariance(rng, dim), covariance(rng, dim)
    return backend


def test_plda_scores_are_the_exact_likelihood_ratio_for_any_number_of_enrolment_utterances() -> None:
    rng = np.random.default_rng(2)
    backend = trained(rng)
    counts = np.array([1, 4, 2, 1])
    enroll, test = rng.standard_normal((8, 3)), rng.standard_normal((5, 3))
    i, j = all_pairs(4, 5)
    scores = backend.score(enroll, test, i, j, counts)
    models = np.split(enroll, np.cumsum(counts)[:-1])
    mean = backend.mean + backend.centre
    expected = [
        brute_force_llr(models[a], test[b], mean, backend.between, backend.within)
        for a, b in zip(i, j, strict=True)
    ]
    assert_allclose(scores, expected, rtol=1e-9, atol=1e-9)


def test_plda_of_single_utterances_is_symmetric() -> None:
    rng = np.random.default_rng(3)
    backend = trained(rng)
    left, right = rng.standard_normal((6, 3)), rng.standard_normal((6, 3))
    rows = np.arange(6)
    assert_allclose(
        backend.score(left, right, rows, rows), backend.score(right, left, rows, rows), rtol=1e-10
    )


def test_plda_scores_agree_with_speechbrain_for_the_same_parameters() -> None:
    oracle = pytest.importorskip("speechbrain.processing.PLDA_LDA")
    rng = np.random.default_rng(4)
    backend = trained(rng, dim=4)
    backend.centre = np.zeros(4)
    enroll, test = rng.standard_normal((5, 4)), rng.standard_normal((7, 4))

    def statistics(rows: np.ndarray, prefix: str) -> tuple[Any, np.ndarray]:
        names = np.array([f"{prefix}{k}" for k in range(len(rows))], dtype=object)
        none = np.array([None] * len(rows))
        return oracle.StatObject_SB(names, names, none, none, np.ones((len(rows), 1)), rows.copy()), names

    enrolled, models = statistics(enroll, "e")
    tested, segments = statistics(test, "t")
    factor = linalg.cholesky(backend.between, lower=True)
    theirs = oracle.fast_PLDA_scoring(
        enrolled, tested, oracle.Ndx(models=models, testsegs=segments), backend.mean, factor, backend.within
    )
    # SpeechBrain's constant is log|K2|/2 − log|K1| with K1, K2 inverses: the same as ours. The orders of
    # models and segments are its own (sorted), here ours too.
    assert_allclose(
        backend.score(enroll, test, *all_pairs(5, 7)), theirs.scoremat.ravel(), rtol=1e-9, atol=1e-9
    )


def log_likelihood(
    values: np.ndarray, labels: np.ndarray, mean: np.ndarray, between: np.ndarray, within: np.ndarray
) -> float:
    total = 0.0
    for label in np.unique(labels):
        rows = values[labels == label]
        count = len(rows)
        dense = np.kron(np.ones((count, count)), between) + np.kron(np.eye(count), within)
        total += multivariate_normal(np.tile(mean, count), dense).logpdf(rows.ravel())
    return total


def test_em_never_lowers_the_likelihood_and_passes_that_of_the_truth() -> None:
    rng = np.random.default_rng(5)
    between, within = covariance(rng, 3), covariance(rng, 3)
    values, labels = draw(rng, 60, rng.integers(1, 7, 60), 3, between, within)
    history = []
    for iterations in (0, 1, 2, 5, 20):
        backend = plda.build(plda.Config(length_norm=False, iterations=iterations))
        backend.fit(values, labels)
        centred = values - backend.centre
        history.append(log_likelihood(centred, labels, backend.mean, backend.between, backend.within))
    assert np.all(np.diff(history) > 0)
    assert history[-1] > log_likelihood(values, labels, np.zeros(3), between, within)


def test_em_recovers_the_covariances() -> None:
    rng = np.random.default_rng(6)
    between, within = covariance(rng, 4), covariance(rng, 4)
    values, labels = draw(rng, 3000, 5, 4, between, within, mean=3.0)
    backend = plda.build(plda.Config(length_norm=False))
    backend.fit(values, labels)
    assert linalg.norm(backend.between - between) < 0.08 * linalg.norm(between)
    assert linalg.norm(backend.within - within) < 0.05 * linalg.norm(within)


def test_one_em_step_agrees_with_the_textbook() -> None:
    """Brümmer and De Villiers 2010: one speaker after the other, with dense inverses."""
    rng = np.random.default_rng(7)
    values, labels = draw(rng, 12, rng.integers(1, 5, 12), 3)
    values = values.astype(np.float64)
    mean, between, within = values.mean(axis=0), covariance(rng, 3), covariance(rng, 3)
    speakers, posteriors = np.unique(labels), []
    for speaker in speakers:
        rows = values[labels == speaker]
        spread = linalg.inv(linalg.inv(between) + len(rows) * linalg.inv(within))
        posteriors.append((spread @ linalg.inv(within) @ (rows - mean).sum(axis=0), spread))
    expected_between = np.mean([np.outer(y, y) + spread for y, spread in posteriors], axis=0)
    expected_mean = np.mean([values[k] - posteriors[label][0] for k, label in enumerate(labels)], axis=0)
    residuals = [values[k] - expected_mean - posteriors[label][0] for k, label in enumerate(labels)]
    expected_within = np.mean(
        [np.outer(r, r) + posteriors[label][1] for r, label in zip(residuals, labels, strict=True)], axis=0
    )
    found = plda._em(values, labels, between, within, 1)
    for ours, textbook in zip(found, (expected_mean, expected_between, expected_within), strict=True):
        assert_allclose(ours, textbook, atol=1e-10)


def test_coral_plus_only_enlarges_and_weight_zero_keeps_the_covariances() -> None:
    rng = np.random.default_rng(8)
    backend = plda.build(plda.Config(length_norm=False))
    backend.fit(*draw(rng, 200))
    before = backend.state()
    stretched = draw(rng, 200)[0] * np.array([3.0, 1, 1, 1, 0.2], np.float32) + 7
    backend.adapt(stretched, weight=0.0)
    assert_allclose(backend.between, before["between"])
    backend.adapt(stretched, weight=1.0)
    grown = backend.between + backend.within - before["between"] - before["within"]
    assert linalg.eigvalsh(grown).min() > -1e-9
    assert backend.within[0, 0] > 5 * before["within"][0, 0]
    assert_allclose(backend.centre, stretched.mean(axis=0), rtol=1e-5)


def test_coral_plus_in_one_dimension_by_hand() -> None:
    backend = plda.build(plda.Config(length_norm=False))
    backend.centre, backend.projection, backend.mean = np.zeros(1), np.eye(1), np.zeros(1)
    backend.between, backend.within = np.array([[3.0]]), np.array([[1.0]])
    backend.adapt(np.array([[4.0], [-4.0], [0.0]]), weight=0.5)  # variance 16: four times the model's 4
    assert_allclose([backend.between.item(), backend.within.item()], [7.5, 2.5])


def one_dimension() -> plda.Plda:
    """PLDA with a between-speaker variance of 3 and a within-speaker variance of 1."""
    backend = plda.build(plda.Config(length_norm=False))
    backend.centre, backend.projection, backend.mean = np.zeros(1), np.eye(1), np.zeros(1)
    backend.between, backend.within = np.array([[3.0]]), np.array([[1.0]])
    return backend


@pytest.mark.parametrize(
    ("half_range", "weight", "expected"), [(4.0, 1.0, [6, 10]), (4.0, 0.5, [4.5, 5.5]), (1.0, 1.0, [3, 1])]
)
def test_kaldis_adaptation_in_one_dimension_by_hand(
    half_range: float, weight: float, expected: list[float]
) -> None:
    backend = one_dimension()
    # A variance of half_range ** 2: 16 exceeds the model's 4 by 12; 1 does not.
    backend.adapt(np.array([[half_range], [-half_range], [0.0]]), weight=weight, method="kaldi")
    assert_allclose([backend.between.item(), backend.within.item()], expected)


def test_kaldis_adaptation_as_kaldi_computes_it() -> None:
    """Kaldi whitens by the model's total covariance, then goes through the eigenvectors of the new domain's."""
    rng = np.random.default_rng(10)
    backend = plda.build(plda.Config(length_norm=False))
    backend.fit(*draw(rng, 200))
    between, within = backend.between, backend.within
    new = draw(rng, 200)[0] * np.array([3.0, 1, 2, 1, 0.2], np.float32)
    backend.adapt(new, weight=1.0, method="kaldi")

    variance, psi_basis = linalg.eigh(between, within)
    whiten = psi_basis.T / np.sqrt(1 + variance)[:, None]
    spread, directions = linalg.eigh(whiten @ np.cov(new.astype(np.float64), rowvar=False) @ whiten.T)
    to_space = directions.T @ whiten
    excess = np.diag(np.maximum(spread - 1, 0))
    back = linalg.inv(to_space)
    for ours, old, share in ((backend.between, between, 0.25), (backend.within, within, 0.75)):
        assert_allclose(ours, back @ (to_space @ old @ to_space.T + share * excess) @ back.T, atol=1e-9)


def test_wrong_adaptations_are_refused() -> None:
    values = np.array([[4.0], [-4.0], [0.0]])
    with pytest.raises(InputError, match="weight 2: expected 0 to 1"):
        one_dimension().adapt(values, weight=2)
    with pytest.raises(InputError, match="expected no labels"):
        one_dimension().adapt(values, np.array([0, 0, 1]), method="coral+")
    with pytest.raises(InputError, match="interpolate: expected labels"):
        one_dimension().adapt(values, method="interpolate")
    with pytest.raises(InputError, match="only PLDA can be adapted"):
        cosine.build(cosine.Config()).adapt(values)


def test_supervised_adaptation_goes_all_the_way_to_the_new_domain() -> None:
    rng = np.random.default_rng(9)
    backend = plda.build(plda.Config(length_norm=False, iterations=50))
    backend.fit(*draw(rng, 300))
    within = np.diag([4.0, 0.3, 1, 1, 1])
    values, labels = draw(rng, 500, within=within)
    backend.adapt(values, labels, weight=1.0, method="interpolate")
    assert_allclose(np.diag(backend.within), np.diag(within), rtol=0.15)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cosine", {}),
        ("cosine", {"subtract_mean": True}),
        ("lda", {"dim": 3}),
        ("wccn", {}),
        ("wccn", {"covariance": "total"}),
        ("plda", {}),
        ("plda", {"lda_dim": 3, "length_norm": False}),
    ],
)
def test_contract(name: str, settings: dict[str, Any]) -> None:
    check_backend(import_module(f"speakerverif.scoring.backends.{name}"), settings)


@pytest.mark.parametrize("backend", FITTED, ids=lambda backend: type(backend).__name__)
def test_blocks_change_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(11)
    backend.fit(*draw(rng))
    values, _ = draw(rng, 6, 2)
    whole = backend.score(values, values, *all_pairs(12, 12))
    monkeypatch.setattr("speakerverif.scoring.backends._linear._BLOCK_VALUES", 35)
    assert_allclose(backend.score(values, values, *all_pairs(12, 12)), whole, rtol=1e-12, atol=1e-12)


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    values, labels = draw(rng, 3, 2)
    with pytest.raises(InputError, match="not trained"):
        plda.build(plda.Config()).score(values, values, labels, labels)
    with pytest.raises(InputError, match="expected 1 to 2"):
        lda.build(lda.Config(dim=3)).fit(values, labels)
    with pytest.raises(InputError, match="singular"):
        wccn.build(wccn.Config()).fit(values, labels)
    with pytest.raises(InputError, match="total covariance of 5 dimensions is singular"):
        plda.build(plda.Config()).fit(values[:4], labels[:4])
    with pytest.raises(InputError, match="two utterances or more"):
        plda.build(plda.Config()).fit(values, np.arange(len(values)))
    with pytest.raises(InputError, match=r"rows \[2\]: expected embeddings that are finite"):
        cosine.build(cosine.Config()).score(np.eye(3)[[0, 1, 1]] * [[1], [1], [0]], values, labels, labels)
    with pytest.raises(InputError, match="adding up to 6"):
        cosine.build(cosine.Config()).score(values, values, labels, labels, np.array([2, 2]))
    cosine.build(cosine.Config()).save(tmp_path / "other.npz")
    with pytest.raises(InputError, match="expected arrays centre"):
        plda.build(plda.Config()).load(tmp_path / "other.npz")
