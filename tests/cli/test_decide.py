"""The subcommands that decide: calibration, the enrolment store, and what a decision needs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speakerverif.cli.entry import main
from speakerverif.data.manifest import Utterance
from speakerverif.inference.embed import embed
from speakerverif.models.folder import read_model_folder
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.scorer import Plan, fit
from tests.conftest import RATE, voice


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder of the test's own."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def trials(tiny_corpus: Path) -> Path:
    """Every pair of the tiny corpus' recordings, beside them."""
    names = [f"spk{s}/{n}.wav" for s in range(6) for n in range(4)]
    rows = [f"{int(a[:4] == b[:4])} {a} {b}" for i, a in enumerate(names) for b in names[i + 1 :]]
    path = tiny_corpus / "pairs.txt"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_calibrated_model_gives_llr_and_decision(
    model: Path, trials: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(tiny_corpus / "spk0" / "0.wav"), str(tiny_corpus / "spk0" / "1.wav")]
    assert main(["verify", *pair, "--model", str(model), "--p-target", "0.5"]) == 2
    assert "not calibrated" in capsys.readouterr().err
    assert main(["calibrate", str(trials), "--model", str(model), "--far", "0.05"]) == 0
    assert "false alarms" in capsys.readouterr().out
    fitted = Calibration.load(model / "calibration.toml")
    assert fitted.point is not None and fitted.trials_sha256 and fitted.fingerprint
    assert main(["verify", *pair, "--model", str(model), "--json", str(tmp_path / "v.json")]) == 0
    result = json.loads((tmp_path / "v.json").read_text())
    assert result["llr"] == pytest.approx(fitted.weights[0] * result["score"] + fitted.bias)
    assert result["same_speaker"] is (result["llr"] >= fitted.point.threshold)
    for prior, same in (("0.999999", True), ("0.000001", False)):
        assert (
            main(
                [
                    "verify",
                    *pair,
                    "--model",
                    str(model),
                    "--p-target",
                    prior,
                    "--json",
                    str(tmp_path / "p.json"),
                ]
            )
            == 0
        )
        assert json.loads((tmp_path / "p.json").read_text())["same_speaker"] is same


