"""The command line where something around it is missing: a GPU, a home folder, a package, the network."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif._util import environment, extras
from speakerverif.cli import _outputs, main
from speakerverif.errors import InputError
from speakerverif.inference import engines
from tests.conftest import RATE, voice

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two recordings."""
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for n, path in enumerate(paths):
        soundfile.write(path, voice(0, n, 1.5), RATE)
    return [str(path) for path in paths]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "no CUDA device is there"),
        ("cuda:7", "no CUDA device is there"),
        ("gpu", "expected cpu or cuda"),
    ],
)
def test_a_device_that_is_not_there_is_named(
    device: str,
    message: str,
    pair: list[str],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in (["verify", *pair], ["embed", *pair, "--out", "e.npz"]):
        assert main([*command, "--model", str(tiny_model), "--device", device]) == 2
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1


def test_folders_are_taken_recursively(pair: list[str], tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "within" / "deeper").mkdir(parents=True)
    soundfile.write(tmp_path / "within" / "deeper" / "c.flac", voice(1, 0, 1.5), RATE)
    (tmp_path / "within" / "notes.txt").touch()
    out = tmp_path / "out" / "e.npz"
    out.parent.mkdir()
    assert main(["embed", str(tmp_path), "--model", str(tiny_model), "--out", str(out)]) == 0
    names = [Path(name).name for name in np.load(out)["ids"]]
    assert names == ["a.wav", "b.wav", "c.flac"]


def test_a_folder_without_recordings_is_refused(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(tmp_path), "--model", str(tiny_model), "--out", str(tmp_path / "e.npz")]) == 2
    assert "holds no recordings" in capsys.readouterr().err


def test_a_user_without_a_home_folder_has_no_cache(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert environment.cache_home() is None
    assert engines.load_for_inference(tiny_model, engine="onnx").engine == "onnxruntime"
    assert "no home folder" in caplog.text


@pytest.mark.parametrize("home", ["missing", "closed"])
def test_a_home_that_cannot_be_entered_is_none(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment.cache_home() == tmp_path / ".cache"
    assert environment.config_home() is not None
    monkeypatch.setenv("HOME", str(tmp_path / home))
    if home == "closed":  # as the home folder of root is to others; root itself may enter any folder
        (tmp_path / home).mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert environment.cache_home() is None and environment.config_home() is None


def test_a_file_of_another_user_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "/closed/list.tsv")

    monkeypatch.setattr(_outputs, "check", denied)
    assert main(["embed", "a.wav", "--out", "e.npz"]) == 1
    assert capsys.readouterr().err == "speakerverif: /closed/list.tsv: Permission denied\n"


def test_a_current_folder_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["embed", "a.wav", "--out", "e.npz"]) == 2
    error = capsys.readouterr().err
    assert "the current folder can't be used (No such file or directory)" in error and error.count("\n") == 1


def test_every_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for extra, modules in extras.EXTRAS.items():
        with pytest.raises(InputError, match=rf"speakerverif\[{extra}\]"):
            extras.require(extra, "this")
        assert all("pip install" in (extras.advice(f"{module}.part") or "") for module in modules)
    assert extras.advice("nothing_of_ours") is None


def test_the_extras_are_those_of_pyproject() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras.EXTRAS) <= set(declared)


# Runs commands one after the other; whatever opens a socket is named at the end.
WATCHED = """
import os, socket, sys
opened = []
def refuse(*arguments, **_):
    opened.append(repr(arguments))
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from speakerverif.cli import main
status = {}
for line in sys.stdin.read().splitlines():
    try:
        status[line] = main(line.split("\\t"))
    except SystemExit as stop:
        status[line] = stop.code
paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
links = [os.readlink(path) for path in paths if os.path.islink(path)]
print("status", sorted(set(status.values())), file=sys.stderr)
print("opened", opened, [link for link in links if link.startswith("socket:")], file=sys.stderr)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")
def test_no_command_opens_a_socket_unasked(pair: list[str], tiny_model: Path, tmp_path: Path) -> None:
    model, (a, b) = ["--model", str(tiny_model)], pair
    soundfile.write(tmp_path / "c.wav", voice(3, 0, 1.5), RATE)
    (tmp_path / "trials.txt").write_text("1 a.wav b.wav\n0 a.wav c.wav\n0 b.wav c.wav\n")
    commands = [
        ["--help"],
        ["--version"],
        ["list", "models"],
        ["info", str(tiny_model)],
        ["embed", a, b, *model, "--out", "e.npz"],
        ["verify", a, b, *model],
        ["verify", a, b],
        ["score", "trials.txt", *model, "--bootstrap", "0", "--out-scores", "scores.txt"],
        ["report", "scores.txt", "--trials", "trials.txt", "--out", "page", "--bootstrap", "20"],
        ["enroll", "ann", a, "--store", "people", *model],
        ["identify", b, "--store", "people", *model],
        ["export", str(tiny_model), "--onnx", "m.onnx"],
        ["verify", a, b, "--model", "m.onnx"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input="\n".join("\t".join(command) for command in commands),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "status [0]\nopened [] []\n" in done.stderr, done.stderr


def test_push_without_a_network_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=f"push\t{tiny_model}\torg/name",
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_x"},
        capture_output=True,
        text=True,
    )
    lines = done.stderr.splitlines()
    assert "Traceback" not in done.stderr and lines[-2] == "status [2]"
    assert lines[0].startswith("speakerverif: org/name: not pushed")
