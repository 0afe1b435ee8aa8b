"""The GPU benchmark on a CPU: every contender runs, and its figures add up."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tools import gpu_bench

ASKED = {"device": "cpu", "batch": 2, "crop_s": 0.3, "classes": 5, "seconds": 0.0, "compile": False}


@pytest.mark.parametrize("encoder", ["xvector", "resnet34"])
def test_every_task_of_ours_is_measured(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_bench, "speechbrain", lambda *sizes: None)
    monkeypatch.setattr(gpu_bench, "SINGLE_S", 0.3)
    monkeypatch.setattr(gpu_bench, "AT_ONCE", 1)
    limit = 1e9
    records = list(gpu_bench.compare(encoder, argparse.Namespace(**ASKED), {"float32": limit}))
    assert {record["task"] for record in records} == {"training", "embedding", "one utterance of 4 s"}
    tried = {record["contender"] for record in records}
    assert tried == {"ours float32"} | ({"ours float32, channels-last"} if encoder == "resnet34" else set())
    for record in records:
        crops = 1 if record["task"] == "one utterance of 4 s" else 2
        assert record["crops_per_s"] == pytest.approx(crops / record["seconds"])
        assert record["mfu"] == pytest.approx(1e9 * record["gflop"] / limit / record["seconds"])
        assert gpu_bench.line_of(record).startswith(encoder)
    gflop = {record["task"]: record["gflop"] for record in records}
    assert gflop["training"] > 2 * gflop["embedding"] > 3 * gflop["one utterance of 4 s"]


def test_a_training_step_trains() -> None:
    torch.manual_seed(0)
    system = gpu_bench.ours("xvector", 3, "cpu")
    before = [p.clone() for module in system.trained for p in module.parameters()]
    gpu_bench.training_step(system, 0.1 * torch.randn(3, 4800), torch.arange(3), "float32")()
    after = [p for module in system.trained for p in module.parameters()]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > len(after) / 2


@pytest.mark.slow
def test_the_program_runs_beside_speechbrain(tmp_path: Path) -> None:
    pytest.importorskip("speechbrain")
    sizes = ["--device", "cpu", "--batch", "2", "--crop-s", "0.5", "--classes", "12", "--seconds", "0"]
    command = [
        sys.executable,
        gpu_bench.__file__,
        "xvector",
        "resnet34",
        *sizes,
        "--json",
        str(tmp_path / "r.json"),
    ]
    subprocess.run(command, check=True)
    records = json.loads((tmp_path / "r.json").read_text())["records"]
    assert {r["contender"] for r in records} >= {"ours float32", "speechbrain float32"}