def verified(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run `verify` and return what it wrote."""
    assert main(["verify", *arguments, "--json", str(folder / "v.json")]) == 0
    record: dict[str, Any] = json.loads((folder / "v.json").read_text())
    return record


def test_prior_and_costs_set_the_threshold(
    model: Path, trials: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(tiny_corpus / "spk0" / f"{n}.wav") for n in (0, 1)]
    assert main(["calibrate", str(trials), "--model", str(model)]) == 0
    result = verified(tmp_path, *pair, "--model", str(model))
    assert result["llr"] is not None and result["same_speaker"] is None  # no prior, no point: no decision
    options = ["--p-target", "0.1", "--c-miss", "2", "--c-fa", "5"]
    result = verified(tmp_path, *pair, "--model", str(model), *options)
    assert result["llr_threshold"] == pytest.approx(np.log(5 * 0.9 / (2 * 0.1)))
    assert result["same_speaker"] is (result["llr"] >= result["llr_threshold"])
    capsys.readouterr()
    for wrong, expected in (
        (["--c-fa", "5"], "do nothing without --p-target"),
        (["--p-target", "0.1", "--threshold", "0.5"], "give one"),
    ):
        assert main(["verify", *pair, "--model", str(model), *wrong]) == 2
        assert expected in capsys.readouterr().err


def test_quality_measures_count_in_verify(
    model: Path, trials: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    options = ["--quality", "duration", "magnitude", "--far", "0.05"]
    assert main(["calibrate", str(trials), "--model", str(model), *options]) == 0
    fitted = Calibration.load(model / "calibration.toml")
    assert fitted.quality == ("duration_low", "duration_high", "magnitude_low", "magnitude_high")
    pair = [str(tiny_corpus / "spk2" / f"{n}.wav") for n in (1, 3)]
    scored = ["score", str(trials), "--model", str(model), "--calibration", str(model / "calibration.toml")]
    assert main([*scored, "--bootstrap", "0", "--out-scores", str(tmp_path / "llr")]) == 0
    rows = dict(line.rsplit(" ", 1) for line in (tmp_path / "llr").read_text().splitlines())
    result = verified(tmp_path, *pair, "--model", str(model))
    assert result["llr"] == pytest.approx(float(rows["spk2/1.wav spk2/3.wav"]), rel=1e-3, abs=1e-3)
    assert result["threshold"] is None and result["same_speaker"] is (
        result["llr"] >= result["llr_threshold"]
    )


def test_plda_of_a_model_folder_sees_every_enrolled_utterance(
    model: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from speakerverif.data.embeddings import EmbeddingTable
    from speakerverif.inference.embed import embed_all
    from speakerverif.models.folder import read_model_folder
    from speakerverif.scoring.scorer import Plan, fit

    paths = [tiny_corpus / f"spk{s}" / f"{n}.wav" for s in range(6) for n in range(4)]
    table = embed_all(read_model_folder(model), paths)
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    columns = table.embeddings, table.durations, table.speech, table.status, table.fingerprint
    scoring = fit(Plan(backend={"name": "plda", "lda_dim": 3}), EmbeddingTable(names, *columns), None)
    scoring.save(model)
    store = ["--store", str(tmp_path / "store"), "--model", str(model)]
    assert main(["enroll", "ann", str(paths[0]), str(paths[1]), *store]) == 0
    result = verified(tmp_path, "ann", str(paths[2]), *store)
    rows = table.embeddings
    expected = scoring.backend.score(rows[:2], rows[2:3], np.array([0]), np.array([0]), np.array([2]))
    assert result["score"] == pytest.approx(expected[0], rel=1e-3, abs=1e-3) and result["kind"] == "plda"
    assert result["llr"] is None and result["same_speaker"] is None
    assert "PLDA, not calibrated" in capsys.readouterr().out


def test_calibration_of_another_model_is_refused(
    model: Path, trials: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(trials), "--model", str(model)]) == 0
    text = (model / "calibration.toml").read_text()
    fingerprint = Calibration.load(model / "calibration.toml").fingerprint
    (model / "calibration.toml").write_text(text.replace(fingerprint, "0" * 16))
    assert main(["info", str(model)]) == 2
    assert "was fitted on model 0000000000000000" in capsys.readouterr().err


def test_the_kind_of_ready_scores_is_that_of_the_model(
    model: Path, trials: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = read_model_folder(model)
    others = {f"other {i}": tiny_corpus / f"spk{i // 4}" / f"{i % 4}.wav" for i in range(12)}
    cohort = embed(folder, [Utterance(name, str(path), name) for name, path in others.items()])
    fit(Plan(norm="snorm"), None, cohort, {name: name for name in others}).save(model)
    scored = ["score", str(trials), "--model", str(model), "--bootstrap", "0"]
    assert main([*scored, "--out-scores", str(tmp_path / "s.txt")]) == 0
    given = ["calibrate", str(trials), "--scores", str(tmp_path / "s.txt"), "--model", str(model)]
    assert main([*given, "--score-kind", "cosine"]) == 2
    assert "its scores are of kind normalized" in capsys.readouterr().err
    assert not (model / "calibration.toml").exists()
    assert main([*given, "--far", "0.05"]) == 0
    assert Calibration.load(model / "calibration.toml").kinds == ("normalized",)
    pair = [str(tiny_corpus / "spk0" / f"{n}.wav") for n in (0, 1)]
    assert verified(tmp_path, *pair, "--model", str(model))["llr"] is not None

    # A ready table is scored as the model scores.
    table = embed(folder, [Utterance(n, str(tiny_corpus / n), "") for n in read_ids(trials)])
    table.save(tmp_path / "e.npz")
    scored = ["score", str(trials), "--embeddings", str(tmp_path / "e.npz"), "--bootstrap", "0"]
    assert main([*scored, "--model", str(model), "--out-scores", str(tmp_path / "e.txt")]) == 0
    for ready, own in zip((tmp_path / "e.txt").open(), (tmp_path / "s.txt").open(), strict=True):
        assert float(ready.split()[2]) == pytest.approx(float(own.split()[2]), abs=1e-3)
    capsys.readouterr()
    assert main(scored) == 0
    assert "scored by plain cosine" in capsys.readouterr().err


def read_ids(trials: Path) -> list[str]:
    """Return the files of a trial list."""
    return list(dict.fromkeys(name for line in trials.read_text().splitlines() for name in line.split()[1:]))


@pytest.mark.parametrize("far", ["nan", "0", "1", "-1", "inf"])
def test_a_false_alarm_rate_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], far: str
) -> None:
    (tmp_path / "t").write_text("1 a b\n1 a c\n0 a d\n0 b d\n")
    (tmp_path / "s").write_text("a b 0.9\na c 0.2\na d 0.3\nb d 0.1\n")
    arguments = [
        "calibrate",
        str(tmp_path / "t"),
        "--scores",
        str(tmp_path / "s"),
        "--out",
        str(tmp_path / "c"),
    ]
    assert main([*arguments, f"--far={far}"]) == 2
    assert "far" in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_calibrate_ready_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < 0.5
    scores = rng.normal(2.0 * labels - 1.0, 1.0)  # LLR of a score s is exactly 2 s
    rows = [f"{int(t)} e{i} t{i}" for i, t in enumerate(labels)]
    (tmp_path / "trials.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "scores.txt").write_text("".join(f"e{i} t{i} {s!r}\n" for i, s in enumerate(scores.tolist())))
    arguments = ["calibrate", str(tmp_path / "trials.txt"), "--scores", str(tmp_path / "scores.txt")]
    assert main(arguments) == 2
    assert "--out FILE" in capsys.readouterr().err
    assert main([*arguments, "--p-target", "0.5", "--far", "0.01", "--out", str(tmp_path / "c.toml")]) == 0
    fitted = Calibration.load(tmp_path / "c.toml")
    assert fitted.weights[0] == pytest.approx(2.0, abs=0.15) and fitted.bias == pytest.approx(0.0, abs=0.15)


def test_identify_decides_by_the_scores_that_were_calibrated(
    model: Path, trials: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = read_model_folder(model)
    others = {f"other {i}": tiny_corpus / f"spk{i // 4}" / f"{i % 4}.wav" for i in range(12)}
    cohort = embed(folder, [Utterance(name, str(path), name) for name, path in others.items()])
    fit(Plan(norm="snorm"), None, cohort, {name: name for name in others}).save(model)
    assert main(["calibrate", str(trials), "--model", str(model), "--far", "0.05"]) == 0
    point = Calibration.load(model / "calibration.toml").point
    assert point is not None
    store = ["--store", str(tmp_path / "store"), "--model", str(model)]
    assert main(["enroll", "ann", str(tiny_corpus / "spk5" / "0.wav"), *store]) == 0
    accepted = set()
    for query in (tiny_corpus / name for name in ("spk5/0.wav", "spk5/1.wav", "spk0/0.wav")):
        assert main(["identify", str(query), *store, "--json", str(tmp_path / "i.json")]) == 0
        assert main(["verify", "ann", str(query), *store, "--json", str(tmp_path / "v.json")]) == 0
        found, pair = (json.loads((tmp_path / f"{one}.json").read_text()) for one in "iv")
        assert found["name"] == ("ann" if pair["llr"] >= point.threshold else None)
        assert f"ann has {pair['llr']:.2f}" in capsys.readouterr().out
        accepted.add(found["name"])
    assert accepted == {"ann", None}


def test_enroll_identify_and_verify_against_the_store(
    model: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "store"), "--model", str(model)]
    for speaker in (0, 5):
        files = [str(tiny_corpus / f"spk{speaker}" / f"{n}.wav") for n in (0, 1)]
        assert main(["enroll", f"person {speaker}", *files, *store]) == 0
    assert "2 recordings enrolled" in capsys.readouterr().out
    query = str(tiny_corpus / "spk5" / "2.wav")
    assert main(["identify", query, *store, "--json", str(tmp_path / "i.json")]) == 0
    found = json.loads((tmp_path / "i.json").read_text())
    assert found["candidates"][0][0] == "person 5" and found["name"] is None
    assert "at threshold" not in capsys.readouterr().out
    assert main(["identify", query, *store, "--threshold", "1.01"]) == 0
    assert "nobody enrolled at threshold" in capsys.readouterr().out
    pytest.importorskip("faiss")
    for _ in range(2):  # builds it, finds it
        assert main(["identify", query, *store, "--index", "--json", str(tmp_path / "x.json")]) == 0
        indexed = json.loads((tmp_path / "x.json").read_text())
        assert indexed["candidates"][0][0] == "person 5"
    capsys.readouterr()
    assert main(["verify", "person 5", query, *store]) == 0
    assert float(capsys.readouterr().out.split()[1]) == pytest.approx(found["candidates"][0][1], abs=1e-4)
    assert main(["verify", "person 7", query, *store]) == 2
    assert "nobody named 'person 7'" in capsys.readouterr().err


def test_one_bad_recording_enrolls_nobody(
    model: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    files = [str(tiny_corpus / "spk0" / "0.wav"), str(tmp_path / "silent.wav")]
    assert main(["enroll", "x", *files, "--store", str(tmp_path / "store"), "--model", str(model)]) == 2
    assert "silent.wav: silent" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_report_of_a_score_file(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("1 a/1 a/2\n0 a/1 b/1\n1 b/1 b/2\n0 a/2 b/2\n")
    (tmp_path / "s.txt").write_text("a/1 a/2 0.9\na/1 b/1 0.2\nb/1 b/2 0.4\na/2 b/2 0.5\n")
    arguments = [
        "report",
        str(tmp_path / "s.txt"),
        "--trials",
        str(tmp_path / "t.txt"),
        "--out",
        str(tmp_path / "r"),
    ]
    assert main(arguments) == 0
    assert "<html" in (tmp_path / "r" / "index.html").read_text()


def test_a_store_survives_a_second_voice_of_the_same_name(model: Path, tmp_path: Path) -> None:
    for n in range(3):
        soundfile.write(tmp_path / f"{n}.wav", voice(1, n, 1.0), RATE)
        store = ["--store", str(tmp_path / "store"), "--model", str(model)]
        assert main(["enroll", "ann", str(tmp_path / f"{n}.wav"), *store]) == 0
    from speakerverif.inference.enrollment import Store
    from speakerverif.models.folder import read_model_folder

    assert Store(tmp_path / "store", read_model_folder(model).fingerprint).names() == ["ann"]
