"""Reading: formats, rates, channels, parts, and every way a file can be wrong."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from speakerverif.audio import decoders, reading
from speakerverif.errors import InputError

Write = Callable[..., Path]  # write(name, samples, rate=16000, **options of soundfile)

FORMATS: dict[str, dict[str, str]] = {
    "wav": {},
    "flac": {},
    "ogg": {},
    "mp3": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg on the PATH")


def tones(rate: int, seconds: float, *hz: float) -> np.ndarray:
    """Return one sine of amplitude 0.3 a channel, (samples, channels)."""
    time = np.arange(round(rate * seconds))[:, None] / rate
    return (0.3 * np.sin(2 * np.pi * np.array(hz) * time)).astype(np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write samples as a file of `tmp_path` and return its path."""

    def write(name: str, samples: np.ndarray, rate: int = 16000, **options: str) -> Path:
        sf.write(tmp_path / name, samples, rate, **FORMATS[name.rpartition(".")[2]] | options)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def m4a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of two tones, 44.1 kHz stereo AAC."""
    folder = tmp_path_factory.mktemp("m4a")
    sf.write(folder / "tones.wav", tones(44100, 3, 440, 1000), 44100)
    inputs = ["-i", str(folder / "tones.wav"), "-c:a", "aac", str(folder / "tones.m4a")]
    command = ["ffmpeg", "-v", "error", *inputs]
    subprocess.run(command, check=True)
    return folder / "tones.m4a"


def test_samples_are_the_files(write: Write) -> None:
    """16-bit values over 2^15, mean of the channels: by hand."""
    path = write("a.wav", np.array([[16384, 0], [-32768, -32768], [1, 3]], np.int16))
    assert reading.read(path, channel="mix").tolist() == [0.25, -1.0, 2 / 32768]
    assert reading.read(path, channel=2).tolist() == [0.0, -1.0, 3 / 32768]
    assert reading.info(path) == reading.AudioInfo(16000, 2, 3 / 16000)


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_every_format_and_rate_gives_the_same_tone(write: Write, extension: str, rate: int) -> None:
    path = write(f"a.{extension}", tones(rate, 2, 440), rate)
    waveform = reading.read(path)
    assert waveform.dtype == np.float32
    assert waveform.shape == (32000,)
    # Codecs bend a tone of 0.3 by up to 0.052; two samples of delay would be 0.1.
    atol = 1e-3 if extension in ("wav", "flac") else 0.08
    np.testing.assert_allclose(waveform[4000:-4000], tones(16000, 2, 440)[4000:-4000, 0], atol=atol)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_is_accurate(write: Write, rate: int) -> None:
    path = write("a.wav", tones(rate, 2, 3000), rate, subtype="FLOAT")
    expected = tones(16000, 2, 3000)[:, 0]
    np.testing.assert_allclose(reading.read(path)[2000:-2000], expected[2000:-2000], atol=1e-5)


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("rate", [16000, 24000])
def test_part_equals_part_of_whole(write: Write, extension: str, rate: int) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((rate * 4, 2)).astype(np.float32)
    path = write(f"a.{extension}", noise, rate)
    whole = reading.read(path, channel="mix")
    for start_s, duration_s in [(0.0, 1.0), (0.7, 0.5), (2.34567, 1.2), (3.5, 0.5), (1.1, None)]:
        part = reading.read(path, start_s, duration_s, channel="mix")
        first = round(start_s * 16000)
        expected = whole[first:] if duration_s is None else whole[first : first + round(duration_s * 16000)]
        assert part.shape == expected.shape
        np.testing.assert_allclose(part, expected, atol=1e-5)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_blocks_are_the_whole(write: Write, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "CHUNK_SAMPLES", 10000)
    path = write("a.flac", tones(rate, 2.55, 440, 700), rate)
    blocks = list(reading.blocks(path, 0.5, channel="mix"))
    assert [len(block) for block in blocks] == [8000] * 5 + [800]
    assert np.array_equal(np.concatenate(blocks), reading.read(path, channel="mix"))


def test_only_the_part_is_decoded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop out of a minute decodes the crop, not the minute."""
    path = write("a.flac", tones(48000, 60, 440), 48000)
    decoded: list[int] = []
    read = sf.SoundFile.read

    def counted(self: sf.SoundFile, frames: int, **options: Any) -> Any:
        decoded.append(frames)
        return read(self, frames, **options)

    monkeypatch.setattr(sf.SoundFile, "read", counted)
    reading.read(path, 30.5, 2.0)
    assert sum(decoded) < 48000 * 3.2


@pytest.mark.parametrize(
    ("start_s", "duration_s"), [(3.0, 1.0), (2.5, None), (1.5, 1.0), (-1.0, 1.0), (0.0, 0.0)]
)
def test_part_outside_the_file(write: Write, start_s: float, duration_s: float | None) -> None:
    path = write("a.wav", tones(16000, 2, 440))
    with pytest.raises(InputError, match=re.escape(str(path))):
        reading.read(path, start_s, duration_s)


def test_a_rounded_duration_is_met_halfway(write: Write) -> None:
    """A list that says 2.00 s for 1.995 s is right to a centisecond; one that says 2.1 s is not."""
    path = write("a.wav", tones(16000, 1.995, 440))
    assert len(reading.read(path, 0.0, 2.0)) == 31920
    with pytest.raises(InputError, match=r"ends at 1\.995 s"):
        reading.read(path, 0.0, 2.1)


