"""Fixtures that every test file may use."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import soundfile
import torch

from speakerverif._util.toml import from_dict
from speakerverif.config import Recipe
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.training import distributed

RATE = 16000
T = TypeVar("T")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let hypothesis look at all modules that collecting has imported."""
    _forget_lazy_modules()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let hypothesis look at all modules that other tests have imported."""
    if hasattr(getattr(item, "obj", None), "hypothesis"):
        _forget_lazy_modules()


def _forget_lazy_modules() -> None:
    """Remove SpeechBrain's lazy modules from the table of modules.

    Hypothesis asks each module in it for its file, and a lazy one is then imported, or fails where it can't be.
    """
    for name, module in list(sys.modules.items()):
        if "LazyModule" in [base.__name__ for base in type(module).__mro__]:
            del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """One thread: the tensors are tiny, and threads that wait for each other cost more than they bring."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_calibration_of_this_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty configuration folder: whoever runs the tests may have calibrated the built-in model."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared corpora and lists beside the checkout; skips where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the shared corpora beside the checkout (../shared)")
    return folder


def voice(speaker: int, seed: int, seconds: float) -> np.ndarray:
    """Return a buzz in syllables whose pitch and formant tell the speaker, float32 (samples,)."""
    rng = np.random.default_rng([speaker, seed])
    t = np.arange(round(seconds * RATE)) / RATE
    f0, formant = 90 + 25 * speaker, 500 + 180 * speaker
    harmonics = np.arange(1, 20) * f0 * rng.uniform(0.98, 1.02)
    weights = np.exp(-(((harmonics - formant) / 400) ** 2)) + 0.02
    phases = rng.uniform(0, 2 * np.pi, len(harmonics))
    buzz = np.sin(2 * np.pi * harmonics[:, None] * t + phases[:, None]).T @ weights
    syllables = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * t + rng.uniform(0, 6))
    sound = buzz * syllables + 0.05 * rng.standard_normal(len(t))
    samples: np.ndarray = (0.3 * sound / np.abs(sound).max()).astype(np.float32)
    return samples


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `spk<k>/<n>.wav`: 6 speakers, 4 recordings of 1 to 2 s each; basenames repeat."""
    root = tmp_path_factory.mktemp("tiny-corpus")
    for speaker in range(6):
        (root / f"spk{speaker}").mkdir()
        for n in range(4):
            soundfile.write(root / f"spk{speaker}" / f"{n}.wav", voice(speaker, n, 1.0 + 0.3 * n), RATE)
    return root


@pytest.fixture(scope="session")
def tiny_manifest(tiny_corpus: Path) -> Manifest:
    """The recordings of the tiny corpus."""
    return Manifest.from_utterances(
        Utterance(f"spk{s}/{n}.wav", str(tiny_corpus / f"spk{s}" / f"{n}.wav"), f"spk{s}", 0.0, 1.0 + 0.3 * n)
        for s in range(6)
        for n in range(4)
    )


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """A recipe of seconds: every kind of randomness that training has, a network of toy size."""
    return from_dict(
        Recipe,
        {
            "name": "tiny",
            "features": {"num_mels": 24},
            "encoder": {
                "name": "ecapa",
                "channels": 16,
                "mfa_channels": 24,
                "attention_channels": 8,
                "res2_scale": 4,
                "se_channels": 8,
                "embedding_dim": 16,
            },
            "augment": {
                "speeds": [1.0, 0.9],
                "probability": 0.5,
                "kinds": ["noise", "babble", "reverb"],
                "babble_speakers": [1, 2],
                "spec": {"freq_masks": 1, "max_freq_bands": 4, "time_masks": 1, "max_time_frames": 5},
            },
            "train": {
                "epochs": 2,
                "batch_size": 6,
                "crop_s": 0.6,
                "warmup_epochs": 0.5,
                "average": "ema",
                "ema_decay": 0.9,
                "workers": 0,
                "margin_schedule": {"kind": "linear", "start_epoch": 0.5, "end_epoch": 1.5},
            },
        },
        "tiny",
    )


@pytest.fixture(scope="session")
def tiny_model(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe, tiny_manifest: Manifest
) -> Path:
    """A model folder that training wrote."""
    from speakerverif.training.loop import train

    return train(tiny_recipe, tiny_manifest, tmp_path_factory.mktemp("tiny-model") / "model")


def in_two_processes(work: Callable[[], T]) -> list[T]:
    """Return what `work` returns in each of two processes that are joined as torchrun joins them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]

    def run(rank: int) -> None:
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
        }
        try:
            with distributed.processes("cpu"):
                pipes[rank][1].send((work(), ""))
        except BaseException:
            pipes[rank][1].send((None, traceback.format_exc()))

    workers = [context.Process(target=run, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    try:
        results = []
        for worker, (reader, _) in zip(workers, pipes, strict=True):
            assert reader.poll(60), "a process hangs"
            result, error = reader.recv()
            assert not error, error
            results.append(result)
            worker.join(10)
            assert worker.exitcode == 0
        return results
    finally:
        for worker in workers:
            worker.kill()
