"""Training: resumed equals uninterrupted, and wrong input stops it before or at the step."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

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
from speakerverif.models.folder import WEIGHTS, read_model_folder
from speakerverif.training.log import read_log
from speakerverif.training.loop import train
from speakerverif.training.state import STATE


def with_train(recipe: Recipe, **changes: object) -> Recipe:
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
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, changes: dict
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
    with pytest.raises(InputError, match="24 utterances so far, the data now have 20"):
        train(tiny_recipe, tiny_manifest.select(np.arange(20)), tmp_path / "m")
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


def test_non_finite_recording_is_named(tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    samples = np.full(16000, np.nan, np.float32)
    soundfile.write(tmp_path / "nan.wav", samples, 16000, subtype="FLOAT")
    bad = Manifest.from_utterances(
        [*tiny_manifest, Utterance("nan", str(tmp_path / "nan.wav"), "spk0", 0.0, 1.0)]
    )
    with pytest.raises(InputError, match=r"nan.wav: samples that are not finite"):
        train(with_train(tiny_recipe, epochs=3.0), bad, tmp_path / "m")


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
    with pytest.raises(InputError, match="does not fit the recipe's features and encoder"):
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