def test_non_finite_samples_are_passed_on(write: Write) -> None:
    samples = tones(16000, 1, 440)
    samples[100], samples[200] = np.nan, np.inf
    waveform = reading.read(write("a.wav", samples, subtype="FLOAT"))
    assert np.isnan(waveform[100])
    assert np.isinf(waveform[200])


def refused(path: Path, *words: str) -> None:
    """Assert that reading is refused in one line that names the file and holds `words`."""
    for call in (reading.read, lambda path: list(reading.blocks(path, 1.0))):
        with pytest.raises(InputError) as caught:
            call(path)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        assert all(word in message for word in words), message


def test_not_a_recording(tmp_path: Path, write: Write) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio\n" * 50)
    refused(tmp_path / "missing.wav", "no such file")
    refused(tmp_path / "empty.wav", "0 bytes")
    refused(tmp_path, "folder")
    refused(tmp_path / "text.wav", "is no recording but text: 'this is not audio'")
    refused(write("none.wav", np.zeros((0, 1), np.float32)), "no samples")


@pytest.mark.parametrize("extension", FORMATS)
def test_cut_off_file(write: Write, extension: str) -> None:
    """Half a file must not read as a shorter one."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((32000, 1)).astype(np.float32)
    path = write(f"a.{extension}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path)


def test_flac_damaged_in_the_middle(write: Write) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((64000, 1)).astype(np.float32)
    path = write("a.flac", noise)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    path.write_bytes(content)
    refused(path, "damaged")
    assert len(reading.read(path, 0.0, 1.0)) == 16000


def test_wav_from_a_pipe_has_no_size(write: Write) -> None:
    """Its header says 2^32 - 1 bytes, for want of knowing; it is whole all the same."""
    path = write("a.wav", tones(16000, 1, 440))
    content = bytearray(path.read_bytes())
    place = content.index(b"data")
    content[place + 4 : place + 8] = b"\xff" * 4
    path.write_bytes(content)
    assert len(reading.read(path)) == 16000


def test_an_mp3_file_without_a_length_is_read_to_its_end(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the Xing frame libsndfile guesses the length from the first frame, and would stop there."""
    path = write("a.mp3", tones(16000, 4, 440))
    content = path.read_bytes().replace(b"Xing", b"....").replace(b"Info", b"....")
    path.write_bytes(content)
    monkeypatch.setenv("PATH", "")
    assert sf.info(path).duration < 3
    assert 4.0 <= reading.info(path).duration_s < 4.15
    assert len(reading.read(path)) == round(reading.info(path).duration_s * 16000)


def test_without_ffmpeg_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(200))
    monkeypatch.setenv("PATH", "")
    refused(path, "ffmpeg", "not installed")
    with pytest.raises(InputError, match="ffmpeg"):
        reading.info(path)


@needs_ffmpeg
def test_m4a(m4a: Path) -> None:
    whole = reading.read(m4a, channel="mix")
    # ffmpeg 5 leaves the last packet's padding on.
    assert 48000 <= len(whole) <= 48000 + 1024 * 16000 // 44100
    info = reading.info(m4a)
    assert (info.sample_rate, info.channels, round(info.duration_s * 16000)) == (44100, 2, len(whole))
    expected = tones(16000, 3, 440, 1000).mean(1)
    np.testing.assert_allclose(whole[8000:40000], expected[8000:40000], atol=0.02)
    assert np.array_equal(np.concatenate(list(reading.blocks(m4a, 0.7, channel="mix"))), whole)
    np.testing.assert_allclose(reading.read(m4a, 1.23, 1.0, channel="mix"), whole[19680:35680], atol=1e-5)
    with pytest.raises(InputError, match="ends"):
        reading.read(m4a, 2.5, 1.0, channel="mix")
    with pytest.raises(InputError, match="ends before 5 s"):
        reading.read(m4a, 5.0, channel="mix")


@needs_ffmpeg
def test_cut_off_m4a_keeps_ffmpegs_words(m4a: Path, tmp_path: Path) -> None:
    content = m4a.read_bytes()
    (tmp_path / "a.m4a").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "a.m4a", "moov atom not found")


@needs_ffmpeg
def test_abandoned_blocks_leave_no_process(m4a: Path) -> None:
    blocks = reading.blocks(m4a, 0.1, channel=1)
    assert isinstance(blocks, Generator)
    next(blocks)
    blocks.close()


def test_reads_without_torch_torchaudio_and_torchcodec(write: Write) -> None:
    """Neither is imported, so neither can break reading."""
    path = write("a.flac", tones(44100, 1, 440), 44100)
    code = (
        "import sys\n"
        "for name in ('torch', 'torchaudio', 'torchcodec'): sys.modules[name] = None\n"
        "from speakerverif.audio import reading\n"
        f"print(len(reading.read({str(path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "16000\n"


@pytest.mark.corpus
def test_corpus_files_hold_what_their_headers_say(shared: Path) -> None:
    folder = shared / "corpora" / "librispeech_one_each"
    for line in (folder / "wav.scp").read_text().splitlines()[::60]:
        path = folder / line.split()[1]
        assert len(reading.read(path)) == round(reading.info(path).duration_s * 16000)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_16_bit_samples_are_scaled_as_libsndfile_scales_them(tmp_path: Path, suffix: str) -> None:
    samples = np.arange(-32768, 32768, dtype=np.int16)
    sf.write(tmp_path / f"all.{suffix}", samples, 16000)
    expected = sf.read(tmp_path / f"all.{suffix}", dtype="float32")[0]
    read = reading.read(tmp_path / f"all.{suffix}")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, expected)
