"""Scoring as a whole program, start and files included; and the EER alone against SpeechBrain's."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.evaluation.metrics import det_curve
from tools.benches._case import Case, Work, as_installed, left_out
from tools.benches.metrics import scores

SCRIPT = Path(__file__).resolve().parents[1] / "score.py"
FILES, TRIALS, SPEAKERS, DIM = 145_160, 581_480, 1251, 192


def _write(folder: Path) -> None:
    """Write a list like VoxCeleb1-E, ready embeddings of its files, and scores."""
    rng = np.random.default_rng(0)
    speaker = np.sort(rng.integers(0, SPEAKERS, FILES))
    video = rng.integers(0, 2**44, FILES)
    ids = [
        f"id1{s:04}/{v:011x}/{i % 100:05}.wav" for i, (s, v) in enumerate(zip(speaker, video, strict=True))
    ]
    centres = rng.standard_normal((SPEAKERS, DIM), np.float32)
    vectors = centres[speaker] + rng.standard_normal((FILES, DIM), np.float32)
    seconds = np.ones(FILES, np.float32)
    EmbeddingTable(ids, vectors, seconds, seconds, ["ok"] * FILES, "x").save(folder / "e.npz")
    first = np.searchsorted(speaker, np.arange(SPEAKERS + 1))
    enroll = rng.integers(0, FILES, TRIALS)
    own = first[speaker[enroll]] + rng.integers(0, 1 << 30, TRIALS) % np.diff(first)[speaker[enroll]]
    test = np.where(rng.random(TRIALS) < 0.5, own, rng.integers(0, FILES, TRIALS))
    rows = zip((speaker[enroll] == speaker[test]).tolist(), enroll.tolist(), test.tolist(), strict=True)
    (folder / "trials").write_text("".join(f"{int(t)} {ids[i]} {ids[j]}\n" for t, i, j in rows))


def _program(threads: int, *options: str) -> Case:
    folder = tempfile.TemporaryDirectory()  # deleted with the case
    path = Path(folder.name)
    _write(path)
    environment = as_installed(path)
    lists = [str(path / "trials"), "--embeddings", str(path / "e.npz")]
    command = [sys.executable, str(SCRIPT), *lists, *options]

    def ours(kept: tempfile.TemporaryDirectory[str] = folder) -> None:
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

    return Case(ours, clock="wall", rounds=3)


def _beside_speechbrain(threads: int) -> Case:
    values, labels = scores(37_720)
    peers: dict[str, Work] = {}
    try:
        import torch
        from speechbrain.utils.metric_stats import EER
    except ImportError:
        left_out("speechbrain")
    else:
        positive, negative = (torch.from_numpy(values[chosen]) for chosen in (labels, ~labels))
        peers["speechbrain"] = lambda: EER(positive, negative)

    return Case(lambda: det_curve(values, labels).eer(), peers, rounds=1)


CASES = {
    "581,480 trials from ready embeddings": lambda threads: _program(threads, "--bootstrap", "0"),
    "the same with intervals": lambda threads: _program(threads),
    "EER of 37,720 trials": _beside_speechbrain,
}
