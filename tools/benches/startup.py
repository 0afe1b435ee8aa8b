"""Whole programs that should answer at once: the help, and scoring a score file; against a bare Python."""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tools.benches._case import Case, Limit, as_installed

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 60_000


def _program(arguments: list[str], environment: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, *arguments], check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )


def _lists(folder: Path) -> list[str]:
    """Write a trial list and its scores, and return their names."""
    rng = np.random.default_rng(0)
    target = rng.random(TRIALS) < 0.5
    scores = rng.standard_normal(TRIALS) + 3 * target
    pairs = [
        f"s{i % 40}/{i % 4874}.wav s{i % 40 if t else 41}/{i}.wav" for i, t in enumerate(target.tolist())
    ]
    rows = zip(target.tolist(), pairs, scores.tolist(), strict=True)
    (folder / "trials").write_text("".join(f"{int(t)} {pair}\n" for t, pair, _ in rows))
    (folder / "scores").write_text(
        "".join(f"{p} {s!r}\n" for p, s in zip(pairs, scores.tolist(), strict=True))
    )
    return [str(folder / "trials"), "--scores", str(folder / "scores")]


def _case(command: str, threads: int) -> Case:
    kept = tempfile.TemporaryDirectory()  # deleted with the case
    environment = as_installed(Path(kept.name))
    arguments = ["-m", "speakerverif", command]
    if command == "score":
        arguments += [*_lists(Path(kept.name)), "--bootstrap", "0"]

    def ours(kept: tempfile.TemporaryDirectory[str] = kept) -> None:
        _program(arguments, environment)

    bare = Limit(lambda: _program(["-c", "pass"], environment))
    arrays = Limit(lambda: _program(["-c", "import numpy"], environment))
    return Case(ours, limits={"python alone": bare, "python with NumPy": arrays}, clock="wall")


CASES = {
    "speakerverif --help": functools.partial(_case, "--help"),
    "score of a score file, 60,000 trials": functools.partial(_case, "score"),
}
