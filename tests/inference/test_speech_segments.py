"""Speech found in recordings, cut out for embedding, and windows of recordings."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError
from speakerverif.inference.speech_segments import find_speech
from tests.conftest import RATE, voice


def with_pauses(*parts: float) -> np.ndarray:
    """Return pauses (negative seconds) and speech (positive) one after the other, with a faint noise throughout."""
    rng = np.random.default_rng(0)
    pieces = [
        voice(1, i, s) if s > 0 else np.zeros(round(-s * RATE), np.float32) for i, s in enumerate(parts)
    ]
    samples = np.concatenate(pieces)
    return (samples + 1e-4 * rng.standard_normal(len(samples))).astype(np.float32)


def test_speech_is_found_between_pauses() -> None:
    found = find_speech(with_pauses(-1.0, 2.0, -1.5, 1.0, -1.0))
    ends = [end for s in found for end in (s.start_s, s.end_s)]
    assert ends == pytest.approx([1.0, 3.0, 4.5, 5.5], abs=0.12)


def test_short_pauses_are_filled_and_clicks_dropped() -> None:
    click = np.zeros(RATE, np.float32)
    click[8000:8200] = 0.5
    joined = find_speech(np.concatenate([with_pauses(-0.5, 1.0, -0.1, 1.0, -0.5), click]))
    assert len(joined) == 1


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(100), np.zeros(RATE)])
def test_silence_holds_no_speech(samples: np.ndarray) -> None:
    assert find_speech(samples.astype(np.float32)) == []


def test_segments_are_listed_and_written_as_rttm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", with_pauses(-1.0, 2.0, -1.0, 1.0), RATE)
    assert main(["segments", str(tmp_path / "a.wav"), "--out", str(tmp_path / "a.rttm")]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["recording", "start_s", "end_s"] and len(lines) == 3
    rows = [line.split() for line in (tmp_path / "a.rttm").read_text().splitlines()]
    assert [row[7] for row in rows] == ["<NA>", "<NA>"]  # nobody knows who speaks
    assert float(rows[0][4]) == pytest.approx(float(lines[1][2]) - float(lines[1][1]), abs=1e-3)
    assert main(["segments", str(tmp_path / "none.wav")]) == 2


def test_embedding_speech_only_is_embedding_what_is_left(tiny_model: Path, tmp_path: Path) -> None:
    samples = with_pauses(-1.0, 2.0, -1.5, 1.5, -1.0)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    speech = [samples[round(s.start_s * RATE) : round(s.end_s * RATE)] for s in find_speech(samples)]
    soundfile.write(tmp_path / "b.wav", np.concatenate(speech), RATE, subtype="FLOAT")
    out = ["--model", str(tiny_model), "--out"]
    assert main(["embed", str(tmp_path / "a.wav"), "--vad", "energy", *out, str(tmp_path / "a.npz")]) == 0
    assert main(["embed", str(tmp_path / "b.wav"), *out, str(tmp_path / "b.npz")]) == 0
    a, b = (EmbeddingTable.load(tmp_path / f"{name}.npz") for name in "ab")
    np.testing.assert_allclose(a.embeddings, b.embeddings, atol=1e-4)
    assert a.durations[0] == pytest.approx(b.durations[0], abs=1e-3)


def test_windows_slide_over_a_recording(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = voice(2, 0, 4.0)
    path = str(tmp_path / "a.wav")
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    out = ["--model", str(tiny_model), "--out"]
    assert main(["embed", path, "--windows", "1.5/0.75", *out, str(tmp_path / "w.npz")]) == 0
    table = EmbeddingTable.load(tmp_path / "w.npz")
    assert table.ids == [f"{path}:{s:.3f}-{s + 1.5:.3f}" for s in (0.0, 0.75, 1.5, 2.25)]
    soundfile.write(
        tmp_path / "part.wav", samples[round(0.75 * RATE) : round(2.25 * RATE)], RATE, subtype="FLOAT"
    )
    assert main(["embed", str(tmp_path / "part.wav"), *out, str(tmp_path / "p.npz")]) == 0
    np.testing.assert_allclose(
        table.embeddings[1], EmbeddingTable.load(tmp_path / "p.npz").embeddings[0], atol=1e-4
    )
    for wrong in ("1.5", "0/1", "1/nan", "a/b"):
        with pytest.raises(SystemExit) as refused:
            main(["embed", path, "--windows", wrong, *out, str(tmp_path / "w.npz")])
        assert refused.value.code == 2


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(InputError, match="energy or silero"):
        find_speech(np.zeros(RATE, np.float32), "magic")  # type: ignore[arg-type]


def test_silero_finds_speech_or_says_what_to_install() -> None:
    samples = with_pauses(-1.0, 2.0, -1.0)
    try:
        import silero_vad  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="pip install"):
            find_speech(samples, "silero")
    else:
        assert all(0 <= s.start_s < s.end_s <= 4.0 for s in find_speech(samples, "silero"))


def test_channels_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = with_pauses(-1.0, 1.0, -2.0), with_pauses(-3.0, 1.0)
    soundfile.write(tmp_path / "call.wav", np.stack([first, second], 1), RATE)

    def begins(*options: str) -> list[tuple[str, int, int]]:
        """Return file, channel and second in which each segment begins."""
        call, rttm = str(tmp_path / "call.wav"), tmp_path / "a.rttm"
        assert main(["segments", call, "--out", str(rttm), *options]) == 0
        names = [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()[1:]]
        rows = [line.split() for line in rttm.read_text().splitlines()]
        return [(Path(n).name, int(row[2]), round(float(row[3]))) for n, row in zip(names, rows, strict=True)]

    assert begins("--channel", "1") == [("call.wav", 1, 1)]
    assert begins("--channel", "2") == [("call.wav", 2, 3)]
    assert begins("--channel", "mix") == [("call.wav", 1, 1), ("call.wav", 1, 3)]
    assert begins("--channel", "each") == [("call.wav#1", 1, 1), ("call.wav#2", 2, 3)]
    assert main(["segments", str(tmp_path / "call.wav")]) == 2
    assert "hold different sounds" in capsys.readouterr().err
    assert main(["segments", str(tmp_path / "call.wav"), "--channel", "3"]) == 2
