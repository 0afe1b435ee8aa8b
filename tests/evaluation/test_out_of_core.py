"""Scoring on disk gives what scoring in memory gives, and takes no more memory than it was given."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speakerverif.cli.entry import main
from speakerverif.data.scores import ScoreKind, ScoreList
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.evaluation import out_of_core
from speakerverif.evaluation.evaluate import Settings, evaluate


def write(
    folder: Path, scores: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[Path, Path]:
    """Write a list and its scores in another order; ids of all lengths, a few rows odd."""
    ids = [f"id{i % 97:0{1 + i % 30}}/{i}.wav" for i in range(2 * len(scores))]
    rows = [f"{int(t)} {ids[2 * i]} {ids[2 * i + 1]}" for i, t in enumerate(labels)]
    lines = [f"{ids[2 * i]} {ids[2 * i + 1]} {s!r}" for i, s in enumerate(scores.tolist())]
    trials, scored = folder / "trials.txt", folder / "scores.txt"
    rows += [rows[0], rows[1], f"{rows[2][0]} {' '.join(rows[2].split()[:0:-1])}"]  # twice, twice, mirrored
    lines += [
        f"{' '.join(rows[2].split()[:0:-1])} {scores[2]!r}".replace("np.float64(", "").replace(")", ""),
        "x y 0.5",
    ]
    trials.write_text("\n".join(rows) + "\n")
    scored.write_text("\n".join(lines[i] for i in rng.permutation(len(lines))) + "\n")
    return trials, scored


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare records: counts and thresholds exactly, sums to rounding."""
    for key in ("trials", "targets", "nontargets", "eer", "eer_threshold", "min_dcf_at", "score_kind"):
        assert found[key] == expected[key], key
    for key in ("self_pairs", "duplicates", "mirrored", "missing", "sha256"):
        assert found["list"][key] == expected["list"][key], key
    for key in ("min_dcf", "min_cllr", "cllr", "act_dcf"):
        assert found[key] == (None if expected[key] is None else pytest.approx(expected[key], rel=1e-12)), key


@pytest.mark.parametrize("seed", range(9))
def test_on_disk_as_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Down to pieces of a few scores; with ties, separable, all equal."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(5, 900))
    labels = rng.random(size) < rng.choice([0.1, 0.5, 0.9])
    labels[:4] = [True, False, True, False]
    scores = rng.normal(size=size) + rng.choice([0.0, 1.5, 20.0]) * labels
    if seed % 3:
        scores = np.round(scores, int(rng.integers(0, 2)))  # ties
    if seed == 8:
        scores[:] = 0.5
    trials, scored = write(tmp_path, scores, labels, rng)
    kind: ScoreKind = "llr" if seed % 2 else "cosine"
    monkeypatch.setattr(out_of_core, "LEAST_MB", 0)
    monkeypatch.setattr(out_of_core, "TEXT_FACTOR", 300)  # parts of a few hundred bytes
    monkeypatch.setattr(out_of_core, "PER_SCORE", int(rng.integers(1 << 13, 1 << 15)))
    found = out_of_core.evaluate_on_disk(trials, scored, kind, (0.01, 0.05, 0.5), 1).to_json()
    read = TrialList.read(trials)
    expected = ScoreList.read(scored, read, kind)
    same(found, evaluate(expected, Settings((0.01, 0.05, 0.5), intervals=False)).to_json())
    assert found["extra_scores"] == expected.extra == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(3000) < 0.3
    trials, scored = write(tmp_path, rng.normal(size=3000) + 2 * labels, labels, rng)
    records = []
    for options in (["--memory-mb", "256"], ["--bootstrap", "0"]):
        arguments = ["score", str(trials), "--scores", str(scored), "--json", str(tmp_path / "r.json")]
        assert main([*arguments, *options]) == 0
        records.append(json.loads((tmp_path / "r.json").read_text()))
    same(*records)
    shown = capsys.readouterr().out
    assert shown.count(f"{100 * records[0]['eer']:.3f} %") == 2
    assert main(["score", str(trials), "--scores", str(scored), "--memory-mb", "8"]) == 2
    assert main(["score", str(trials), "--memory-mb", "256"]) == 2
    assert "--memory-mb takes TRIALS and one --scores" in capsys.readouterr().err


def test_what_is_wrong_is_named_by_the_files_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(40) < 0.5
    trials, scored = write(tmp_path, rng.normal(size=40), labels, rng)
    text = trials.read_text()
    for changed, expected in (
        (text + "1 only here\n", r"scores\.txt: no score for 1 trials of .*trials\.txt"),
        (text + "2 a b\n", r"trials\.txt: 1 wrong row: line 44: expected 0 or 1"),
        ("".join(row[2:] for row in text.splitlines(True)), r"trials\.txt: no labels"),
        ("".join(row for row in text.splitlines(True) if row[0] == "1"), "and 0 non-target trials"),
        (text + "0" + text.splitlines()[labels.argmax()][1:] + "\n", "are both target and non-target"),
    ):
        trials.write_text(changed)
        with pytest.raises(InputError, match=expected):
            out_of_core.evaluate_on_disk(trials, scored, "cosine", (0.05,), 256)


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Three million trials in the memory that was given, beside the interpreter's."""
    rng = np.random.default_rng(2)
    size = 3_000_000
    labels = rng.random(size) < 0.5
    scores = rng.normal(size=size) + 3 * labels
    names = [f"id1{i % 1251:04}/{i * 2654435761 % 2**44:011x}/{i % 99:05}.wav" for i in range(size)]
    with open(tmp_path / "t", "w") as file:
        file.writelines(f"{int(t)} {names[i]} {names[i - 1]}\n" for i, t in enumerate(labels))
    with open(tmp_path / "s", "w") as file:
        file.writelines(f"{names[i]} {names[i - 1]} {s!r}\n" for i, s in enumerate(scores.tolist()))
    code = (
        "import resource, sys\nfrom speakerverif.cli.entry import main\nimport numpy, scipy.sparse\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert main(sys.argv[1:]) == 0\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "score", str(tmp_path / "t"), "--scores", str(tmp_path / "s")]
    done = subprocess.run([*command, "--memory-mb", "256"], capture_output=True, text=True, check=True)
    assert float(done.stderr.split()[-1]) < 256
