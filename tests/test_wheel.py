"""The built wheel, installed beside the dependencies: the first commands of somebody who has nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.conftest import RATE, voice

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built and installed without a network into a folder of its own."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    offline = ["--no-deps", "--no-index"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run(build, cwd=_sources(folder), check=True)
    (wheel,) = folder.glob("speakerverif-*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def _sources(folder: Path) -> Path:
    """Copy what the build needs, so that it leaves nothing in the checkout."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, files.stdout.split("\0")):
        source, target = ROOT / name, folder / "sources" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            target.write_bytes(source.read_bytes())
    return folder / "sources"


def run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder, with no way to a network."""
    code = (
        "import socket, sys, speakerverif\n"
        f"assert speakerverif.__file__.startswith({str(site)!r}), speakerverif.__file__\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from speakerverif.cli.entry import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    here = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_answers_without_a_model_named(installed: Path, tmp_path: Path) -> None:
    for name, speaker, n in (("x", 0, 0), ("y", 0, 1), ("z", 4, 0)):
        soundfile.write(tmp_path / f"{name}.wav", voice(speaker, n, 2.0), RATE)
    (tmp_path / "trials.txt").write_text("1 x.wav y.wav\n0 x.wav z.wav\n")
    llr = {}
    for other in ("y", "z"):
        done = run(installed, tmp_path, "verify", "x.wav", f"{other}.wav", "--json", "v.json")
        assert done.returncode == 0, done.stderr
        assert "built-in starter model" in done.stderr and "log likelihood ratio" in done.stdout
        llr[other] = json.loads((tmp_path / "v.json").read_text())["llr"]
    assert llr["y"] > llr["z"]
    for command in (
        ["embed", "x.wav", "--out", "e.npz"],
        [
            "score",
            "trials.txt",
            "--bootstrap",
            "0",
            "--json",
            "r.json",
            "--out-scores",
            "s.txt",
            "--report",
            "page",
        ],
        ["enroll", "ann", "x.wav", "--store", "people"],
        ["identify", "y.wav", "--store", "people"],
    ):
        done = run(installed, tmp_path, *command)
        assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["eer"] == 0
