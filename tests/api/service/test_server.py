"""The service's address and key, and the microphone with samples in its place."""

import argparse
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from speakerverif.api.service import microphone
from speakerverif.api.service.recognition import Recognition
from speakerverif.api.service.server import listen_at, read_key
from speakerverif.cli import parser, service
from speakerverif.cli.entry import main
from speakerverif.errors import InputError
from tests.conftest import RATE, voice


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_are_not_answered_without_a_key(host: str) -> None:
    with pytest.raises(InputError, match="--api-key-file"):
        listen_at(host, 0, has_key=False)


def test_this_machine_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    with listen_at("127.0.0.1", 0, has_key=False) as place:
        port = place.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        with pytest.raises(InputError, match="can't listen there"):
            listen_at("localhost", port, has_key=False)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"two words in a line", "schlüssel-schlüssel".encode(), b"\xff" * 20]
)
def test_a_key_that_protects_nothing_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(InputError, match="API key"):
        read_key(path)
    path.write_text("0123456789abcdef\n")
    assert read_key(path) == "0123456789abcdef"


def listening(recognition: Recognition, model: Path, *words: str) -> argparse.Namespace:
    """Return the arguments of a command line of `listen`."""
    options = ["--store", str(recognition.store.folder), "--model", str(model)]
    return parser().parse_args(["listen", *options, *words])


def chunks(seconds: float) -> list[np.ndarray]:
    """Return a voice in chunks of a tenth of a second."""
    samples = np.round(voice(0, 7, seconds) * 32767).astype(np.int16)
    return np.split(samples, range(RATE // 10, len(samples), RATE // 10))


def test_listen_shows_who_speaks_while_they_speak(
    recognition: Recognition, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--person", "Ann"], []):
        assert service.listen(listening(recognition, tiny_model, "--seconds", "3", *words), chunks(9)) == 0
        first, *lines = capsys.readouterr().out.splitlines()
        assert first == "listening; Ctrl-C ends" and len(lines) >= 2
        assert all("s of speech  " in line and "score " in line for line in lines)
        assert [line.endswith("(end)") for line in lines] == [False] * (len(lines) - 1) + [True]
        assert "log likelihood ratio" in lines[-1] and 2 < float(lines[-1].split()[0]) <= 3
    with pytest.raises(InputError, match="nobody named 'Eve'"):
        service.listen(listening(recognition, tiny_model, "--person", "Eve"), chunks(1))


def test_ctrl_c_gives_the_answer_so_far(
    recognition: Recognition, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> Iterator[np.ndarray]:
        yield from chunks(0.9)
        raise KeyboardInterrupt

    assert service.listen(listening(recognition, tiny_model), interrupted()) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("(end)")


def test_a_missing_microphone_is_said_in_one_line(
    recognition: Recognition, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(InputError, match=r"speakerverif\[listen\]"):
        next(microphone.microphone(RATE))


def test_serve_refuses_an_open_address(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", "--store", str(tmp_path / "s"), "--model", str(tiny_model), "--host", "0.0.0.0"]
    assert main(words) == 2
    assert "--api-key-file" in capsys.readouterr().err
