#!/usr/bin/env python3
"""Try bad inputs on every command and count the answers: a result, one clear error, or anything else.

    python tools/hostile.py --count 2000 --seed 0

Each input runs in its own process, which may take 60 s and 2 GB more than the process it is forked from. A result is
exit status 0 without `nan` among what is printed; a clear error is exit status 1 or 2 with at most `LINES` lines on
standard error and no traceback among them. Anything else is answered badly: a traceback, a crash, a hang, too much
memory. Exit status 1 where there is one, with the command lines to try again (`--keep DIR` keeps the files).
"""

import argparse
import contextlib
import importlib
import io
import os
import pkgutil
import random
import re
import resource
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import soundfile
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import speakerverif
from speakerverif._util.toml import format_toml, from_dict, to_dict
from speakerverif.cli import main as command_line
from speakerverif.config import Recipe
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.exchange.to_onnx import metadata, scoring_files
from speakerverif.inference.enroll import LIMITS
from speakerverif.models.folder import ModelFolder, read_model_folder, save_model
from speakerverif.models.model import SpeakerModel
from speakerverif.scoring.scorer import Plan, fit
from tools import hostile_commands, hostile_inputs
from tools.hostile_inputs import Case, Good

KINDS: dict[Callable[[Good, random.Random, int], Iterator[Case]], float] = {
    hostile_inputs.recordings: 0.17,
    hostile_inputs.lists: 0.12,
    hostile_inputs.manifests: 0.1,
    hostile_inputs.tables: 0.14,
    hostile_inputs.models: 0.11,
    hostile_inputs.onnx_files: 0.04,
    hostile_inputs.stores: 0.04,
    hostile_inputs.archives: 0.04,
    hostile_commands.configurations: 0.11,
    hostile_commands.command_lines: 0.13,
}
SECONDS, MEGABYTES, LINES = 60, 2048, 3
RESULT, ERROR = "result", "one clear error"


@dataclass(frozen=True)
class Answer:
    """What a command did: `RESULT`, `ERROR`, or what went wrong; with its standard error."""

    verdict: str
    text: str


def prepare(folder: Path) -> Good:
    """Return good inputs, made in `folder`, mostly by the commands themselves.

    The commands run in this process: what they import is then there for the processes that are forked from it.
    """
    good = Good(folder / "good", folder / "bad")
    for path in (good.folder, good.out):
        path.mkdir()
    rng = np.random.default_rng(0)
    t = np.arange(24_000) / 16_000
    for name, pitch in (("a", 120), ("b", 210)):
        buzz = np.sum([np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 20)], 0)
        syllables = 1 + np.sin(2 * np.pi * 4 * t)
        sound = 0.05 * buzz * syllables + 0.001 * rng.standard_normal(len(t))
        soundfile.write(good.folder / f"{name}.wav", sound, 16_000)
    speakers = np.repeat(np.arange(6), 3)
    fingerprint = tiny_model(good.folder / "model")
    seconds = np.ones(18, np.float32)
    for file, letter in (("e.npz", "s"), ("cohort.npz", "c")):
        vectors = (np.eye(6, 16)[speakers] + 0.3 * rng.standard_normal((18, 16))).astype(np.float32)
        ids = [f"{letter}{speaker}/{n % 3}.wav" for n, speaker in enumerate(speakers)]
        table = EmbeddingTable(ids, vectors, seconds, seconds, ["ok"] * 18, fingerprint)
        table.save(good.folder / file)
    ids = [name.replace("c", "s") for name in ids]
    pairs = [(i, j) for i in range(18) for j in range(i)]
    texts = {
        "trials.txt": [f"{int(speakers[i] == speakers[j])} {ids[i]} {ids[j]}" for i, j in pairs],
        "scores.txt": [f"{ids[i]} {ids[j]} {vectors[i] @ vectors[j]:.4f}" for i, j in pairs],
        "utt2spk": [f"{name} {name[:2]}" for name in ids],
        "list.tsv": ["id\tpath\tspeaker", *(f"{k}\t{good.path(f'{k}.wav')}\t{k}" for k in "ab")],
        "recipe.toml": [
            format_toml({**to_dict(Recipe()), "name": "hostile", "data": {"corpus": "synthetic"}})
        ],
    }
    for name, lines in texts.items():
        (good.folder / name).write_text("\n".join(lines) + "\n")
    plan = Plan(backend={"name": "cosine", "subtract_mean": True}, norm="asnorm", top_n=3)
    fit(plan, table, table).save(good.folder / "model")
    (good.folder / "model" / LIMITS).write_text(
        f'fingerprint = "{fingerprint}"\nmeasured_on = "x"\nmin_speech_s = 0.1\nmin_voices = -1.0\n'
        "min_sample = -1.0\nmax_twin = 1.0\n"
    )
    a, b, trials, embeddings = map(good.path, ("a.wav", "b.wav", "trials.txt", "e.npz"))
    scores = ("--scores", good.path("scores.txt"))
    for arguments in (
        ("calibrate", trials, *scores, "--out", good.path("c.toml")),
        ("calibrate", trials, "--embeddings", embeddings, "--far", "0.1", *good.model),
        ("enroll", "ann", a, "--store", good.path("store"), *good.model),
        ("verify", a, b, *good.model),
        ("score", trials, "--embeddings", embeddings, "--bootstrap", "10"),
        ("embed", "--manifest", good.path("list.tsv"), "--out", str(good.out / "e.npz"), *good.model),
    ):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
            status = command_line(list(arguments))
        if status:
            raise RuntimeError(f"{arguments[0]} failed on good input: {errors.getvalue()}")
    small_onnx(good.folder / "model.onnx", read_model_folder(good.folder / "model"))
    return good


