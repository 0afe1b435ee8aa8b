"""The built-in model: loading it with all imports, and embedding a file of 4 s once it is loaded."""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from speakerverif._util.allocator import keep_freed_memory
from speakerverif.api.model import load_model
from speakerverif.models.folder import DEFAULT
from tools.benches._case import Case, Limit, as_installed
from tools.benches.embedding import recordings, resemblyzer

ROOT = Path(__file__).resolve().parents[2]
DURATION_S = 4.0


def _loading(threads: int) -> Case:
    kept = tempfile.TemporaryDirectory()  # deleted with the case
    environment = as_installed(Path(kept.name))

    def run(code: str, kept: tempfile.TemporaryDirectory[str] = kept) -> None:
        command = [sys.executable, "-c", code]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)

    ours = functools.partial(run, "import speakerverif; speakerverif.load_model()")
    return Case(ours, limits={"import torch alone": Limit(lambda: run("import torch"))}, clock="wall")


def _embedding(threads: int, beside: bool) -> Case:
    torch.set_num_threads(threads)
    keep_freed_memory()
    model, (recording,) = load_model(DEFAULT), recordings(1, DURATION_S, DURATION_S)
    peers = resemblyzer([recording]) if beside else {}
    return Case(lambda: model.embed(recording.path), peers, rounds=40)


CASES = {
    "load_model(), imports included": _loading,
    "a file of 4 s, loaded": functools.partial(_embedding, beside=False),
    "the same, in turn with who else does it": functools.partial(_embedding, beside=True),
}
