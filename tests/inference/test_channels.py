"""Channels: named, mixed, each by itself; never averaged in silence where they hold different sounds."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.audio import reading
from speakerverif.audio.channels import greatest_correlation
from speakerverif.cli import entry
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.inference.channels import each_channel, numbered
from tests.conftest import RATE, voice

A, B = voice(0, 0, 3.0), voice(1, 0, 3.0)
NOISE = (0.001 * np.random.default_rng(0).standard_normal(len(A))).astype(np.float32)


def write(path: Path, *channels: np.ndarray) -> str:
    soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT")
    return str(path)


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ((A, B), "channels 1 and 2 hold different sounds"),
        ((A, A, B), "channels 1 and 3 hold different sounds"),
        ((A, -A), "channels 1 and 2 cancel out (0% of"),
        ((A, -0.5 * A + NOISE), "channels 1 and 2 cancel out"),
        ((np.roll(A, RATE), B), "hold different sounds"),
    ],
)
def test_channels_that_differ_or_cancel_out_are_refused(
    tmp_path: Path, channels: tuple[np.ndarray, ...], words: str
) -> None:
    path = write(tmp_path / "a.wav", *channels)
    for call in (reading.read, lambda p: list(reading.blocks(p, 1.0)), reading.check):
        with pytest.raises(InputError) as caught:
            call(path)
        assert words in str(caught.value) and "--channel 1" in str(caught.value)
    for number, samples in enumerate(channels, 1):
        np.testing.assert_array_equal(reading.read(path, channel=number), samples.astype(np.float32))
    np.testing.assert_allclose(reading.read(path, channel="mix"), np.mean(channels, 0), atol=1e-6)


@pytest.mark.parametrize(
    "channels",
    [
        (A, A),
        (A, 0.3 * A),
        (A, np.roll(A, 80)),  # two microphones 1.7 m apart
        (A, 0.8 * A + NOISE),
        (A, 0 * A),  # one cable unplugged
        (A, 0.005 * B),  # 46 dB down
        (0 * A, 0 * A),
    ],
)
def test_channels_of_one_voice_are_averaged(tmp_path: Path, channels: tuple[np.ndarray, ...]) -> None:
    path = write(tmp_path / "a.wav", *channels)
    np.testing.assert_allclose(reading.read(path), np.mean(channels, 0), atol=1e-6)


def test_correlation_by_hand() -> None:
    a = np.array([0, 1, 0, -1, 0, 0, 0, 0], np.float32)
    assert greatest_correlation(a, a, 2) == pytest.approx(1.0)
    assert greatest_correlation(a, -np.roll(a, 2), 2) == pytest.approx(1.0)
    assert greatest_correlation(a, np.roll(a, 4), 2) == pytest.approx(0.5)
    assert greatest_correlation(a, np.roll(a, 4), 0) == pytest.approx(0.0, abs=1e-6)


def test_a_channel_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", A)
    np.testing.assert_array_equal(reading.read(path, channel=1), A)
    with pytest.raises(InputError, match="has 1 channel; channel 2 was asked for"):
        reading.read(path, channel=2)


def test_each_channel_is_an_utterance(tmp_path: Path) -> None:
    stereo, mono = write(tmp_path / "s.wav", A, B), write(tmp_path / "m.wav", A)
    utterances = [Utterance("s", stereo, ""), Utterance("m", mono, ""), Utterance("x", "absent.wav", "")]
    utterances.append(Utterance("named", stereo, "", channel=2))
    expanded = [(u.id, u.channel) for u in each_channel(utterances, reading)]
    assert expanded == [("s#1", 1), ("s#2", 2), ("m#1", 1), ("x", None), ("named", 2)]
    assert numbered(["a.wav#2", "b.wav", "c#0"]) == {
        "a.wav#2": ("a.wav", 2),
        "b.wav": ("b.wav", None),
        "c#0": ("c#0", None),
    }


def test_the_commands_take_a_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call, left = write(tmp_path / "call.wav", A, B), write(tmp_path / "left.wav", A)
    out = str(tmp_path / "e.npz")

    def run(*arguments: str) -> str:
        status = entry.main([*arguments, "--engine", "torch"])
        output = capsys.readouterr()
        return f"{status} {output.out}{output.err}"

    assert "hold different sounds" in run("embed", call, "--out", out)
    assert run("embed", call, left, "--out", out, "--channel", "each").startswith("0")
    table = EmbeddingTable.load(out)
    assert table.ids == [f"{call}#1", f"{call}#2", f"{left}#1"]
    np.testing.assert_allclose(table.embeddings[0], table.embeddings[2], atol=1e-5)
    assert not np.allclose(table.embeddings[0], table.embeddings[1], atol=1e-2)
    assert run("embed", call, "--out", out, "--channel", "2").startswith("0")
    np.testing.assert_allclose(EmbeddingTable.load(out).embeddings[0], table.embeddings[1], atol=1e-5)
    other = write(tmp_path / "right.wav", B)
    same, different = (
        float(run("verify", call, file, "--channel", "1").split()[2]) for file in (left, other)
    )
    assert same > different
    assert run("verify", call, left)[0] == "2"
    assert "name a channel" in run("verify", call, left, "--channel", "each")
    store = str(tmp_path / "store")
    assert run("enroll", "ann", call, "--store", store, "--channel", "1").startswith("0")
    assert f"{same:.4f}" in run("identify", left, "--store", store)
    (tmp_path / "t.txt").write_text("1 call.wav#1 left.wav#1\n0 call.wav#2 left.wav#1\n")
    scores = tmp_path / "scores.txt"
    arguments = ["score", str(tmp_path / "t.txt"), "--channel", "each", "--out-scores", str(scores)]
    assert run(*arguments, "--bootstrap", "0").startswith("0")
    first, second = (float(line.split()[-1]) for line in scores.read_text().splitlines())
    assert first > second


@pytest.mark.parametrize("text", ["0", "-1", "left", "1.5", "", "nan", "99999999999999999999"])
def test_what_is_no_channel(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main(["embed", "a.wav", "--out", "e.npz", f"--channel={text}"])
    assert caught.value.code == 2 and "expected a whole number from 1 to 1024" in capsys.readouterr().err