def tiny_model(folder: Path) -> str:
    """Write a model folder of a small untrained network and return its fingerprint."""
    encoder = {"name": "xvector", "channels": 8, "pooling_channels": 8, "embedding_dim": 16}
    recipe = from_dict(Recipe, {"name": "tiny", "features": {"num_mels": 24}, "encoder": encoder}, "tiny")
    torch.manual_seed(0)
    network = SpeakerModel(recipe.features, recipe.encoder)
    speakers = [f"s{n}" for n in range(6)]
    save_model(
        folder, network.state_dict(), {"weight": torch.zeros(6, 16)}, recipe, speakers, {"finished": True}
    )
    return read_model_folder(folder).fingerprint


def small_onnx(path: Path, folder: ModelFolder) -> None:
    """Write an ONNX file with a folder's metadata, whose embedding is the waveform's mean and 15 zeros."""
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("ReduceMean", ["waveform"], ["mean"], axes=[1], keepdims=1),
            node("Pad", ["mean", "pads"], ["embedding"]),
        ],
        "small",
        [
            onnx.helper.make_tensor_value_info("waveform", onnx.TensorProto.FLOAT, ["batch", "samples"]),
            onnx.helper.make_tensor_value_info("num_samples", onnx.TensorProto.INT64, ["batch"]),
        ],
        [onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", 16])],
        [onnx.helper.make_tensor("pads", onnx.TensorProto.INT64, [4], [0, 0, 0, 15])],
    )
    file = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(file, {**metadata(folder), **scoring_files(folder), "precision": "float32"})
    onnx.save(file, str(path))


def run(arguments: tuple[str, ...], folder: Path) -> Answer:
    """Return how the command line answers, run in a process that is forked from this one."""
    log, printed = folder / ".stderr", folder / ".stdout"
    started = time.monotonic()
    # A forked process begins with the memory of this one, which may be a test run's.
    limit_mb = _resident_mb(os.getpid()) + MEGABYTES
    child = os.fork()
    if child == 0:
        _child(arguments, folder, log, printed)
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - started > SECONDS:
            return _killed(child, f"no answer in {SECONDS} s")
        if _resident_mb(child) > limit_mb:
            return _killed(child, f"over {MEGABYTES} MB")
        time.sleep(0.01)
    text = log.read_text("utf-8", "replace")
    if os.WIFSIGNALED(status):
        return Answer(f"killed by {signal.Signals(os.WTERMSIG(status)).name}", text)
    if usage.ru_maxrss / 1024 > limit_mb:
        return Answer(f"over {MEGABYTES} MB", text)
    code = os.waitstatus_to_exitcode(status)
    if "Traceback (most recent call last)" in text or code not in (0, 1, 2):
        return Answer(f"exit {code}, traceback" if "Traceback" in text else f"exit {code}", text)
    if code == 0:
        shown = printed.read_text("utf-8", "replace")
        return Answer("nan in a result", shown) if re.search(r"\bnan\b", shown) else Answer(RESULT, text)
    lines = [line for line in text.splitlines() if line.strip()]
    return Answer(ERROR if 0 < len(lines) <= LINES else f"{len(lines)} lines of error", text)


