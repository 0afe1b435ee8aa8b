"""A recipe's stages: all of them, resumed, and skipped when nothing changed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from speakerverif._util.toml import format_toml, read_toml, to_dict
from speakerverif.cli._console import messages_shown
from speakerverif.cli.entry import main
from speakerverif.config import CalibrationConfig, Recipe
from speakerverif.corpora import synthetic
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.manifest import Manifest
from speakerverif.demos import demo as demo_module
from speakerverif.errors import InputError
from speakerverif.scoring.calibration import Calibration
from speakerverif.training.stages import run
from tests.conftest import RATE, in_two_processes, voice


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small speechocean762 in the shared layout: 4 speakers to train on, 4 others in the trials."""
    root = tmp_path_factory.mktemp("corpus") / "speechocean762"
    for split, speakers in (("train", (0, 1, 2, 3)), ("dev", (4, 5, 6, 7))):
        rows = [(f"{s}{n}", f"{s}", f"WAVE/SPEAKER{s}/{s}{n}.wav", s, n) for s in speakers for n in range(4)]
        for _, _, path, speaker, n in rows:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(root / path, voice(speaker, n, 1.2), RATE)
        (root / split).mkdir(parents=True)
        (root / split / "wav.scp").write_text("".join(f"{u} {path}\n" for u, _, path, *_ in rows))
        (root / split / "utt2spk").write_text("".join(f"{u} {s}\n" for u, s, *_ in rows))
        paths = [(path, speaker) for _, _, path, speaker, _ in rows]
        trials = [f"{int(s == t)} {a} {b}" for i, (a, s) in enumerate(paths) for b, t in paths[i + 1 :]]
        if split == "dev":
            for name in ("trials", "trials_hard"):
                (root / split / f"{name}.txt").write_text("\n".join(trials) + "\n")
    return root


@pytest.fixture
def recipe(tiny_recipe: Recipe) -> Recipe:
    data = dataclasses.replace(tiny_recipe.data, corpus="speechocean762", validation_trials="trials")
    tuned = {"train": {"epochs": 1.0, "crop_s": 1.0, "learning_rate": 1e-4}, "augment": {"speeds": [1.0]}}
    return dataclasses.replace(tiny_recipe, data=data, finetune=tuned)


