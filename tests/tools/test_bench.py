"""The benchmark program: it lists its suites, and measures a case in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench.py"


def bench(*arguments: str) -> str:
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_suite_can_be_listed() -> None:
    listed = bench("--list")
    for path in (BENCH.parent / "benches").glob("[!_]*.py"):
        assert f"\n{path.stem}: " in "\n" + listed


@pytest.mark.slow
def test_a_case_gives_ratios_and_memory_and_can_be_compared_with_a_former_run(tmp_path: Path) -> None:
    first, picture = tmp_path / "first.json", tmp_path / "bars.png"
    asked = ["heads", "--only", "triplet", "--threads", "1", "--rounds", "1"]
    bench(*asked, "--json", str(first), "--picture", str(picture))
    record = json.loads(first.read_text())["records"][0]
    assert record["case"] == "triplet"
    assert record["speedup"]["softmax"] == record["seconds"]["softmax"] / record["seconds"]["ours"]
    assert record["peak_mb"]["ours"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "triplet" in bench(*asked, "--against", str(first)).split("against", 1)[1]
