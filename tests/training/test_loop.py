"""Training: resumed equals uninterrupted, and wrong input stops it before or at the step."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from speakerverif._util.toml import format_toml, to_dict
from speakerverif.cli.entry import main
from speakerverif.config import AugmentConfig, Recipe
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.models.folder import WEIGHTS, read_config, read_model_folder
from speakerverif.training import loop
from speakerverif.training.log import StepFigures, read_log
from speakerverif.training.loop import train
from speakerverif.training.recordings import BadFiles
from speakerverif.training.state import STATE, TrainingState
from tests.conftest import RATE


def with_train(recipe: Recipe, **changes: Any) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))


def figures(folder: Path) -> list[dict[str, float]]:
    """Return the log without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if k not in ("crops_per_s", "data_wait")} for line in read_log(folder)
    ]


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "sgd", "average": "last_k", "last_k": 1}], ids=["adamw", "sgd"]
)
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, changes: dict[str, Any]
) -> None:
    recipe = with_train(tiny_recipe, **changes)
    whole = train(recipe, tiny_manifest, tmp_path / "whole")
    parts = tmp_path / "parts"
    train(recipe, tiny_manifest, parts, stop_after_steps=3)
    assert (parts / STATE).is_file()
    train(recipe, tiny_manifest, parts, stop_after_steps=5)
    train(recipe, tiny_manifest, parts)
    assert not (parts / STATE).exists()
    first, second = load_file(whole / WEIGHTS), load_file(parts / WEIGHTS)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert figures(whole) == figures(parts)
    assert len(figures(whole)) == 8


def test_killed_in_the_middle_and_resumed_equals_uninterrupted(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    recipe = with_train(tiny_recipe, epochs=6.0, checkpoint_minutes=0.0)
    (tmp_path / "r.toml").write_text(format_toml(to_dict(recipe)))
    tiny_manifest.write(tmp_path / "m.tsv")
    arguments = ["train", str(tmp_path / "r.toml"), "--manifest", str(tmp_path / "m.tsv"), "--threads", "1"]
    killed, log = tmp_path / "killed", tmp_path / "killed" / "log.jsonl"
    command = [sys.executable, "-m", "speakerverif", *arguments, "--out", str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).resolve().parents[2])
    while process.poll() is None and not ((killed / STATE).is_file() and log.read_text().count("\n") >= 3):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 3 <= len(log.read_text().splitlines()) < 24
    assert main([*arguments, "--out", str(killed)]) == 0
    whole = train(recipe, tiny_manifest, tmp_path / "whole")
    assert (whole / WEIGHTS).read_bytes() == (killed / WEIGHTS).read_bytes()
    assert figures(whole) == figures(killed)