def stamps(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def test_all_stages_then_nothing(
    corpus: Path, recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "speakerverif")
    out = tmp_path / "out"
    records = run(recipe, out, data_dir=corpus)
    assert set(records) == {"trials", "trials_hard"}
    record = records["trials"]
    assert record.trials == 120 and record.targets == 24
    assert record.figures.intervals is not None and record.figures.intervals.unit == "speaker"
    assert record.model is not None and record.model.training_speakers_in_trials == 0
    assert record.crops == "whole utterance"
    for path in (
        "model/model.safetensors",
        "finetuned/config.toml",
        "embeddings.npz",
        "report/index.html",
    ):
        assert (out / path).is_file(), path
    page = (out / "report" / "index.html").read_text("utf-8")
    assert "All lists" in page and "<audio" in page and "By duration (s)" in page and "Map of" in page
    assert "batch 6" in caplog.text
    before = stamps(out)
    assert run(recipe, out, data_dir=corpus) == records
    assert stamps(out) == before
    assert "nothing has changed" in caplog.text
    for name, advice in (("scores/trials.json", "to score again"), ("stages/score.json", "to run the stage")):
        whole = (out / name).read_text()
        (out / name).write_text(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=rf"{name}: damaged \(not JSON: .*\); remove it .*{advice}"):
            run(recipe, out, data_dir=corpus)
        (out / name).write_text(whole)


def test_another_scoring_repeats_only_the_scoring(corpus: Path, recipe: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(recipe, finetune={})
    run(recipe, tmp_path, data_dir=corpus)
    before = stamps(tmp_path)
    again = dataclasses.replace(recipe, score=dataclasses.replace(recipe.score, p_target=(0.1,)))
    costs = run(again, tmp_path, data_dir=corpus)["trials"].figures.costs
    assert [cost.key for cost in costs] == ["0.1"]
    changed = {path.split("/")[0] for path, stamp in stamps(tmp_path).items() if before.get(path) != stamp}
    assert changed == {"scores", "report", "stages"}


def test_back_end_and_normalisation_are_fitted_once_and_used_by_all(
    corpus: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dataclasses.replace(recipe, finetune={})
    record_of_plain = run(recipe, tmp_path, data_dir=corpus)["trials"]
    before = stamps(tmp_path)
    scored = dataclasses.replace(recipe.score, norm="asnorm", top_n=3)
    changed = dataclasses.replace(recipe, backend={"name": "cosine", "subtract_mean": True}, score=scored)
    record = run(changed, tmp_path, data_dir=corpus)["trials"].to_json()
    assert record["backend"] == {
        "name": "cosine",
        "subtract_mean": True,
        "trained_on": "speechocean762 train",
    }
    assert record["norm"] == {
        "kind": "asnorm",
        "top_n": 3,
        "cohort": "speechocean762 train",
        "cohort_size": 4,
    }
    assert record["score_kind"] == "normalized" and record["raw"]["score_kind"] == "cosine"
    after = stamps(tmp_path)
    kept = ("embeddings.npz", "model/model.safetensors", "data/train.tsv")
    assert all(after[path] == before[path] for path in kept)
    assert {"model/scoring.toml", "model/backend.npz", "model/cohort.npz", "scores/trials.raw.txt"} <= set(
        after
    )

    # score, calibrate and verify take it from the model folder, and the calibration knows what it is of.
    trials, model = str(corpus / "dev" / "trials.txt"), str(tmp_path / "model")
    sources = ["--embeddings", str(tmp_path / "embeddings.npz")]
    assert main(["calibrate", trials, *sources, "--model", model, "--far", "0.05"]) == 0
    _, first, second = (corpus / "dev" / "trials.txt").read_text().split()[:3]
    pair = [str(corpus / name) for name in (first, second)]
    assert main(["verify", *pair, "--model", model, "--json", str(tmp_path / "v.json")]) == 0
    verified = json.loads((tmp_path / "v.json").read_text())
    listed = dict(
        line.rsplit(" ", 1) for line in (tmp_path / "scores" / "trials.txt").read_text().splitlines()
    )
    assert verified["score"] == pytest.approx(float(listed[f"{first} {second}"]), rel=1e-4, abs=1e-4)
    assert verified["kind"] == "normalized" and verified["llr"] is not None
    capsys.readouterr()

    plain = run(recipe, tmp_path, data_dir=corpus)["trials"]
    assert plain.raw is None and plain.figures.eer == record_of_plain.figures.eer
    assert not (tmp_path / "model" / "scoring.toml").exists()
    assert main(["verify", *pair, "--model", model]) == 2
    assert "calibrated on scores of cosine subtract_mean True" in capsys.readouterr().err
    with pytest.raises(InputError, match="asnorm normalises cosines"):
        run(dataclasses.replace(changed, backend={"name": "plda"}), tmp_path / "new", data_dir=corpus)
    assert not (tmp_path / "new").exists()


def test_quality_measures_of_a_recipe_reach_score_and_verify(
    corpus: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = dataclasses.replace(recipe.score, norm="asnorm", top_n=2, trials=("trials",))
    quality = CalibrationConfig(trials=60, short_s=(0.4, 0.8))
    backend = {"name": "cosine", "subtract_mean": True}
    measured = dataclasses.replace(recipe, finetune={}, backend=backend, score=score, calibration=quality)
    stages = ("prepare", "train", "embed", "backend", "calibrate", "score")
    record = run(measured, tmp_path, data_dir=corpus, stages=stages)["trials"]
    assert record.figures.score_kind == "llr" and record.calibration is not None
    assert "trials drawn from the training speakers (4 of them)" in record.calibration.calibrated_on
    assert record.raw is not None and record.raw.score_kind == "cosine"
    model = tmp_path / "model"
    fitted = Calibration.load(model / "calibration.toml")
    assert fitted.measures == ["duration", "magnitude", "cohort"] and len(fitted.weights) == 7

    listed = (tmp_path / "scores" / "trials.txt").read_text()
    first, second, llr = listed.splitlines()[0].split()
    pair = [str(corpus / name) for name in (first, second)]
    assert main(["verify", *pair, "--model", str(model), "--json", str(tmp_path / "v.json")]) == 0
    assert json.loads((tmp_path / "v.json").read_text())["llr"] == pytest.approx(float(llr), rel=1e-3)
    sources = ["--embeddings", str(tmp_path / "embeddings.npz"), "--model", str(model)]
    calibrated = ["--calibration", str(model / "calibration.toml"), "--out-scores", str(tmp_path / "again")]
    trials = str(corpus / "dev" / "trials.txt")
    assert main(["score", trials, *sources, *calibrated, "--bootstrap", "0"]) == 0
    assert (tmp_path / "again").read_text() == listed
    capsys.readouterr()

    # Without the stage the model scores as before it.
    plain = dataclasses.replace(measured, calibration=CalibrationConfig())
    record = run(plain, tmp_path, data_dir=corpus, stages=stages)["trials"]
    assert record.figures.score_kind == "normalized"
    assert not (model / "calibration.toml").exists()


def test_a_training_run_goes_on_where_it_stopped(corpus: Path, recipe: Recipe, tmp_path: Path) -> None:
    """A run killed in the middle of training leaves state; running it again gives the same weights."""
    from speakerverif.corpora._prepare import PREPARED
    from speakerverif.training.loop import train
    from speakerverif.training.workspace import training_manifest

    recipe = dataclasses.replace(recipe, finetune={})
    run(recipe, tmp_path / "whole", data_dir=corpus)
    run(recipe, tmp_path / "cut", data_dir=corpus, stages=("prepare",))
    prepared = Prepared.load(tmp_path / "cut" / "data" / PREPARED)
    manifest = training_manifest(recipe, prepared)
    train(recipe, manifest, tmp_path / "cut" / "model", data_dir=corpus, stop_after_steps=2)
    run(recipe, tmp_path / "cut", data_dir=corpus)
    weights = "model/model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "cut" / weights).read_bytes()


def test_the_command_line_runs_a_recipe_and_scores_its_model(
    corpus: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(format_toml(to_dict(recipe)))
    arguments = [
        "run",
        "r.toml",
        "--data",
        str(corpus),
        "--set",
        "train.epochs=1",
        "--stages",
        "prepare,train",
    ]
    assert main(arguments) == 0
    trials = str(corpus / "dev" / "trials.txt")
    model = "out/tiny/model"
    assert main(["score", trials, "--model", model, "--audio-root", str(corpus), "--json", "r.json"]) == 0
    record = json.loads(Path("r.json").read_text())
    assert record["model"]["training_speakers_in_trials"] == 0 and record["list"]["sha256"]
    heard = Path("heard.txt")  # speakers 0 and 1 were trained on, 4 was not
    heard.write_text("1 SPEAKER0/00.wav SPEAKER0/01.wav\n0 SPEAKER1/10.wav SPEAKER4/40.wav\n")
    arguments = [
        "score",
        "heard.txt",
        "--model",
        model,
        "--audio-root",
        str(corpus / "WAVE"),
        "--json",
        "h.json",
    ]
    assert main(arguments) == 0
    assert json.loads(Path("h.json").read_text())["model"]["training_speakers_in_trials"] == 2
    assert main(["train", "r.toml", "--manifest", "out/tiny/data/train.tsv", "--out", "alone"]) == 0
    assert main(["info", "alone"]) == 0


def test_wrong_stages_and_missing_data(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown stage 'trian'; did you mean 'train'"):
        run(recipe, tmp_path, data_dir=None, stages=("trian",))
    with pytest.raises(InputError, match="--data"):
        run(recipe, tmp_path, data_dir=None)
    with pytest.raises(InputError, match="has not been prepared"):
        run(recipe, tmp_path, data_dir=None, stages=("train",))
    assert not (tmp_path / "model").exists()


def test_the_demo_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's own path, on fewer and shorter recordings and a few steps."""
    shape = synthetic.Shape(
        num_speakers=6, sessions_per_speaker=2, utterances_per_session=2, duration_s=(0.8, 1.0)
    )
    prepare = synthetic.prepare
    monkeypatch.setattr(
        synthetic, "prepare", lambda root, out: prepare(root, out, shape, held_out_speakers=3)
    )
    read = read_toml

    def small(path: Path) -> dict[str, Any]:
        tables = read(path)
        tables["train"] |= {"epochs": 1, "batch_size": 4, "crop_s": 0.5, "workers": 0}
        return tables

    monkeypatch.setattr(demo_module, "read_toml", small)
    demo_module.demo(tmp_path / "demo")
    first = capsys.readouterr().out
    assert "untrained" in first and "trained" in first and "EER" in first
    assert (tmp_path / "demo" / "report" / "index.html").is_file()
    demo_module.demo(tmp_path / "demo")
    table = [line for line in first.splitlines() if line.startswith(("untrained", "trained"))]
    assert len(table) == 2 and all(line in capsys.readouterr().out for line in table[:1])


def test_two_processes_run_the_stages_once(
    corpus: Path, recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work() -> dict[str, Any]:
        with messages_shown(0):
            return run(recipe, tmp_path / "out", data_dir=corpus)

    first, second = in_two_processes(work)
    assert first == second and set(first) == {"trials", "trials_hard"}
    printed = capfd.readouterr()
    assert printed.err.count("embed:\n") == 1
    before = stamps(tmp_path / "out")
    assert in_two_processes(work) == [first, first]
    assert stamps(tmp_path / "out") == before


@pytest.fixture
def readers(corpus: Path) -> Path:
    """One recording of each of three readers, beside the other corpus."""
    root = corpus.parent / "librispeech_one_each"
    (root / "wav").mkdir(parents=True, exist_ok=True)
    for reader in (10, 11, 12):
        soundfile.write(root / "wav" / f"{reader}-1.wav", voice(reader - 2, 0, 2.0), RATE)
    (root / "wav.scp").write_text("".join(f"{r}-1 wav/{r}-1.wav\n" for r in (10, 11, 12)))
    (root / "utt2spk").write_text("".join(f"{r}-1 {r}\n" for r in (10, 11, 12)))
    return root


def test_a_second_corpus_joins_the_training_and_no_trials(
    corpus: Path, readers: Path, recipe: Recipe, tmp_path: Path
) -> None:
    data = dataclasses.replace(recipe.data, also=("librispeech_one_each",))
    balanced = dataclasses.replace(recipe.train, crops_per_speaker=4)
    recipe = dataclasses.replace(recipe, data=data, train=balanced, finetune={})
    records = run(recipe, tmp_path, data_dir=corpus.parent)
    assert set(records) == {"trials", "trials_hard"}
    classes = (tmp_path / "model" / "speakers.txt").read_text().split()
    assert classes[:4] == ["SPEAKER0", "SPEAKER1", "SPEAKER2", "SPEAKER3"]
    assert classes[4:7] == ["librispeech-10", "librispeech-11", "librispeech-12"]
    log = [json.loads(line) for line in (tmp_path / "model" / "log.jsonl").read_text().splitlines()]
    crops = 7 * 4  # an epoch has as many of each reader as of each other speaker
    assert log[0]["epoch"] == pytest.approx(recipe.train.batch_size / crops)
    assert any(
        "found {'speakers': 3" in note for note in Prepared.load(tmp_path / "data" / "prepared.json").notes
    )

    unnamed = dataclasses.replace(recipe, data=dataclasses.replace(data, also=("musan",)))
    with pytest.raises(InputError, match="not MUSAN"):
        run(unnamed, tmp_path / "b", data_dir=corpus.parent, stages=("prepare",))
    with pytest.raises(InputError, match="name the folder that holds them"):
        run(recipe, tmp_path / "c", data_dir=None, stages=("prepare",))
    lists = [Manifest.read(tmp_path / "data" / "train.tsv") for _ in range(2)]
    with pytest.raises(InputError, match="7 speakers have the same name in two corpora, first: SPEAKER0"):
        Manifest.join(lists)
