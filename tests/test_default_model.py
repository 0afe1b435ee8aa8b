"""The model in the box: whatever commands are run without naming one, from wherever."""

import json
import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile

import speakerverif
from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.inference.enroll import LIMITS
from speakerverif.models.folder import (
    CALIBRATION,
    CARD,
    CONFIG,
    DEFAULT,
    SPEAKERS,
    WEIGHTS,
    read_model_folder,
)
from speakerverif.scoring.scorer import ARRAYS, COHORT, FILE
from tests.conftest import RATE, voice


@pytest.fixture(scope="module")
def fingerprint() -> str:
    return read_model_folder(DEFAULT).fingerprint


@pytest.fixture
def voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder a/0.wav, a/1.wav, b/0.wav, b/1.wav that is also where commands run."""
    for name, speaker in (("a", 0), ("b", 4)):
        (tmp_path / name).mkdir()
        for n in (0, 1):
            soundfile.write(tmp_path / name / f"{n}.wav", voice(speaker, n, 1.5), RATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_small_and_holds_nothing_that_a_user_does_not_need() -> None:
    files = {path.name: path for path in DEFAULT.iterdir()}
    assert {CONFIG, WEIGHTS, SPEAKERS, CARD, CALIBRATION} <= files.keys()
    assert files.keys() <= {CONFIG, WEIGHTS, SPEAKERS, CARD, CALIBRATION, FILE, ARRAYS, COHORT, LIMITS}
    assert sum(path.stat().st_size for path in files.values()) <= 6_000_000
    texts = "".join(path.read_text() for path in files.values() if path.suffix in (".toml", ".txt", ".md"))
    assert not re.search(r"(^|[\"\s(])/\w+/", texts), "a path of the machine that made it"


def test_no_trial_of_its_calibration_is_of_a_training_speaker() -> None:
    folder = read_model_folder(DEFAULT)
    assert folder.calibration is not None and folder.calibration.point is not None
    assert folder.calibration.point.speakers > 0, "intervals over speakers, who were known"
    assert folder.trained["finished"] is True


def test_verify_gives_a_calibrated_answer(
    voices: Path, fingerprint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "a/0.wav", "a/1.wav", "--json", "v.json"]) == 0
    said = capsys.readouterr()
    assert re.search(
        r"^log likelihood ratio .*P\(same speaker\) = [01]\.\d+ at a 50 % prior", said.out, re.MULTILINE
    )
    assert re.search(r"^(same speaker|different speakers) at ", said.out, re.MULTILINE)
    assert len(re.findall(f"^no model named: .* {fingerprint}; .*README.md$", said.err, re.MULTILINE)) == 1
    record = json.loads(Path("v.json").read_text())
    assert record["fingerprint"] == fingerprint and record["llr"] is not None


def test_embed_enroll_and_identify(voices: Path, fingerprint: str) -> None:
    assert main(["embed", "a/0.wav", "b/0.wav", "--out", "e.npz"]) == 0
    assert EmbeddingTable.load("e.npz").fingerprint == fingerprint
    for name in "ab":
        assert main(["enroll", name, f"{name}/0.wav", "--store", "people"]) == 0
    assert main(["identify", "b/1.wav", "--store", "people", "--json", "i.json"]) == 0
    found = json.loads(Path("i.json").read_text())
    assert [name for name, _ in found["candidates"]] == ["b", "a"]
    assert found["name"] in ("b", None)


def test_bare_score_embeds_what_the_list_names(voices: Path, fingerprint: str) -> None:
    files = [f"{name}/{n}.wav" for name in "ab" for n in (0, 1)]
    rows = [f"{int(x[0] == y[0])} {x} {y}" for x, y in combinations(files, 2)]
    Path("trials.txt").write_text("".join(f"{row}\n" for row in rows))
    assert main(["score", "trials.txt", "--json", "r.json", "--bootstrap", "0"]) == 0
    assert json.loads(Path("r.json").read_text())["model"]["fingerprint"] == fingerprint


def test_info_and_python_take_it_too(
    fingerprint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info"]) == 0
    assert fingerprint in capsys.readouterr().out
    model = speakerverif.load_model()
    assert model.fingerprint == fingerprint
    assert model.embed(voice(0, 0, 1.0), RATE).shape == (model.embedding_dim,)
    with pytest.raises(speakerverif.InputError, match="silent"):
        model.embed(np.zeros(RATE, np.float32), RATE)


def test_verify_starts_without_what_it_does_not_need(voices: Path) -> None:
    slow = ["scipy", "sklearn", "torchaudio", "librosa", "speechbrain", "matplotlib", "onnxruntime", "sympy"]
    slow += ["torch._dynamo"]
    code = (
        "import sys; from speakerverif.cli.entry import main; main(['verify', 'a/0.wav', 'b/0.wav']);"
        f"sys.exit(', '.join(name for name in {slow} if name in sys.modules) or 0)"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(speakerverif.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