def test_an_interrupted_training_is_already_a_model(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    train(tiny_recipe, tiny_manifest, tmp_path / "m", stop_after_steps=2)
    folder = read_model_folder(tmp_path / "m")
    assert folder.trained["finished"] is False
    assert folder.speakers == [f"spk{s}{suffix}" for suffix in ("", "@speed0.9") for s in range(6)]


def test_a_worker_process_changes_nothing(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    here = train(with_train(tiny_recipe, epochs=1.0), tiny_manifest, tmp_path / "here")
    worker = train(with_train(tiny_recipe, epochs=1.0, workers=1), tiny_manifest, tmp_path / "worker")
    assert (here / WEIGHTS).read_bytes() == (worker / WEIGHTS).read_bytes()


def test_loss_falls_and_speakers_are_learnt(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    recipe = dataclasses.replace(
        with_train(tiny_recipe, epochs=30.0, learning_rate=5e-3, average="none"),
        augment=AugmentConfig(),
    )
    log = read_log(train(recipe, tiny_manifest, tmp_path / "m"))
    assert (
        np.mean([line["accuracy"] for line in log[-8:]])
        > 0.8
        > np.mean([line["accuracy"] for line in log[:8]])
    )


def test_balanced_batches_serve_metric_losses(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    recipe = dataclasses.replace(with_train(tiny_recipe, speakers_per_batch=3), head={"name": "am_softmax"})
    assert len(read_log(train(recipe, tiny_manifest, tmp_path / "m"))) == 8
    with pytest.raises(InputError, match="not a multiple"):
        train(with_train(tiny_recipe, speakers_per_batch=4), tiny_manifest, tmp_path / "n")


def test_another_recipe_does_not_continue_here(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    train(tiny_recipe, tiny_manifest, tmp_path / "m", stop_after_steps=2)
    before = (tmp_path / "m" / WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="differs in train"):
        train(with_train(tiny_recipe, learning_rate=0.1), tiny_manifest, tmp_path / "m")
    assert (tmp_path / "m" / WEIGHTS).read_bytes() == before


def test_a_finished_model_is_not_written_over(
    tiny_model: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_model.rglob("*")}
    assert train(tiny_recipe, tiny_manifest, tiny_model) == tiny_model
    with pytest.raises(InputError, match="differs in train"):
        train(with_train(tiny_recipe, epochs=3.0), tiny_manifest, tiny_model)
    assert {path: path.stat().st_mtime_ns for path in tiny_model.rglob("*")} == before


def test_non_finite_loss_names_the_utterances(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    recipe = with_train(
        tiny_recipe, learning_rate=1e30, warmup_epochs=0.0, max_grad_norm=0.0, optimizer="sgd"
    )
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d+.*spk\d/\d.wav"):
        train(recipe, tiny_manifest, tmp_path / "m")


def with_bad_files(folder: Path, manifest: Manifest, names: tuple[str, ...]) -> Manifest:
    """Return the utterances and, of speaker spk0, the files of some names that can't be read."""
    folder.mkdir(exist_ok=True)
    good = Path(manifest[0].path).read_bytes()
    soundfile.write(folder / "nan.wav", np.full(16000, np.nan, np.float32), RATE, subtype="FLOAT")
    (folder / "text.wav").write_bytes(b"not audio")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "short.flac").write_bytes(b"fLaC" + good[:200])
    added = [Utterance(name, str(folder / name), "spk0", 0.0, 1.0) for name in names]
    return Manifest.from_utterances([*manifest, *added])


def test_bad_recordings_are_all_named_before_training_starts(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    bad = with_bad_files(tmp_path, tiny_manifest, ("text.wav", "empty.wav", "absent.wav", "short.flac"))
    with pytest.raises(
        InputError, match=r"4 of 28 .*text.wav.*empty.wav.*absent.wav.*short.flac.*--skip-bad"
    ):
        train(tiny_recipe, bad, tmp_path / "m")
    bad = with_bad_files(tmp_path, tiny_manifest, ("nan.wav",))
    with pytest.raises(InputError, match=r"1 of 25 .*nan.wav: samples that are not finite"):
        train(tiny_recipe, bad, tmp_path / "m", bad_files=BadFiles("decode"))
    assert not (tmp_path / "m").exists()


def test_bad_recordings_left_out_cost_nothing_else(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("text.wav", "nan.wav", "absent.wav")
    bad = with_bad_files(tmp_path, tiny_manifest, names)
    skipped = train(tiny_recipe, bad, tmp_path / "skipped", bad_files=BadFiles("decode", skip=True))
    assert all(name in caplog.text for name in names) and "3 of 27 utterances" in caplog.text
    whole = train(tiny_recipe, tiny_manifest, tmp_path / "whole")
    assert (skipped / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert read_config(skipped)[1]["left_out"] == list(names)


def test_what_was_left_out_before_an_interruption_is_recorded(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    policy, out = BadFiles(skip=True), tmp_path / "m"
    recipe = with_train(tiny_recipe, epochs=0.75)
    bad = with_bad_files(tmp_path, tiny_manifest, ("text.wav",))
    train(recipe, bad, out, bad_files=policy, stop_after_steps=1)
    # The second run's list has another bad recording, and lacks the first.
    worse = with_bad_files(tmp_path, tiny_manifest, ("absent.wav",))
    train(recipe, worse, out, bad_files=policy, stop_after_steps=2)
    assert read_config(train(recipe, tiny_manifest, out))[1]["left_out"] == ["text.wav", "absent.wav"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_that_turns_bad_in_training(
    tmp_path: Path,
    tiny_recipe: Recipe,
    tiny_manifest: Manifest,
    caplog: pytest.LogCaptureFixture,
    workers: int,
) -> None:
    # Its header is in order: that its samples aren't numbers shows when a crop is read.
    bad = with_bad_files(tmp_path, tiny_manifest, ("nan.wav",))
    plain = dataclasses.replace(
        tiny_recipe, augment=AugmentConfig(), seed=3
    )  # it is first drawn after four steps
    recipe = with_train(plain, epochs=3.0, workers=workers)
    with pytest.raises(
        InputError, match=r"nan.wav: samples that are not finite.*checkpoint saved .*--skip-bad"
    ):
        train(recipe, bad, tmp_path / "m")
    stopped = len(figures(tmp_path / "m"))
    assert 0 < stopped < 12
    model = train(recipe, bad, tmp_path / "m", bad_files=BadFiles(skip=True))
    assert "another utterance of its speaker takes its place" in caplog.text
    trained = read_config(model)[1]
    assert trained["finished"] and trained["left_out"] == ["nan.wav"]
    assert len(figures(model)) == 12
    undisturbed = train(recipe, bad, tmp_path / "n", bad_files=BadFiles(skip=True))
    assert (undisturbed / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


def test_the_command_line_leaves_bad_recordings_out_when_told_to(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text(format_toml(to_dict(with_train(tiny_recipe, epochs=0.25))))
    with_bad_files(tmp_path, tiny_manifest, ("text.wav", "nan.wav")).write(tmp_path / "m.tsv")
    arguments = ["train", str(tmp_path / "r.toml"), "--manifest", str(tmp_path / "m.tsv")]
    arguments += ["--out", str(tmp_path / "model"), "--check", "decode"]
    assert main(arguments) == 2
    assert "2 of 26 utterances can't be read" in capsys.readouterr().err
    assert main([*arguments, "--skip-bad"]) == 0
    assert read_config(tmp_path / "model")[1]["left_out"] == ["text.wav", "nan.wav"]


def test_a_training_goes_on_with_a_list_that_has_changed(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    out, again = tmp_path / "m", tiny_manifest[3]
    train(tiny_recipe, tiny_manifest, out, stop_after_steps=2)
    fewer = tiny_manifest.select(np.arange(20))  # without speaker spk5, whose class stays
    other = Manifest.from_utterances([*fewer, dataclasses.replace(again, id="again")])
    train(tiny_recipe, fewer, out, stop_after_steps=4)
    train(tiny_recipe, other, out)
    assert read_config(out)[1]["list_changes"] == [
        "after step 2: lost 4 utterances and gained 0",
        "after step 4: lost 0 utterances and gained 1",
    ]
    assert "after step 2 the data have lost 4 utterances and gained 0" in caplog.text
    model = read_model_folder(out)
    assert model.speakers[:6] == [f"spk{n}" for n in range(6)] and model.trained["finished"]
    train(tiny_recipe, fewer, tmp_path / "n", stop_after_steps=2)
    with pytest.raises(InputError, match=r"1 speakers of the data have no class .*: spk5"):
        train(tiny_recipe, tiny_manifest, tmp_path / "n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_saves_a_checkpoint_from_which_training_goes_on(
    tmp_path: Path,
    tiny_recipe: Recipe,
    tiny_manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
) -> None:
    step = loop.train_step

    def interrupted_step(training: TrainingState, *arguments: Any) -> StepFigures:
        if training.step == 3:
            signal.raise_signal(number)
        return step(training, *arguments)

    monkeypatch.setattr(loop, "train_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, tiny_manifest, tmp_path / "m")
    assert f"{number.name}: checkpoint saved after step 4" in caplog.text
    monkeypatch.setattr(loop, "train_step", step)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(tiny_recipe, tiny_manifest, tmp_path / "m")
    whole = train(tiny_recipe, tiny_manifest, tmp_path / "whole")
    assert (whole / WEIGHTS).read_bytes() == (tmp_path / "m" / WEIGHTS).read_bytes()


def test_a_second_signal_ends_at_once(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted_step(*arguments: Any) -> StepFigures:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")

    monkeypatch.setattr(loop, "train_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, tiny_manifest, tmp_path / "m")
    assert not (tmp_path / "m" / STATE).exists()


def test_fine_tuning_starts_from_a_model(
    tmp_path: Path,
    tiny_model: Path,
    tiny_recipe: Recipe,
    tiny_manifest: Manifest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = with_train(tiny_recipe, learning_rate=0.0, final_learning_rate=0.0, average="none", epochs=0.25)
    start = load_file(tiny_model / WEIGHTS)
    tuned = load_file(train(recipe, tiny_manifest, tmp_path / "a", start_from=tiny_model) / WEIGHTS)
    weights = [name for name in start if name.endswith("weight") and "norm" not in name]
    assert weights and all(torch.equal(start[name], tuned[name]) for name in weights)
    assert "starts anew" not in caplog.text
    few = tiny_manifest.select(np.arange(12))
    with caplog.at_level("INFO"):
        train(recipe, few, tmp_path / "b", start_from=tiny_model)
    assert "this head starts anew" in caplog.text
    other = dataclasses.replace(recipe, encoder={**recipe.encoder, "channels": 24})
    one_line = r"does not fit the recipe's features and encoder: \d+ weights differ, first .* by the recipe$"
    with pytest.raises(InputError, match=one_line):
        train(other, tiny_manifest, tmp_path / "c", start_from=tiny_model)


def test_bfloat16_trains(tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    log = read_log(
        train(with_train(tiny_recipe, precision="bfloat16", epochs=0.5), tiny_manifest, tmp_path / "m")
    )
    assert all(np.isfinite(line["loss"]) for line in log)


def test_validation_is_logged(tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    seen = []

    def validate(model: torch.nn.Module) -> dict[str, float]:
        seen.append(model.training)
        return {"eer": 0.25}

    recipe = with_train(tiny_recipe, validate_every_epochs=1.0)
    log = read_log(train(recipe, tiny_manifest, tmp_path / "m", validate=validate))
    assert seen == [False, False]
    assert [line["step"] for line in log if "eer" in line] == [4, 8]
    assert json.loads((tmp_path / "m" / "log.jsonl").read_text().splitlines()[0])["step"] == 1


def test_fine_tuning_is_a_command(
    tmp_path: Path,
    tiny_model: Path,
    tiny_recipe: Recipe,
    tiny_manifest: Manifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    still = with_train(tiny_recipe, learning_rate=0.0, final_learning_rate=0.0, average="none", epochs=0.25)
    (tmp_path / "r.toml").write_text(format_toml(to_dict(still)))
    tiny_manifest.write(tmp_path / "all.tsv")
    tiny_manifest.select(np.arange(12)).write(tmp_path / "few.tsv")
    start = load_file(tiny_model / WEIGHTS)
    name = next(name for name in start if name.endswith("weight") and start[name].ndim > 1)
    for manifest, message in (("all", "its head goes on"), ("few", "this head starts anew")):
        out = tmp_path / manifest
        arguments = ["train", str(tmp_path / "r.toml"), "--manifest", str(tmp_path / f"{manifest}.tsv")]
        assert main([*arguments, "--out", str(out), "--from", str(tiny_model)]) == 0
        assert message in capsys.readouterr().err
        assert torch.equal(load_file(out / WEIGHTS)[name], start[name])
