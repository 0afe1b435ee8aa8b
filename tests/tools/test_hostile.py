"""Bad inputs: each is answered by a result or by one clear error."""

from pathlib import Path

import pytest

from tools import hostile

COUNT = 2000  # as `make hostile` tries


def test_a_twentieth_of_the_bad_inputs(tmp_path: Path) -> None:
    verdicts = list(hostile.attack(tmp_path, seed=0, count=COUNT, share=1 / 20))
    bad = [
        f"{case.arguments}: {answer.verdict}\n{answer.text[-500:]}"
        for case, answer in verdicts
        if answer.verdict not in (hostile.RESULT, hostile.ERROR)
    ]
    assert len(verdicts) >= COUNT / 25
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("raise KeyError('x')", "exit 1, traceback"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import sys; sys.exit(3)", "exit 3"),
        ("import sys; print('no such file', file=sys.stderr); sys.exit(2)", "one clear error"),
        ("import sys; sys.exit(1)", "0 lines of error"),
        ("import sys; print('a\\nb\\nc\\nd', file=sys.stderr); sys.exit(2)", "4 lines of error"),
        ("print('EER nan %')", "nan in a result"),
        # Mapped, since memory that this process has freed could serve an ordinary allocation.
        (
            "import mmap; x = mmap.mmap(-1, 2000 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1",
            "over 1000 MB",
        ),
        ("import time; time.sleep(100)", "no answer in 1 s"),
        ("pass", "result"),
    ],
)
def test_answers_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, verdict: str
) -> None:
    def command(arguments: list[str]) -> int:
        exec(arguments[0], {})
        return 0

    monkeypatch.setattr(hostile, "command_line", command)
    monkeypatch.setattr(hostile, "MEGABYTES", 1000)
    if "sleep" in code:
        monkeypatch.setattr(hostile, "SECONDS", 1)
    assert hostile.run((code,), tmp_path).verdict == verdict
