"""Durations from headers: the same as soundfile's and ffmpeg's, and a reason for every file without one."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.audio import reading
from speakerverif.corpora._headers import duration_s
from speakerverif.errors import InputError

SAMPLES = np.zeros((4321, 2), np.float32)


@pytest.mark.parametrize(
    ("suffix", "subtype", "format"),
    [
        ("wav", "PCM_16", "WAV"),
        ("wav", "PCM_24", "WAVEX"),
        ("wav", "FLOAT", "WAV"),
        ("wav", "ULAW", "WAV"),
        ("wav", "IMA_ADPCM", "WAV"),  # not a fixed number of bytes a sample
        ("wav", "PCM_16", "RF64"),
        ("flac", "PCM_16", "FLAC"),
    ],
)
def test_durations_are_soundfiles(tmp_path: Path, suffix: str, subtype: str, format: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, SAMPLES, 8000, subtype=subtype, format=format)
    assert duration_s(str(path)) == reading.info(path).duration_s


def wav(path: Path, announced: int | None = None, before: bytes = b"", samples: int = 100) -> str:
    """Write a WAV file by hand: `before` stands before the samples, whose bytes it announces."""
    data = bytes(2 * samples)
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    size = len(data) if announced is None else announced
    body = b"WAVE" + form + before + b"data" + struct.pack("<I", size) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return str(path)


def test_other_chunks_are_passed_over_and_what_lies_far_in_is_left_to_soundfile(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for length in (4, 7, 4000, 10_000):
        note = b"LIST" + struct.pack("<I", length) + bytes(length + length % 2)
        assert duration_s(wav(path, before=note)) == 100 / 16000


def test_sizes_that_a_pipe_leaves_are_the_files_own(tmp_path: Path) -> None:
    for announced in (0xFFFFFFFF, 0x7FFFFFFF):
        assert duration_s(wav(tmp_path / "a.wav", announced)) == 100 / 16000


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda p: None, "missing: no such file"),
        (lambda p: p.symlink_to("nowhere"), "missing: .* a link to nowhere"),
        (lambda p: p.write_bytes(b""), "empty: 0 bytes"),
        (lambda p: p.mkdir(), "unreadable: Is a directory"),
        (lambda p: wav(p, samples=0), "empty: no samples"),
        (
            lambda p: wav(p, announced=300),
            "cut off: its header announces 300 bytes of samples, 200 are there",
        ),
        (lambda p: p.write_bytes(b"RIFF\0\0"), "broken"),
        (lambda p: p.write_bytes(b"MThd is music of another sort"), "broken"),
        (lambda p: p.write_bytes(box(b"ftyp", b"M4A ")), "broken: an MP4 file without a movie header"),
        (lambda p: p.write_bytes(box(b"ftyp") + box(b"mdat", bytes(99))[:-1]), "cut off: its mdat box"),
        (lambda p: p.write_bytes(box(b"ftyp") + box(b"moov", header(0, 5))), "broken: an MP4 file without"),
    ],
    ids=range(11),
)
def test_a_file_without_a_duration_has_a_reason(tmp_path: Path, write: object, reason: str) -> None:
    path = tmp_path / "a.wav"
    write(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=f"^{reason}"):
        duration_s(str(path))


def box(name: bytes, inside: bytes = b"", wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, name, len(inside) + 16) + inside
    return struct.pack(">I4s", len(inside) + 8, name) + inside


def header(scale: int, duration: int, version: int = 0) -> bytes:
    times = struct.pack(">QQIQ" if version else ">IIII", 0, 0, scale, duration)
    return box(b"mvhd", bytes([version, 0, 0, 0]) + times + bytes(80))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("version", [0, 1])
def test_movie_headers_of_both_versions_and_boxes_of_both_sizes(
    tmp_path: Path, wide: bool, version: int
) -> None:
    path = tmp_path / "a.m4a"
    moov = box(b"moov", box(b"free") + header(1000, 4322, version), wide)
    for data in (box(b"mdat", b"x" * 5000, wide) + moov, moov + box(b"mdat", wide=wide)):
        path.write_bytes(box(b"ftyp", b"M4A ") + data)
        assert duration_s(str(path)) == 4.322


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_ffmpegs_own_m4a(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", SAMPLES, 16000)
    path = tmp_path / "a.m4a"
    inputs = ["-i", str(tmp_path / "a.wav"), "-ac", "1", "-c:a", "aac", str(path)]
    command = ["ffmpeg", "-v", "error", *inputs]
    subprocess.run(command, check=True)
    decoded_s = len(reading.read(path)) / 16000
    monkeypatch.setattr(reading, "info", None)  # would fail: nothing is started for it
    assert duration_s(str(path)) == pytest.approx(4321 / 16000, abs=1e-3)
    assert -1e-3 <= decoded_s - duration_s(str(path)) <= 0.064
