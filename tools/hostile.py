#!/usr/bin/env python3
"""Try bad inputs on every command and count the answers: a result, one clear error, or anything else.

    python tools/hostile.py --count 2000 --seed 0

Each input runs in its own process, which may take 60 s and 2 GB more than the process it is forked from. A result is
exit status 0; a clear error is exit status 1 or 2 with at most `LINES` lines on standard error and no traceback among
them. Anything else is answered badly: a traceback, a crash, a hang, too much memory. Exit status 1 where there is one,
with the command lines to try again.
"""

import argparse
import contextlib
import importlib
import os
import pkgutil
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import speakerverif
from speakerverif._util.toml import format_toml, to_dict
from speakerverif.cli import main as command_line
from speakerverif.config import Recipe
from tools.hostile_inputs import Case, Good, cases

SECONDS, MEGABYTES, LINES = 60, 2048, 12
RESULT, ERROR = "result", "one clear error"


@dataclass(frozen=True)
class Answer:
    """What a command did: `RESULT`, `ERROR`, or what went wrong; with its standard error."""

    verdict: str
    text: str


def prepare(folder: Path) -> Good:
    """Return good inputs, made in `folder` by the commands themselves."""
    from speakerverif.models.folder import DEFAULT

    good = folder / "good"
    good.mkdir()
    rng = np.random.default_rng(0)
    for name in "ab":
        t = np.arange(32000) / 16000
        pitch = 120 if name == "a" else 210
        voice = sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 20)) * (
            1 + np.sin(2 * np.pi * 4 * t)
        )
        soundfile.write(good / f"{name}.wav", 0.05 * voice + 0.001 * rng.standard_normal(32000), 16000)
    shutil.copytree(DEFAULT, good / "model")
    ids = [f"s{s}/{u}.wav" for s in range(6) for u in range(3)]
    speakers = np.repeat(np.arange(6), 3)
    vectors = np.eye(6, 16)[speakers] + 0.3 * rng.standard_normal((18, 16))
    pairs = [(i, j) for i in range(18) for j in range(i)]
    rows = [f"{int(speakers[i] == speakers[j])} {ids[i]} {ids[j]}" for i, j in pairs]
    (good / "trials.txt").write_text("\n".join(rows) + "\n")
    (good / "scores.txt").write_text(
        "".join(f"{ids[i]} {ids[j]} {vectors[i] @ vectors[j]:.4f}\n" for i, j in pairs)
    )
    (good / "utt2spk").write_text("".join(f"{name} {name[:2]}\n" for name in ids))
    seconds = np.ones(18, np.float32)
    np.savez(
        good / "e.npz", ids=np.array(ids), embeddings=vectors.astype(np.float32), durations=seconds, speech=seconds,
        status=np.full(18, "ok"), fingerprint=np.array("0123456789abcdef"),
    )  # fmt: skip
    (good / "list.tsv").write_text(f"id\tpath\tspeaker\nu\t{good}/a.wav\ts\nv\t{good}/b.wav\tt\n")
    recipe = to_dict(Recipe())
    recipe["data"]["corpus"], recipe["name"] = "synthetic", "hostile"
    (good / "recipe.toml").write_text(format_toml(recipe))
    quiet = Good(good, folder / "bad")
    quiet.out.mkdir()
    for arguments in (
        ("calibrate", good / "trials.txt", "--scores", good / "scores.txt", "--out", good / "c.toml"),
        ("enroll", "ann", good / "a.wav", "--store", good / "store"),
    ):
        answer = run(tuple(map(str, arguments)), quiet.out)
        if answer.verdict != RESULT:
            raise RuntimeError(f"{arguments[0]} failed on good input: {answer.text}")
    return quiet


def run(arguments: tuple[str, ...], folder: Path) -> Answer:
    """Return how the command line answers, run in a process that is forked from this one."""
    log = folder / ".stderr"
    started = time.monotonic()
    # A forked process begins with the memory of this one, which may be a test run's.
    limit_mb = _resident_mb(os.getpid()) + MEGABYTES
    child = os.fork()
    if child == 0:
        _child(arguments, folder, log)
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
        return Answer(RESULT, text)
    lines = [line for line in text.splitlines() if line.strip()]
    return Answer(ERROR if 0 < len(lines) <= LINES else f"{len(lines)} lines of error", text)


def _child(arguments: tuple[str, ...], folder: Path, log: Path) -> None:
    """Run the command line with its output in a file and end the process."""
    code = 70
    try:
        os.chdir(folder)
        os.setsid()
        null, err = os.open(os.devnull, os.O_RDWR), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for target, source in ((0, null), (1, null), (2, err)):
            os.dup2(source, target)
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


def attack(folder: Path, seed: int, count: int, share: float = 1.0) -> list[tuple[Case, Answer]]:
    """Return the answers to bad inputs made in `folder`: a share of `count` of them, drawn by the seed."""
    torch.set_num_threads(1)
    _import_all()
    good = prepare(folder)
    tried = cases(good, seed, count)
    if share < 1:
        tried = random.Random(seed).sample(tried, round(share * len(tried)))
    return [(case, run(case.arguments, good.out)) for case in tried]


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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        verdicts = attack(Path(folder), options.seed, options.count)
        print(table(verdicts))
        bad = [(case, answer) for case, answer in verdicts if answer.verdict not in (RESULT, ERROR)]
        for case, answer in bad:
            last = answer.text.strip().split("\n")[-1][:200]
            print(f"\n{case.kind}, {case.name}: {answer.verdict}\n  {shlex.join(case.arguments)}\n  {last}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
