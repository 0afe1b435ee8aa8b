"""The frame of the command line: groups, wrong command lines in one line, messages that can be silenced."""

import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

import speakerverif
from speakerverif.cli import main, parser
from speakerverif.cli._console import messages_shown
from speakerverif.cli._parser import Command
from speakerverif.cli.entry import GROUPS

COMMANDS = [command for group in GROUPS for command in group.commands]
PACKAGE = Path(speakerverif.__file__).parent


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line on standard error of a command line that ends with status 2."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_help_lists_each_command_once_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert len(re.findall(rf"^  {command.name} ", shown, re.MULTILINE)) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_of_a_command_is_a_command_line(command: Command) -> None:
    program, *words = command.example.split()
    assert program == "speakerverif" and parser().parse_args(words).run is command.run


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"speakerverif {speakerverif.__version__}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["embde"], "did you mean embed?"),
        (["embed", "a.wav", "--modle", "m"], "did you mean --model?"),
        (["run", "r.toml", "--sets", "a=1"], "unknown option --sets; did you mean --set?"),
        (["embed", "a.wav", "--out", "e.npz", "--threads", "9" * 20], "whole number from 1"),
        (["embed", "a.wav", "--out", "e.npz", "--threads", "two"], "found 'two'"),
        (["train", "r.toml", "--out", "m", "--seed", "-1"], "expected a whole number from 0"),
        (["embed", "a.wav", "--out", "e.npz", "--batch-size", "0"], "expected a whole number from 1"),
        (["embed", "a.wav", "--out", "e.npz", "-v", "-q"], "not allowed with"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_answered_in_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in said(words, capsys)


def test_options_may_be_shortened_as_before() -> None:
    assert parser().parse_args(["embed", "a.wav", "--ou", "e.npz", "--batch=3"]).batch_size == 3


@pytest.mark.parametrize(("verbosity", "levels"), [(-1, "WE"), (0, "IWE"), (1, "DIWE")])
def test_messages_go_to_standard_error_only_within_a_command(
    verbosity: int, levels: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("speakerverif.somewhere")
    with messages_shown(verbosity):
        for level, name in ((10, "D"), (20, "I"), (30, "W"), (40, "E")):
            logger.log(level, name)
    logger.error("afterwards")
    shown = capsys.readouterr()
    assert shown.err.split() == list(levels) and not shown.out


def test_verbosity_may_be_given_before_and_after_the_command() -> None:
    for words, expected in ((["-q", "info"], -1), (["info", "-v"], 1), (["info"], 0)):
        assert parser().parse_args(words).verbosity == expected


def test_only_the_command_line_prints() -> None:
    printing = re.compile(r"\bprint\(|sys\.std(out|err)\.write")
    ours = [path for path in PACKAGE.rglob("*.py") if path.parent.name not in ("cli", "demos")]
    assert len(ours) > 50
    assert not [path for path in ours if printing.search(path.read_text("utf-8"))]


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "latin-1", "utf-8"])
def test_a_console_that_lacks_a_character_shows_a_similar_one(encoding: str, tmp_path: Path) -> None:
    pairs = [(i, j) for i in range(72) for j in range(i)]  # of 24 speakers, enough for intervals
    label = [int(i // 3 == j // 3) for i, j in pairs]
    (tmp_path / "t.txt").write_text(
        "".join(f"{y} s{i // 3}/{i} s{j // 3}/{j}\n" for y, (i, j) in zip(label, pairs, strict=True))
    )
    (tmp_path / "s.txt").write_text(
        "".join(
            f"s{i // 3}/{i} s{j // 3}/{j} {0.7 * y + (i * i + 3 * j) % 10 / 6:.3f}\n"
            for y, (i, j) in zip(label, pairs, strict=True)
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "speakerverif", "score", "t.txt", "--scores", "s.txt", "--bootstrap", "20"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert "EER" in shown and (" – " if encoding == "utf-8" else " - ") in shown


def test_a_file_name_that_is_not_utf_8_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.TextIOWrapper(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", console)
    with pytest.raises(SystemExit):
        main(["--version"])
    print("Ren\udce9.wav")
    console.flush()
    assert console.buffer.getvalue().endswith(b"Ren\\udce9.wav\n")