def _child(arguments: tuple[str, ...], folder: Path, log: Path, printed: Path) -> None:
    """Run the command line with its output in a file and end the process."""
    code = 70
    try:
        os.chdir(folder)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        for target, path in ((1, printed), (2, log)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
        sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 31, 1 << 31))
        try:
            code = command_line(list(arguments))
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _killed(child: int, why: str) -> Answer:
    for kill in (os.killpg, os.kill):  # before the child has a group of its own, there is only itself
        with contextlib.suppress(ProcessLookupError):
            kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return Answer(why, "")


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)
    except (OSError, IndexError, ValueError):
        return 0.0


def table(verdicts: list[tuple[Case, Answer]]) -> str:
    """Return the counts by kind as a Markdown table."""
    counts = Counter(
        (case.kind, answer.verdict if answer.verdict in (RESULT, ERROR) else "bad")
        for case, answer in verdicts
    )
    rows = ["| kind | inputs | result | one clear error | anything else |", "|---|---|---|---|---|"]
    for kind in [*dict.fromkeys(case.kind for case, _ in verdicts)]:
        numbers = [counts[kind, verdict] for verdict in (RESULT, ERROR, "bad")]
        rows.append(f"| {kind} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    total = [
        sum(counts[kind, verdict] for kind in {k for k, _ in counts}) for verdict in (RESULT, ERROR, "bad")
    ]
    return "\n".join([*rows, f"| all | {len(verdicts)} | {' | '.join(map(str, total))} |"])


def cases(good: Good, seed: int, count: int) -> list[Case]:
    """Return about `count` bad inputs of all kinds; the same seed gives the same ones."""
    rng = random.Random(seed)
    return [case for kind, share in KINDS.items() for case in kind(good, rng, round(share * count))]


def attack(folder: Path, seed: int, count: int, share: float = 1.0) -> Iterator[tuple[Case, Answer]]:
    """Yield the answers to bad inputs made in `folder`: a share of `count` of them, drawn by the seed."""
    torch.set_num_threads(1)
    _import_all()
    good = prepare(folder)
    tried = cases(good, seed, count)
    if share < 1:
        tried = random.Random(seed).sample(tried, round(share * len(tried)))
    for case in tried:
        yield case, run(case.arguments, good.out)


def _import_all() -> None:
    """Import the package's modules here, once, for the processes that are forked."""
    for module in pkgutil.walk_packages(speakerverif.__path__, "speakerverif."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def main() -> int:
    """Run the program and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--count", type=int, default=2000, metavar="N", help="number of inputs (default: 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the inputs (default: 0)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="make the inputs in DIR and leave them there"
    )
    options = parser.parse_args()
    verdicts: list[tuple[Case, Answer]] = []
    with contextlib.ExitStack() as scratch:
        folder = options.keep or Path(scratch.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for case, answer in attack(folder, options.seed, options.count):
            verdicts.append((case, answer))
            if answer.verdict not in (RESULT, ERROR):
                last = "\n  ".join(answer.text.strip()[-400:].split("\n")[-5:])
                line = shlex.join(case.arguments)
                print(f"{case.kind}, {case.name}: {answer.verdict}\n  {line}\n  {last}\n", flush=True)
    print(table(verdicts))
    return int(any(answer.verdict not in (RESULT, ERROR) for _, answer in verdicts))


if __name__ == "__main__":
    sys.exit(main())
