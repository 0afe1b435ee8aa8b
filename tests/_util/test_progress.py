"""Progress off a terminal: lines of the package's logger, and nothing where nobody asks for them."""

import sys

import pytest

from speakerverif._util import progress


def test_lines_are_messages(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "speakerverif")
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    with progress.Progress(10, "embed", "crop", done=2) as shown:
        shown.update(3, "loss 1.5")
        shown.update(1)
    first, second = caplog.messages
    assert first.startswith("embed: 5/10 crops, ") and first.endswith("/s, loss 1.5")
    assert second.startswith("embed: 6/10 crops, ")


def test_a_notebook_sees_nothing_unasked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("WARNING", "speakerverif")
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.Progress(2, "embed") as shown:
        shown.update(1)
    assert not caplog.messages and not capsys.readouterr().err
