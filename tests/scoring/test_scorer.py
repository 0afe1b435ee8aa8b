"""Back ends and normalisation as one scoring: against the library's parts, stored, and from the command line."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.testing import assert_allclose

from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.scores import ScoreList
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.models.folder import read_model_folder
from speakerverif.scoring import backends, normalization, quality_measures
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.scorer import NormKind, Plan, Scoring, fit, transformed

SPEAKERS, DIM = 30, 6


def voices(seed: int, prefix: str, speakers: int = SPEAKERS, files: int = 6) -> EmbeddingTable:
    """Return embeddings of `prefix<speaker>/<file>`, far from the origin, of different lengths."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(speakers, DIM)), files, axis=0)
    vectors = (3 + centres + 0.7 * rng.normal(size=centres.shape)) * rng.uniform(0.5, 2, (len(centres), 1))
    ids = [f"{prefix}{s:02}/{f}" for s in range(speakers) for f in range(files)]
    seconds = rng.uniform(1, 9, len(ids)).astype(np.float32)
    return EmbeddingTable(ids, vectors.astype(np.float32), seconds, seconds / 2, ["ok"] * len(ids), "f00d")


TRAIN, TEST = voices(0, "train"), voices(1, "test", 12)


def pairs(count: int = 400) -> TrialList:
    rng = np.random.default_rng(2)
    enroll, test = rng.integers(0, len(TEST), (2, count)).astype(np.int32)
    test = np.where(rng.random(count) < 0.4, enroll // 6 * 6 + test % 6, test).astype(np.int32)
    keep = enroll != test
    enroll, test = enroll[keep], test[keep]
    return TrialList(tuple(TEST.ids), enroll, test, enroll // 6 == test // 6, "pairs")


TABLES = [
    {"name": "cosine", "subtract_mean": True},
    {"name": "lda", "dim": 3},
    {"name": "wccn"},
    {"name": "wccn", "covariance": "total"},
    {"name": "plda"},
    {"name": "plda", "lda_dim": 4},
]


@pytest.mark.parametrize("table", TABLES, ids=str)
@pytest.mark.parametrize("several", [False, True])
def test_a_scoring_agrees_with_its_back_end(table: dict[str, Any], several: bool) -> None:
    """The map of a linear back end is applied to the table; the back end itself maps, then compares."""
    trials, enroll_map, counts = pairs(), None, None
    enroll = np.arange(len(TEST))
    if several:  # 12 models of the first two files, tested with the others
        enroll_map = {f"m{s}": TEST.ids[6 * s : 6 * s + 2] for s in range(12)}
        ids = (*enroll_map, *TEST.ids)
        columns = [(m, 12 + f) for m in range(12) for f in range(len(TEST)) if f % 6 > 1]
        rows, files = np.array(columns, np.int32).T
        trials = TrialList(ids, rows, files, None, "models")
        enroll, counts = np.concatenate([np.arange(6 * s, 6 * s + 2) for s in range(12)]), np.full(12, 2)
    found, raw = fit(Plan(backend=table), TRAIN, None).score(trials, TEST, enroll_map)
    backend = backends.build(table)
    backend.fit(TRAIN.embeddings, np.repeat(np.arange(SPEAKERS), 6))
    test_index = trials.test - (12 if several else 0)
    expected = backend.score(TEST.embeddings[enroll], TEST.embeddings, trials.enroll, test_index, counts)
    assert raw is None and found.kind == ("plda" if table["name"] == "plda" else "cosine")
    assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-5)


WHOLE_COHORT: dict[str, Literal["z", "t", "s"]] = {"znorm": "z", "tnorm": "t", "snorm": "s"}


@pytest.mark.parametrize("kind", ["znorm", "tnorm", "snorm", "asnorm"])
def test_normalised_and_raw_scores_come_together(kind: NormKind) -> None:
    plan = Plan(backend={"name": "lda", "dim": 3}, norm=kind, top_n=10)
    scoring = fit(plan, TRAIN, TRAIN)
    found, raw = scoring.score(pairs(), TEST)
    assert raw is not None and found.kind == "normalized" and raw.kind == "cosine"
    seen, others = (transformed(scoring.backend, table) for table in (TEST, TRAIN))
    cohort = normalization.speaker_means(others, {i: i[:7] for i in TRAIN.ids})
    expected = (
        normalization.as_norm(raw, seen, cohort, 10)
        if kind == "asnorm"
        else normalization.normalize(raw, seen, cohort, WHOLE_COHORT[kind])
    )
    assert_allclose(found.scores, expected.scores)
    assert scoring.norm_facts is not None
    assert len(cohort) == scoring.norm_facts.cohort_size == SPEAKERS


@pytest.mark.parametrize("table", [{"name": "cosine"}, *TABLES[1:5:3]], ids=str)
def test_a_stored_scoring_scores_the_same(tmp_path: Path, table: dict[str, Any]) -> None:
    kind: NormKind = "none" if table["name"] == "plda" else "asnorm"
    scoring = fit(Plan(backend=table, norm=kind, top_n=5), TRAIN, TRAIN)
    scoring.save(tmp_path)
    again = Scoring.load(tmp_path, "f00d")
    assert again.name == scoring.name and again.plan == scoring.plan
    assert again.score(pairs(), TEST)[0].scores.tolist() == scoring.score(pairs(), TEST)[0].scores.tolist()
    with pytest.raises(InputError, match="made for model f00d, this is beef"):
        Scoring.load(tmp_path, "beef")


def test_other_arrays_have_another_name() -> None:
    names = {fit(Plan(backend={"name": "plda"}), voices(seed, "t"), None).name for seed in (3, 3, 4)}
    assert len(names) == 2
    assert Scoring.load(Path("no such folder"), "f00d").name == "cosine"


def test_a_cohort_of_the_trials_speakers_is_refused() -> None:
    scoring = fit(Plan(norm="asnorm", top_n=5), None, voices(5, "test", 12))
    by_path = {i: i[:6] for i in TEST.ids}
    renamed = EmbeddingTable(  # other files of the same speakers
        [f"{i}.b" for i in TEST.ids], TEST.embeddings, TEST.durations, TEST.speech, TEST.status, "f00d"
    )
    with pytest.raises(InputError, match="shares 12 speakers or ids with the trials of pairs"):
        scoring.score(pairs(), TEST, None, by_path)
    with pytest.raises(InputError, match="shares 12 speakers"):
        trials = TrialList(tuple(renamed.ids), pairs().enroll, pairs().test, None, "pairs")
        scoring.score(trials, renamed, None, {i: i[:6] for i in renamed.ids})


@pytest.mark.parametrize(
    ("plan", "train", "cohort", "expected"),
    [
        (Plan(backend={"name": "plda"}), None, None, "plda learns from embeddings"),
        (Plan(norm="asnorm"), None, None, "asnorm compares with a cohort"),
        (Plan(norm="asnorm"), None, TRAIN, "top_n 300: expected 2 to 30"),
        (Plan(backend={"name": "plda"}, norm="snorm"), TRAIN, TRAIN, "snorm normalises cosines"),
        (Plan(backend={"name": "pdla"}), TRAIN, None, "did you mean 'plda'"),
    ],
)
def test_what_can_not_be_fitted_says_why(plan: Plan, train: object, cohort: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        fit(plan, train, cohort)  # type: ignore[arg-type]


def test_names_that_do_not_tell_speakers_can_not_train() -> None:
    nameless = EmbeddingTable(
        [f"u{i}" for i in range(len(TRAIN))],
        TRAIN.embeddings,
        TRAIN.durations,
        TRAIN.speech,
        TRAIN.status,
        "",
    )
    with pytest.raises(InputError, match="don't tell their speakers"):
        fit(Plan(backend={"name": "plda"}), nameless, None)
    known = {f"u{i}": i_[:7] for i, i_ in enumerate(TRAIN.ids)}
    assert fit(Plan(backend={"name": "plda"}), nameless, None, known).name == (
        fit(Plan(backend={"name": "plda"}), TRAIN, None).name
    )


def test_quality_measures_by_hand() -> None:
    columns = np.array([2, 8, 4], np.float32)
    table = EmbeddingTable(["a", "b", "c"], np.diag([3.0, 4.0, 5.0]), columns, columns / 2, ["ok"] * 3, "")
    trials = TrialList(("a", "b", "m"), np.array([0, 1, 2]), np.array([1, 0, 0]), None)
    found = quality_measures.of_trials(
        ["duration", "magnitude"], trials, table, {"m": ["b", "c"], "a": ["a"], "b": ["b"]}
    )
    assert_allclose(np.exp(found["duration_low"]), [2, 2, 2])
    assert_allclose(np.exp(found["duration_high"]), [8, 8, 12])  # a model's seconds add up
    assert_allclose(np.exp(found["magnitude_high"]), [4, 4, 4.5])  # its lengths are averaged
    with pytest.raises(InputError, match="did you mean 'speech'"):
        quality_measures.of_trials(["speach"], trials, table)
    with pytest.raises(InputError, match="not known or 0 for b"):
        table.durations[1] = np.nan
        quality_measures.of_trials(["duration"], trials, table, {"m": ["a"]})


def test_the_cohort_measure_by_hand() -> None:
    vectors = np.array([[1, 0], [0, 2], [3, 3]], np.float32)  # of any length
    zeros = np.zeros(3, np.float32)
    table = EmbeddingTable(["a", "b", "c"], vectors, zeros, zeros, ["ok"] * 3, "")
    cohort = EmbeddingTable(["x", "y", "z"], vectors[[0, 0, 1]], zeros, zeros, ["ok"] * 3, "")
    cohort.embeddings[1] = [0.6, 0.8]
    scoring = fit(Plan(norm="snorm"), None, cohort)
    trials = TrialList(("a", "b", "c"), np.array([0, 2]), np.array([1, 0]), None)
    found = quality_measures.of_trials(["cohort"], trials, table, None, scoring)
    means = {"a": 1.6 / 3, "b": 1.8 / 3, "c": 3.4 / 3 / np.sqrt(2)}
    assert_allclose(found["cohort_low"], [means["a"], means["a"]], rtol=1e-6)
    assert_allclose(found["cohort_high"], [means["b"], means["c"]], rtol=1e-6)
    of_model = quality_measures.of_trials(["cohort"], trials, table, {"a": ["a", "b"], "c": ["c"]}, scoring)
    assert_allclose(of_model["cohort_low"][0], (means["a"] + means["b"]) / 2, rtol=1e-6)
    assert_allclose(scoring.without(["x"]).cohort_means(vectors), [0.3, 0.9, 1.2 / np.sqrt(2)], rtol=1e-6)
    with pytest.raises(InputError, match="1 speakers who are not in the trials; expected 2"):
        scoring.without(["x", "y"])
    with pytest.raises(InputError, match="without a cohort"):
        quality_measures.of_trials(["cohort"], trials, table, None, fit(Plan(), table, None))
    with pytest.raises(InputError, match="name their embeddings and the model"):
        quality_measures.of_trials(["cohort"], trials, table)


def test_calibrate_adapts_a_models_plda(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "m")
    identity = read_model_folder("m").fingerprint
    train, new, test = (
        dataclasses.replace(table, fingerprint=identity, embeddings=factor * table.embeddings + shift)
        for table, factor, shift in ((TRAIN, 1, 0), (voices(3, "new"), 3, 5), (TEST, 3, 5))
    )
    table = {"name": "plda", "length_norm": False}
    scoring = fit(Plan(backend=table, trained_on="x"), train, None)
    scoring.save(Path("m"))
    new.save("new.npz")
    test.save("test.npz")
    pairs().write("trials.txt")
    command = ["calibrate", "trials.txt", "--embeddings", "test.npz", "--model", "m"]
    adapt = ["--adapt", "new.npz", "--adapt-by", "kaldi", "--adapt-weight", "0.8"]
    assert main([*command, *adapt]) == 0
    assert "back end adapted to new.npz by kaldi, weight 0.8" in capsys.readouterr().out
    adapted = Scoring.load(Path("m"), identity)
    expected = scoring.adapted(new, "new.npz", method="kaldi", weight=0.8)
    assert adapted.name == expected.name != scoring.name
    # The calibration is of the adapted scores, so that `verify` takes it.
    assert Calibration.load("m/calibration.toml").scoring == adapted.name

    refused = (
        ([*command, *adapt], "adapted before, to new.npz by kaldi"),
        ([*command, "--adapt-by", "kaldi"], "do nothing without --adapt"),
        ([*command, *adapt, "--norm", "none"], "leave out --scores, --backend and --norm"),
    )
    for arguments, message in refused:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert Scoring.load(Path("m"), identity).name == adapted.name


def test_what_can_not_be_adapted_says_why() -> None:
    scoring = fit(Plan(backend={"name": "plda"}), TRAIN, None)
    nameless = dataclasses.replace(TRAIN, ids=[f"u{i}" for i in range(len(TRAIN))])
    for base, table, message in (
        (fit(Plan(), TRAIN, None), TRAIN, "only PLDA can be adapted"),
        (scoring, dataclasses.replace(TRAIN, fingerprint="cafe"), "expected embeddings of model f00d"),
        (scoring, nameless, "don't tell their speakers"),
    ):
        with pytest.raises(InputError, match=message):
            base.adapted(table, "new.npz", method="interpolate")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with embeddings, a trial list and the current folder in it."""
    monkeypatch.chdir(tmp_path)
    TRAIN.save("train.npz")
    TEST.save("test.npz")
    pairs().write("trials.txt")
    return tmp_path


def record(*arguments: str) -> dict[str, Any]:
    """Score from the command line and return the record."""
    options = ["--bootstrap", "20", "--json", "r.json", "--out-scores", "s.txt"]
    assert main(["score", "trials.txt", *arguments, *options]) == 0
    result: dict[str, Any] = json.loads(Path("r.json").read_text())
    return result


def test_back_ends_from_the_command_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = record("--embeddings", "test.npz")
    assert raw["backend"] == {"name": "cosine", "trained_on": None} and raw["raw"] is None
    options = ["--embeddings", "test.npz", "--backend-train", "train.npz"]
    found = record(*options, "--backend", "plda", "--set", "lda_dim=4")
    assert found["backend"] == {"name": "plda", "lda_dim": 4, "trained_on": "train.npz"}
    assert found["score_kind"] == "plda" and found["eer"] != raw["eer"]
    trials = TrialList.read("trials.txt")
    expected, _ = fit(Plan(backend={"name": "plda", "lda_dim": 4}), TRAIN, None).score(trials, TEST)
    assert ScoreList.read("s.txt", trials).scores.tolist() == expected.scores.tolist()
    Path("utt2spk").write_text("".join(f"{i} {i[:7]}\n" for i in TRAIN.ids))
    Path("dev").write_text("".join(f"{i} {i[:6]}\n" for i in TEST.ids))
    named = record(
        *options, "--backend", "plda", "--set", "lda_dim=4", "--speakers", "utt2spk", "--speakers", "dev"
    )
    assert named["eer"] == found["eer"]

    capsys.readouterr()
    both = record(*options, "--norm", "asnorm", "--top-n", "10")
    assert both["raw"]["eer"] == raw["eer"] and both["raw"]["eer_ci95"] == raw["eer_ci95"]
    assert both["norm"] == {"kind": "asnorm", "top_n": 10, "cohort": "train.npz", "cohort_size": SPEAKERS}
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("EER"))
    assert f"{100 * both['eer']:.3f} %" in line and f"{100 * raw['eer']:.3f} %" in line
    options = ["score", "trials.txt", "--embeddings", "test.npz", "--norm", "asnorm", "--top-n", "10"]
    assert main([*options, "--cohort", "test.npz"]) == 2
    assert "the cohort shares" in capsys.readouterr().err


def test_a_fusion_is_fitted_and_applied(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--embeddings", "test.npz", "--backend-train", "train.npz"]
    singles = []
    for name in ("cosine", "plda"):
        singles.append(record(*options, "--backend", name)["min_cllr"])
        Path("s.txt").rename(f"{name}.txt")
    systems = [
        "--scores",
        "cosine.txt",
        "--scores",
        "plda.txt",
        "--score-kind",
        "cosine",
        "--score-kind",
        "plda",
    ]
    quality = ["--quality", "duration", "--quality-from", "test.npz"]
    assert main(["score", "trials.txt", *systems]) == 2
    assert "2 --scores: --calibration says how they are fused" in capsys.readouterr().err
    assert main(["calibrate", "trials.txt", *systems, *quality, "--out", "f.toml"]) == 0
    out = capsys.readouterr().out
    assert "x cosine.txt" in out and "x plda.txt" in out and "x duration_low" in out
    fused = record(*systems, "--calibration", "f.toml", "--quality-from", "test.npz")
    assert fused["score_kind"] == "llr" and fused["cllr"] < 1 and fused["act_dcf"] is not None
    assert fused["min_cllr"] < max(singles) and fused["calibration"]["calibrated_on"] == "trials.txt"
    assert main(["score", "trials.txt", *systems, "--calibration", "f.toml"]) == 2
    assert "--quality-from" in capsys.readouterr().err
    assert main(["score", "trials.txt", *systems[:2], *quality[2:], "--calibration", "f.toml"]) == 2
    assert "expected scores of kind cosine, plda" in capsys.readouterr().err


@pytest.mark.parametrize("table", TABLES[1::2], ids=str)
@pytest.mark.parametrize("what", ["shape", "nan", "text", "missing"])
def test_damaged_arrays_of_a_back_end(tmp_path: Path, table: dict[str, Any], what: str) -> None:
    """Found by tools/fuzz.py: arrays of another shape were a ValueError, or gave scores that aren't numbers."""
    scoring = fit(Plan(backend=table), TRAIN, None)
    scoring.save(tmp_path)
    with np.load(tmp_path / "backend.npz") as file:
        arrays = dict(file)
    name = scoring.backend.arrays[0]
    changed = {"shape": arrays[name][1:], "nan": arrays[name] * np.nan, "text": np.full(DIM, "a")}
    arrays = (
        {**arrays, name: changed[what]} if what in changed else {k: arrays[k] for k in arrays if k != name}
    )
    np.savez(tmp_path / "backend.npz", **arrays)
    reason = {"shape": "don't fit embeddings of 6 dimensions", "missing": f"{name} is missing"}
    with pytest.raises(InputError, match=reason.get(what, "expected finite numbers")):
        Scoring.load(tmp_path, "f00d").score(pairs(), TEST)
