"""Damaged inputs of every group of `tools/fuzz.py` are read or refused in one line; and the fuzzer notices what isn't.

`FUZZ_EXAMPLES` says how many inputs are tried per group (default: 200).
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speakerverif.errors import InputError
from tools import fuzz
from tools.fuzz_groups import GROUPS, Group
from tools.fuzz_inputs import Seed, mutated

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "INPUT_S", 0.3)
    monkeypatch.setattr(fuzz, "WAIT_S", 0.6)
    monkeypatch.setattr(fuzz, "MEMORY_BYTES", 1 << 28)


def spin(path: Path) -> None:
    while True:
        pass


def refuse(text: str) -> Callable[[Path], None]:
    def parse(path: Path) -> None:
        raise InputError(text)

    return parse


def only_the_damaged(use: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return a parser that reads the good input, as every parser does, and mishandles all others."""
    return lambda path: None if path.read_bytes() == b"good" else use(path)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("parse", "answer"),
    [
        (lambda path: path, "read"),
        (refuse("list.tsv:3: no such file"), "refused"),
        (refuse("two\nlines"), r"finding: message 'two\nlines'"),
        (lambda path: dict[str, str]()["key"], "finding: KeyError at test_groups.py"),
        (lambda path: bytearray(1 << 33), "finding: MemoryError"),
        (lambda path: os._exit(3), "finding: the process ended with 3"),
        (spin, "finding: nothing in 0.3 s"),
        (lambda path: time.sleep(100), "finding: nothing in 0.3 s"),
    ],
)
def test_answers_are_told_apart(tmp_path: Path, parse: Callable[[Path], Any], answer: str) -> None:
    seeds = [Seed("a", {"a": b"good"})]
    group = Group("test", lambda: seeds, only_the_damaged(parse))
    counts = fuzz.fuzz(group, 0, tmp_path, inputs=2)
    assert sum(counts.values()) == 2
    assert all(key.startswith(answer) for key in counts), counts
    # The first input of each finding is kept as it was tried.
    if "finding" in answer:
        assert (tmp_path / "test-0-0" / "a").read_bytes() == fuzz._input(seeds, 0, 0).files["a"]


def test_an_input_follows_from_its_number() -> None:
    seeds = [Seed("k", {"k/a": b"one two", "k/b": bytes(99)}, frozenset({"k/b"}))]
    inputs = [mutated(seeds, np.random.default_rng([7, i])) for i in range(20)]
    assert inputs == [mutated(seeds, np.random.default_rng([7, i])) for i in range(20)]
    assert len({one.files["k/a"] for one in inputs}) > 10
    assert {one.files["k/b"] for one in inputs} == {bytes(99)}


@pytest.mark.parametrize("name", ["lists", "tables"])
def test_a_few_damaged_inputs(name: str, tmp_path: Path) -> None:
    assert set(fuzz.fuzz(GROUPS[name], 0, tmp_path, inputs=20)) <= {"read", "refused"}


@pytest.mark.slow
def test_damaged_inputs_are_read_or_refused(tmp_path: Path) -> None:
    findings = {
        f"{name}: {answer}"
        for name, group in GROUPS.items()
        for answer in fuzz.fuzz(group, 0, tmp_path, inputs=EXAMPLES)
        if answer not in ("read", "refused")
    }
    assert not findings
