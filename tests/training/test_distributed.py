"""Two processes compute what one would: weights, figures, and an end that leaves nobody hanging."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from speakerverif._util.toml import format_toml, to_dict
from speakerverif.audio.reading import AudioInfo, Files
from speakerverif.config import Recipe, SpecAugmentConfig, TrainConfig
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.models.folder import HEAD, WEIGHTS, read_model_folder
from speakerverif.training import distributed
from speakerverif.training.batches import BatchOrder
from speakerverif.training.log import read_log
from speakerverif.training.loop import train
from speakerverif.training.recordings import BadFiles, readable
from speakerverif.training.spec_augment import spec_augment
from tests.conftest import in_two_processes


def with_train(recipe: Recipe, **changes: Any) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **changes))


def test_gathering_and_averaging_give_the_gradient_of_the_whole() -> None:
    weight, x = torch.tensor([2.0, -1.0]), torch.tensor([[1.0, 2.0], [3.0, 5.0]])

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return (rows[0] * rows[1].square()).sum() + rows.sum().square()

    def work() -> tuple[float, list[float]]:
        w = torch.nn.Parameter(weight.clone())
        value = loss(distributed.gather(x[distributed.rank()][None] * w))
        value.backward()
        distributed.average_gradients([w])
        assert w.grad is not None
        return value.item(), w.grad.tolist()

    w = weight.clone().requires_grad_()
    loss(x * w).backward()
    first, second = in_two_processes(work)
    assert w.grad is not None
    assert first == second == (loss(x * weight).item(), w.grad.tolist())


def test_the_first_process_alone_looks_at_the_recordings(tmp_path: Path, tiny_manifest: Manifest) -> None:
    rows = [*tiny_manifest, Utterance("gone", str(tmp_path / "none.wav"), "spk0")]
    manifest, looked_at = Manifest.from_utterances(rows), []

    class Watched(Files):
        def info(self, path: str | Path) -> AudioInfo:
            looked_at.append(path)
            return super().info(path)

    def work() -> tuple[int, int, list[str]]:
        kept, left_out = readable(manifest, BadFiles(skip=True), Watched())
        return len(looked_at), len(kept), left_out

    assert in_two_processes(work) == [(25, 24, ["gone"]), (0, 24, ["gone"])]


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 5, 2)], ids=str)
def test_shared_batch_norm_is_that_of_all_rows_together(shape: tuple[int, ...]) -> None:
    # A mean far from zero: a variance from sums of squares would have few digits left.
    generator = torch.Generator().manual_seed(0)
    x = 1e4 + torch.randn(shape, dtype=torch.float64, generator=generator)
    target = torch.randn(shape, dtype=torch.float64, generator=generator)

    def step(rows: slice) -> dict[str, np.ndarray]:
        norm = (torch.nn.BatchNorm1d if len(shape) < 4 else torch.nn.BatchNorm2d)(3).double()
        part = x[rows].clone().requires_grad_()
        (norm(part) - target[rows]).square().sum().backward()
        assert part.grad is not None
        found = {"input": part.grad} | {f"{name}'": p.grad for name, p in norm.named_parameters()}
        return {name: tensor.numpy() for name, tensor in (found | norm.state_dict()).items()}

    def work() -> dict[str, np.ndarray]:
        with distributed.SharedBatchNorm():
            return step(slice(0, 1) if distributed.is_first() else slice(1, None))  # parts of unequal size

    whole, (first, second) = step(slice(None)), in_two_processes(work)
    first["input"] = np.concatenate([first["input"], second["input"]])
    for name in ("weight'", "bias'"):
        first[name] += second[name]
    for name, expected in whole.items():
        np.testing.assert_allclose(first[name], expected, rtol=1e-9, atol=1e-8, err_msg=name)


def test_batch_norm_is_each_process_s_own_by_default() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

    def work() -> list[list[float]]:
        values: list[list[float]] = torch.nn.BatchNorm1d(3)(x[3 * distributed.rank() :][:3]).tolist()
        return values

    halves = in_two_processes(work)
    assert halves == [torch.nn.BatchNorm1d(3)(half).tolist() for half in x.chunk(2)]


@pytest.fixture
def double() -> Iterator[None]:
    """Networks in float64: the rounding that a few steps of training amplify a thousandfold stays below 1e-9."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_same_training(first: Path, second: Path, rtol: float) -> None:
    """Compare the logs and the weights of two trainings."""
    logs = read_log(first), read_log(second)
    assert len(logs[0]) == len(logs[1]) == 4
    for figures, others in zip(*logs, strict=True):
        for name in ("samples", "epoch", "learning_rate", "margin_fraction", "accuracy"):
            assert figures[name] == others[name]
        for name in ("loss", "grad_norm"):
            assert others[name] == pytest.approx(figures[name], rel=rtol)
    for file in (WEIGHTS, HEAD):
        others = load_file(second / file)
        for name, tensor in load_file(first / file).items():
            torch.testing.assert_close(others[name], tensor, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("head", "speakers"),
    [("am_softmax", 0), ("ge2e", 3), ("center", 0)],
    ids=["am_softmax", "ge2e", "center"],
)
def test_two_processes_train_as_one(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, head: str, speakers: int, double: None
) -> None:
    recipe = with_train(
        dataclasses.replace(tiny_recipe, head={"name": head}),
        shared_batch_norm=True,
        speakers_per_batch=speakers,
        epochs=1.0,
        optimizer="sgd",  # Adam magnifies the rounding of gradients near zero
        learning_rate=3e-3,
        average="none",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    train(recipe, tiny_manifest, one)
    in_two_processes(lambda: str(train(recipe, tiny_manifest, two)))
    assert_same_training(one, two, rtol=1e-9)


def test_in_float32_the_first_step_of_two_processes_is_that_of_one(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    recipe = with_train(tiny_recipe, shared_batch_norm=True, optimizer="sgd", warmup_epochs=0.0)
    one, two = tmp_path / "one", tmp_path / "two"
    train(recipe, tiny_manifest, one, stop_after_steps=1)
    in_two_processes(lambda: str(train(recipe, tiny_manifest, two, stop_after_steps=1)))
    (expected,), (step,) = read_log(one), read_log(two)
    assert step["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert step["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_a_state_continues_with_any_number_of_processes(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, double: None
) -> None:
    recipe = with_train(tiny_recipe, epochs=1.0, shared_batch_norm=True, optimizer="sgd", learning_rate=3e-3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, tiny_manifest, whole)
    train(recipe, tiny_manifest, parts, stop_after_steps=1)
    in_two_processes(lambda: str(train(recipe, tiny_manifest, parts, stop_after_steps=3)))
    assert read_model_folder(parts).trained["finished"] is False
    train(recipe, tiny_manifest, parts)
    assert_same_training(whole, parts, rtol=1e-9)


def test_parts_of_a_batch_are_that_batch() -> None:
    index = np.repeat(np.arange(5), 3)
    for config in (TrainConfig(batch_size=6), TrainConfig(batch_size=6, speakers_per_batch=3)):
        whole = list(BatchOrder(index, config, seed=3))
        parts = [BatchOrder(index, config, seed=3, part=(k, 3)) for k in range(3)]
        assert [[key for part in batch for key in part] for batch in zip(*parts, strict=True)] == whole
    with pytest.raises(InputError, match=r"batch_size 6 is not a multiple of the 4 processes"):
        BatchOrder(index, TrainConfig(batch_size=6), seed=3, part=(0, 4))


def test_masks_of_parts_are_those_of_the_batch() -> None:
    features, frames = torch.ones(6, 50, 8), torch.tensor([50, 40, 50, 30, 50, 20])
    config = SpecAugmentConfig(freq_masks=2, time_masks=1, max_freq_bands=4)

    def masked(rows: slice, part: tuple[int, int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return spec_augment(features[rows], frames[rows], config, generator, part)

    whole = masked(slice(None), (0, 1))
    assert torch.equal(torch.cat([masked(slice(3 * k, 3 * k + 3), (k, 2)) for k in range(2)]), whole)


def test_an_error_in_one_process_reaches_its_caller_and_the_others_are_silent(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = with_train(
        tiny_recipe, learning_rate=1e30, warmup_epochs=0.0, max_grad_norm=0.0, optimizer="sgd"
    )

    def work() -> str:
        print("printed", distributed.rank())
        try:
            train(recipe, tiny_manifest, tmp_path / "m")
        except InputError as error:
            return str(error)
        return "no error"

    first, second = in_two_processes(work)
    assert first == second and re.match(r"the loss is (nan|inf) at step \d+.*spk\d/\d.wav", first)
    assert capfd.readouterr().out == "printed 0\n"


def torchrun(folder: Path, recipe: Recipe, manifest: Manifest) -> subprocess.Popen[bytes]:
    """Start a training by two processes as a user would, its output in `folder`/out and `folder`/err."""
    (folder / "r.toml").write_text(format_toml(to_dict(recipe)))
    manifest.write(folder / "m.tsv")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "speakerverif", "train", "r.toml", "--manifest", "m.tsv", "--out", "model"]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=(folder / "out").open("w"),
        stderr=(folder / "err").open("w"),
    )


def running(folder: Path) -> list[int]:
    """Return the processes that work in `folder`."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "cwd").readlink() == folder:
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_torchrun_ends_cleanly_after_success(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    process = torchrun(tmp_path, with_train(tiny_recipe, workers=1), tiny_manifest)
    assert process.wait(120) == 0
    assert (tmp_path / "out").read_text() == "model\n"
    assert read_model_folder(tmp_path / "model").trained["finished"]
    assert len(read_log(tmp_path / "model")) == 8
    assert not running(tmp_path)
    err = (tmp_path / "err").read_text()
    assert "destroy_process_group" not in err and "Traceback" not in err


@pytest.mark.slow
def test_torchrun_ends_cleanly_after_an_error_in_one_process(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not audio")
    manifest = Manifest.from_utterances([*tiny_manifest, Utterance("broken", str(broken), "spk0", 0.0, 1.0)])
    process = torchrun(tmp_path, with_train(tiny_recipe, workers=1), manifest)
    assert process.wait(120) != 0
    said = (tmp_path / "err").read_text()
    assert re.search(r"^speakerverif: .*broken.wav", said, re.MULTILINE)
    assert "[rank" not in said  # torch's mark before the lines of a traceback
    assert not running(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_torchrun_leaves_nobody_behind_when_interrupted(
    tmp_path: Path, tiny_recipe: Recipe, tiny_manifest: Manifest, number: signal.Signals
) -> None:
    process = torchrun(tmp_path, with_train(tiny_recipe, workers=1, epochs=10_000.0), tiny_manifest)
    log = tmp_path / "model" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") >= 2):
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(60) != 0
    assert not running(tmp_path)
