"""The command line: exit statuses, one-line errors, and nothing written over."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.cli.entry import main
from tests.conftest import RATE, voice

COMMANDS = ["demo", "run", "prepare", "train", "embed", "score", "verify", "calibrate", "enroll", "identify"]
COMMANDS += ["report", "heads", "info"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recordings(tmp_path: Path) -> dict[str, Path]:
    """The same voice as WAV and FLAC, another one as Ogg Opus at 48 kHz."""
    paths = {name: tmp_path / name for name in ("a.wav", "b.flac", "c.opus")}
    soundfile.write(paths["a.wav"], voice(0, 0, 1.5), RATE)
    soundfile.write(paths["b.flac"], voice(0, 1, 1.5), RATE)
    opus = np.repeat(voice(4, 0, 1.5), 3)
    soundfile.write(paths["c.opus"], opus, 48000, format="OGG", subtype="OPUS")
    return paths


def test_embed_writes_the_table(
    recordings: dict[str, Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = ["a.wav", "b.flac", "c.opus"]
    assert main(["embed", *files, "--model", str(tiny_model), "--out", "e.npz", "--json", "e.json"]) == 0
    with np.load("e.npz", allow_pickle=False) as table:
        assert list(table["ids"]) == files
        assert table["embeddings"].shape == (3, 16) and table["embeddings"].dtype == np.float32
        assert set(table["status"]) == {"ok"} and table["durations"] == pytest.approx(1.5, abs=0.02)
        assert {"speech", "fingerprint"} <= set(table.files)
    assert json.loads(Path("e.json").read_text())["embedded"] == 3


def test_one_bad_file_is_listed_and_the_status_is_1(
    recordings: dict[str, Path], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    files = [str(recordings["a.wav"]), str(tmp_path / "text.wav")]
    assert main(["embed", *files, "--model", str(tiny_model), "--out", str(tmp_path / "e.npz")]) == 1
    assert "text.wav" in capsys.readouterr().err
    assert len(np.load(tmp_path / "e.npz")["ids"]) == 1


def test_verify_decides_only_with_a_threshold(
    recordings: dict[str, Path], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(recordings["a.wav"]), str(recordings["b.flac"]), "--model", str(tiny_model)]
    assert main(["verify", *pair]) == 0
    plain = capsys.readouterr().out
    assert plain.startswith("score ") and "speaker at" not in plain and "speakers at" not in plain
    assert main(["verify", *pair, "--threshold", "-1"]) == 0
    assert "same speaker at threshold -1" in capsys.readouterr().out
    assert main(["verify", *pair, "--threshold", "1.1"]) == 0
    assert "different speakers at threshold 1.1" in capsys.readouterr().out


def test_one_pair_scores_as_it_does_in_a_long_list(
    tiny_corpus: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"spk{s}/{n}.wav" for s in range(6) for n in range(4)]
    rows = [f"{int(a[:4] == b[:4])} {a} {b}" for i, a in enumerate(names) for b in names[i + 1 :]]
    (tmp_path / "long.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "pair.txt").write_text("spk0/0.wav spk3/2.wav\n")
    for name in ("long", "pair"):
        status = main(
            ["score", str(tmp_path / f"{name}.txt"), "--model", str(tiny_model), "--bootstrap", "20"]
            + ["--audio-root", str(tiny_corpus), "--out-scores", str(tmp_path / f"{name}.scores")]
        )
        assert status == 0, capsys.readouterr().err
    one = float((tmp_path / "pair.scores").read_text().split()[2])
    same = [r.split() for r in (tmp_path / "long.scores").read_text().splitlines()]
    many = next(
        float(score) for enroll, test, score in same if (enroll, test) == ("spk0/0.wav", "spk3/2.wav")
    )
    assert one == pytest.approx(many, abs=1e-4)


def test_info_tells_what_a_model_is(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tiny_model), "--json", str(tmp_path / "i.json")]) == 0
    assert "fingerprint" in capsys.readouterr().out
    facts = json.loads((tmp_path / "i.json").read_text())
    assert facts["embedding_dim"] == 16 and facts["training_classes"] == 12


def write_bad_inputs(folder: Path) -> None:
    """Write one of every wrong recording."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not audio\n")
    (folder / "folder.wav").mkdir()
    soundfile.write(folder / "whole.flac", voice(0, 0, 3.0), RATE)
    data = (folder / "whole.flac").read_bytes()
    (folder / "cut.flac").write_bytes(data[: len(data) // 2])
    soundfile.write(folder / "none.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(folder / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.wav", "absent.wav"),
        ("empty.wav", "empty.wav"),
        ("folder.wav", "folder.wav"),
        ("text.wav", "text.wav"),
        ("cut.flac", "cut.flac"),
        ("none.wav", "none.wav"),
        ("nan.wav", "non_finite"),
    ],
)
def test_wrong_recordings_exit_2_and_write_nothing(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    write_bad_inputs(tmp_path)
    out = tmp_path / "e.npz"
    out.write_text("mine")
    assert main(["embed", str(tmp_path / name), "--model", str(tiny_model), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert out.read_text() == "mine"
    assert (
        main(["verify", str(tmp_path / name), str(tmp_path / "whole.flac"), "--model", str(tiny_model)]) == 2
    )
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "--out", "e.npz"],
        ["embed", "a.wav", "--model", "absent", "--out", "e.npz"],
        ["train", "absent.toml", "--out", "m"],
        ["run", "absent.toml"],
        ["prepare", "no-such-corpus", "--root", ".", "--out", "o"],
        ["info", "absent"],
        ["score", "absent.txt", "--scores", "absent.txt"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_with_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("speakerverif: ") and captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bare_score_takes_the_model_in_the_box(tmp_path: Path) -> None:
    for speaker, name in enumerate(("a.wav", "b.wav", "c.wav")):
        soundfile.write(tmp_path / name, voice(speaker // 2, speaker, 2.0), RATE)
    (tmp_path / "trials.txt").write_text("1 a.wav b.wav\n0 a.wav c.wav\n")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "score.py", "trials.txt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "EER" in done.stdout and "no model named" in done.stderr, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: speakerverif " + command in capsys.readouterr().out


def test_demo_takes_a_folder_and_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from speakerverif.demos import demo

    asked: dict[str, object] = {}
    monkeypatch.setattr(
        demo, "demo", lambda out, device, seed: asked.update(out=out, device=device, seed=seed)
    )
    assert main(["demo", "--out", str(tmp_path), "--seed", "4"]) == 0
    assert asked == {"out": tmp_path, "device": "cpu", "seed": 4}


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom speakerverif.cli.entry import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_recordings_are_read_without_torchcodec(
    recordings: dict[str, Path], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchaudio

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("torchaudio.load was called")

    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setattr(torchaudio, "load", refuse)
    out = recordings["a.wav"].with_name("e.npz")
    files = [str(path) for path in recordings.values()]
    assert main(["embed", *files, "--model", str(tiny_model), "--out", str(out)]) == 0
