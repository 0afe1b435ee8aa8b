"""Length is what was decoded: files whose headers know nothing, too little, or something else than what is there."""

import io
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from speakerverif.audio import files, reading
from speakerverif.audio.containers.mpeg import _frame
from speakerverif.errors import InputError
from tests.audio import test_reading
from tests.inference import test_channels

RATE = 16000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(2 * RATE)).astype(np.float32)
# Containers and codings that libsndfile writes: row of docs/formats.md, its format and subtype.
WRITTEN = [
    ("WAV", "WAV", "PCM_16"),
    ("WAV", "WAV", "PCM_24"),
    ("WAV", "WAV", "PCM_32"),
    ("WAV", "WAV", "PCM_U8"),
    ("WAV", "WAV", "FLOAT"),
    ("WAV", "WAV", "DOUBLE"),
    ("WAV", "WAV", "ULAW"),
    ("WAV", "WAV", "ALAW"),
    ("WAV", "WAVEX", "PCM_16"),
    ("WAV", "WAV", "IMA_ADPCM"),
    ("WAV", "WAV", "MS_ADPCM"),
    ("WAV", "WAV", "GSM610"),
    ("RF64", "RF64", "PCM_16"),
    ("W64", "W64", "PCM_16"),
    ("AIFF", "AIFF", "PCM_16"),
    ("AIFF", "AIFF", "PCM_24"),
    ("AIFF", "AIFF", "FLOAT"),
    ("AU", "AU", "PCM_16"),
    ("AU", "AU", "ULAW"),
    ("CAF", "CAF", "PCM_16"),
    ("CAF", "CAF", "FLOAT"),
    ("CAF", "CAF", "ALAC_16"),
    ("SPHERE", "NIST", "PCM_16"),
    ("SPHERE", "NIST", "ULAW"),
    ("FLAC", "FLAC", "PCM_16"),
    ("FLAC", "FLAC", "PCM_24"),
    ("Ogg", "OGG", "VORBIS"),
    ("Ogg", "OGG", "OPUS"),
    ("MP3", "MP3", "MPEG_LAYER_III"),
]
JOINED_REFUSED = ("FLAC", "ALAC_16")
# Rows of docs/formats.md that other files show, and the tests that hold them.
ELSEWHERE = {
    "AAC (ADTS), AMR": ("test_bare_aac_and_amr_that_are_cut_off",),
    "m4a, WebM and others": ("test_m4a", "test_cut_off_m4a_keeps_ffmpegs_words"),
    "VOC, IRCAM, PAF, AVR, MAT5, WVE": ("test_formats_whose_completeness_cant_be_told_are_refused_by_name",),
    "not audio": ("test_what_is_no_recording_is_called_by_its_name",),
    "pipes, devices": (
        "test_special_files_are_refused_by_name",
        "test_a_pipe_of_this_process_is_read_to_its_end_once",
    ),
    "several channels": ("test_channels_that_differ_or_cancel_out_are_refused",),
    "any": ("test_rates_beyond_the_limits_are_refused", "test_silence_that_expands_is_limited"),
}


def encoded(format: str, subtype: str, samples: np.ndarray = NOISE) -> bytes:
    """Return samples as a file that libsndfile wrote."""
    buffer = io.BytesIO()
    sf.write(buffer, samples, RATE, format=format, subtype=subtype)
    return buffer.getvalue()


def refused(path: Path, *words: str) -> str:
    """Assert that a file is refused by `read`, `blocks` and `check` in one line that holds its name and `words`."""
    for call in (reading.read, lambda p: list(reading.blocks(p, 1.0)), reading.check):
        with pytest.raises(InputError) as caught:
            call(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message, message
        assert all(word in message for word in words), message
    return message


@pytest.mark.parametrize(("container", "format", "subtype"), WRITTEN)
def test_a_file_is_read_whole_refused_in_half_and_never_in_part_when_joined(
    tmp_path: Path, container: str, format: str, subtype: str
) -> None:
    content = encoded(format, subtype)
    path = tmp_path / "whole"
    path.write_bytes(content)
    whole = reading.read(path)
    expected = sf.read(io.BytesIO(content), dtype="float32")[0]
    np.testing.assert_allclose(whole, expected, atol=1e-7)
    assert whole.dtype == np.float32
    # Of 24 bits at another rate, a fuzzer found float64, which the resampler refuses.
    assert sum(map(len, reading.blocks(path, 0.4, 8000))) == len(reading.read(path, sample_rate=8000))
    assert round(reading.info(path).duration_s * RATE) == len(whole) == len(expected)
    path.write_bytes(content[: len(content) // 2])
    refused(path)
    path.write_bytes(content + content)
    if {subtype, format} & set(JOINED_REFUSED):
        refused(path)
    else:
        np.testing.assert_allclose(reading.read(path), np.concatenate([whole, whole]), atol=1e-4)
        assert round(reading.info(path).duration_s * RATE) == 2 * len(whole)
        np.testing.assert_allclose(reading.read(path, 1.5, 1.0), reading.read(path)[24000:40000], atol=1e-4)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_every_truncation_of_an_ogg_file_that_shows_is_refused(tmp_path: Path, subtype: str) -> None:
    content = encoded("OGG", subtype)
    path = tmp_path / "a.ogg"
    for size in np.linspace(100, len(content) - 1, 12).astype(int):
        path.write_bytes(content[:size])
        refused(path)


def test_streams_of_different_rates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    other = io.BytesIO()
    sf.write(other, NOISE, 8000, format="OGG", subtype="VORBIS")
    path.write_bytes(encoded("OGG", "VORBIS") + other.getvalue())
    refused(path, "several streams", "8000 Hz")
    with pytest.raises(InputError, match="several streams"):
        reading.info(path)


def unknown_length(flac: bytes) -> bytes:
    """Return a FLAC file whose header announces 0 samples, as every encoder that writes to a pipe leaves it."""
    content = bytearray(flac)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def test_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(unknown_length(encoded("FLAC", "PCM_16")))
    assert reading.info(path).duration_s == 2.0
    whole = reading.read(path)
    assert len(whole) == 2 * RATE
    np.testing.assert_array_equal(reading.read(path, 1.2, 0.5), whole[19200:27200])
    with pytest.raises(InputError, match="ends before 3 s"):
        reading.read(path, 3.0)


@pytest.mark.parametrize(
    ("total", "word"), [(1 << 35, "cut off"), (2 * RATE + 200, "cut off"), (1000, "follows")]
)
def test_flac_that_announces_something_else_is_refused(tmp_path: Path, total: int, word: str) -> None:
    content = bytearray(encoded("FLAC", "PCM_16"))
    struct.pack_into(">Q", content, 18, struct.unpack_from(">Q", content, 18)[0] & ~((1 << 36) - 1) | total)
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"announces|cut off"):
        reading.read(path)


@pytest.mark.parametrize("tag", [b"TAG" + bytes(125), b""])
def test_tags_around_flac_and_mp3_are_not_samples(tmp_path: Path, tag: bytes) -> None:
    id3 = b"ID3\3\0\0\0\0\1\0" + bytes(128)
    for format, subtype in (("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")):
        path = tmp_path / format
        path.write_bytes(id3 + encoded(format, subtype) + tag)
        assert len(reading.read(path)) == 2 * RATE


def wav(
    data: bytes, size: int | None = None, riff: int | None = None, after: bytes = b"", rate: int = RATE
) -> bytes:
    """Return a WAV file of 16-bit samples by hand, with any size in its header."""
    size = len(data) if size is None else size
    riff = size + 36 if riff is None else riff
    form = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", riff & 0xFFFFFFFF, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16
    )
    return form + b"data" + struct.pack("<I", size) + data + after


INT16 = (NOISE * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize(
    "size",
    [
        0,
        2_000_000_000,
        1_000_000_000,
        0x7FFFFFFF,
        0x7FFFFFFF - 36,
        0x80000000,
        0xFFFFFFFF,
        0xFFFFFFFF - 44,
        1 << 30,
    ],
)
def test_wav_with_the_size_of_a_killed_recorder_or_a_pipe_is_read_to_its_end(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "a.wav"
    for riff in (None, 0, 0xFFFFFFFF):
        path.write_bytes(wav(INT16, size, riff))
        assert len(reading.read(path)) == 2 * RATE
        assert reading.info(path).duration_s == 2.0


@pytest.mark.parametrize("size", [len(INT16) + 2, 10_000_000, 1_999_999_998])
def test_wav_that_announces_more_is_cut_off(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(INT16, size))
    refused(path, f"cut off: its header announces {size} bytes of samples, {len(INT16)} are there")


def test_an_empty_wav_with_a_note_behind_it_holds_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(b"", after=b"LIST" + struct.pack("<I", 6) + b"noteno"))
    refused(path, "holds no samples")


def test_sizes_that_wrapped_around_at_4_gib_are_completed(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(b"", size=64000))
    os.truncate(path, 44 + (1 << 32) + 64000)  # sparse: nothing is written
    assert reading.info(path).duration_s == ((1 << 32) + 64000) / 2 / RATE
    assert not reading.read(path, 134_217.0, 1.0).any()


@pytest.mark.parametrize(
    ("after", "refusal"),
    [
        (b"LIST" + struct.pack("<I", 4) + b"INFO", ""),
        (
            b"id3 " + struct.pack("<I", 999) + b"ID3",
            "",
        ),  # its own size is wrong: nothing to do with the samples
        (bytes(5000), ""),
        (b"\x07\x01" * 5000, "10000 bytes follow"),
        (b"data" + struct.pack("<I", 4000) + bytes(4000), "a second block of samples"),
        (b"LIST" + struct.pack("<I", 4) + b"INFOdata" + struct.pack("<I", 2) + bytes(2), "a second block"),
        (encoded("FLAC", "PCM_16"), ""),
        (encoded("OGG", "OPUS", NOISE[: RATE // 2]), ""),
    ],
)
def test_what_follows_the_samples_of_a_wav(tmp_path: Path, after: bytes, refusal: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(INT16, after=after))
    if refusal:
        refused(path, refusal)
    else:
        assert len(reading.read(path)) >= 2 * RATE
        assert (len(reading.read(path)) > 2 * RATE) == (after[:4] in (b"fLaC", b"OggS"))


@pytest.mark.parametrize("pad", [b"\0", b""])
@pytest.mark.parametrize("name", [b"LIST", b"fact", b"odd "])
def test_chunks_of_odd_length_with_and_without_their_padding(tmp_path: Path, name: bytes, pad: bytes) -> None:
    path, whole = tmp_path / "a.wav", wav(INT16)
    path.write_bytes(whole[:36] + name + struct.pack("<I", 5) + b"12345" + pad + whole[36:])
    assert len(reading.read(path)) == 2 * RATE
    # Samples of 8 bits, an odd number of them, and a chunk behind.
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE, 1, 8)
    samples = b"data" + struct.pack("<I", 8001) + bytes(range(250)) * 32 + b"\1"
    path.write_bytes(whole[:12] + form + samples + pad + name + struct.pack("<I", 4) + b"note")
    assert len(reading.read(path)) == 8001


@pytest.mark.parametrize(("bits", "block"), [(12, 1), (16, 1), (32, 2), (24, 2)])
def test_samples_of_more_bits_than_their_bytes_hold(tmp_path: Path, bits: int, block: int) -> None:
    path, content = tmp_path / "a.wav", bytearray(wav(INT16))
    content[32:36] = struct.pack("<HH", block, bits)
    path.write_bytes(content)
    refused(path, f"announces {block} bytes for a sample of {bits} bits of each of 1 channels")
    content[32:36] = struct.pack("<HH", 2, 12)  # 12 bits in 2 bytes are common
    path.write_bytes(content)
    assert len(reading.read(path)) == 2 * RATE


@pytest.mark.parametrize("rate", [0, 1, 1999, 768_001, 0xFFFFFFFF])
def test_rates_beyond_the_limits_are_refused(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(INT16)[:24] + struct.pack("<I", rate) + wav(INT16)[28:])
    refused(path, "samples per second; expected 2,000 to 768,000")


def test_mp3_with_a_forged_length_is_refused(tmp_path: Path) -> None:
    content = bytearray(encoded("MP3", "MPEG_LAYER_III"))
    place = content.index(b"Xing") if b"Xing" in content else content.index(b"Info")
    announced = struct.unpack_from(">I", content, place + 8)[0]
    path = tmp_path / "a.mp3"
    for forged, word in ((1 << 31, "cut off"), (announced + 3, "cut off")):
        struct.pack_into(">I", content, place + 8, forged)
        path.write_bytes(content)
        refused(path, word, f"{forged} MP3 frames, {announced} are there")
    # A header that announces fewer: what follows is a stream of its own.
    struct.pack_into(">I", content, place + 8, 10)
    path.write_bytes(content)
    assert abs(reading.info(path).duration_s - 2.0) < 0.2


def test_mp3_frames_between_which_something_else_lies_are_refused(tmp_path: Path) -> None:
    content = encoded("MP3", "MPEG_LAYER_III")
    places = [0]
    while len(places) < 5:
        frame = _frame(content, places[-1])
        assert frame is not None
        places.append(places[-1] + frame.length)
    begin, middle = places[1], places[4]
    path = tmp_path / "a.mp3"
    path.write_bytes(content[begin:middle] + b"\1" * 700 + content[middle:])
    refused(path, f"no MP3 frame at byte {middle - begin}")
    path.write_bytes(content[begin:middle] + bytes(700) + content[middle:])
    reading.read(path)


@pytest.mark.parametrize("head", [0, 4, 44])
@pytest.mark.parametrize("before", [b"", b"ID3\3\0\0\0\0\1\0" + bytes(128)])
def test_libsndfile_never_complains_of_noise_that_looks_like_mp3(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], head: int, before: bytes
) -> None:
    content = before + encoded("MP3", "MPEG_LAYER_III")[:head]
    for seed in range(3):
        path = tmp_path / f"{seed}.mp3"
        path.write_bytes(content + np.random.default_rng(seed).bytes(1000))
        with pytest.raises(InputError, match=r"damaged|ffmpeg"):
            reading.read(path)
    assert capfd.readouterr().err == ""


def with_last_position(content: bytes, position: int) -> bytes:
    """Return an Ogg file whose last page ends at a position."""
    at = content.rindex(b"OggS")
    last = content[at : at + 6] + struct.pack("<q", position) + content[at + 14 :]
    return content[:at] + fixed_checksum(last)


def fixed_checksum(content: bytes) -> bytes:
    """Return a page with the checksum of what is in it."""
    content, crc = content[:22] + bytes(4) + content[26:], 0
    for byte in content:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return content[:22] + struct.pack("<I", crc) + content[26:]


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("position", [0, -5, 1, 10**15, 10**7])
def test_ogg_with_a_forged_length_is_refused(tmp_path: Path, subtype: str, position: int) -> None:
    path = tmp_path / "a.ogg"
    path.write_bytes(with_last_position(encoded("OGG", subtype), position))
    refused(path)


def test_ogg_with_a_missing_page_is_refused(tmp_path: Path) -> None:
    content = encoded("OGG", "VORBIS", np.tile(NOISE, 4))
    places = [i for i in range(len(content)) if content[i : i + 4] == b"OggS"]
    assert len(places) > 5
    path = tmp_path / "a.ogg"
    path.write_bytes(content[: places[3]] + content[places[4] :])
    refused(path, "Ogg pages are missing between 2 and 4")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty file (0 bytes)"),
        (b"hello, I am no recording\n" * 9, "is no recording but text: 'hello, I am no recording'"),
        (b"\r\n<!DOCTYPE html><title>404</title>", "an HTML page"),
        (b"<html>" + b"\xc3\xa9" * 500, "an HTML page"),
        (b'{"error": "not found"}', "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a Git LFS pointer"),
        (b"PK\3\4" + bytes(90), "a ZIP archive"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200), "AppleDouble"),
        (bytes(5000), "nothing but zeros"),
        (b"RIFF\x24\0\0\0WAVE", "cut off in its header"),
        (b"fLaC", "cut off in its header"),
        (b"OggS\0\2", "cut off"),
        (b"NIST_1A\nwords...", "header doesn't say how long it is"),
        (b"FORM\0\0\0\4AIFF", "cut off in its header"),
        (b".snd\0\0\0\x18", "cut off in its header"),
        (b"caff\0\1\0\0", "cut off in its header"),
    ],
)
def test_what_is_no_recording_is_called_by_its_name(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    refused(tmp_path / "a.wav", word)


def test_a_recorder_that_was_killed_leaves_other_containers_without_a_length_too(tmp_path: Path) -> None:
    for format, zeroed in (("AIFF", ((b"COMM", 10, 4), (b"SSND", 4, 4))), ("AU", ((b".snd", 8, 4),))):
        content = bytearray(encoded(format, "PCM_16"))
        for name, offset, count in zeroed:
            at = content.index(name) + offset
            content[at : at + count] = bytes(count)
        (tmp_path / format).write_bytes(content)
        assert len(reading.read(tmp_path / format)) == 2 * RATE
    content = bytearray(encoded("CAF", "PCM_16"))
    at = content.index(b"data") + 4
    content[at : at + 8] = b"\xff" * 8
    (tmp_path / "CAF").write_bytes(content)
    assert len(reading.read(tmp_path / "CAF")) == 2 * RATE
    sphere = encoded("NIST", "PCM_16").replace(b"sample_count -i", b"sample_comma -i")
    (tmp_path / "SPHERE").write_bytes(sphere)
    assert len(reading.read(tmp_path / "SPHERE")) == 2 * RATE


def test_special_files_are_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, word in (
        (tmp_path / "pipe", "is a named pipe"),
        (Path("/dev/null"), "is a device"),
        (tmp_path, "is a folder"),
    ):
        refused(path, word)
        with pytest.raises(InputError, match=word):
            reading.info(path)


def through_pipe(content: bytes, call: Callable[[str], object]) -> object:
    """Return what a call says of the name of a pipe's end, as the shell's `<(command)` gives it."""
    end, source = os.pipe()

    def feed() -> None:
        with os.fdopen(source, "wb") as file:
            file.write(content)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        return call(f"/dev/fd/{end}")
    finally:
        os.close(end)
        thread.join()


def test_a_pipe_of_this_process_is_read_to_its_end_once() -> None:
    def both(path: str) -> tuple[float, int]:
        return reading.info(path).duration_s, len(reading.read(path))

    assert through_pipe(wav(INT16), both) == (2.0, 2 * RATE)


def test_a_pipe_that_gives_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIPE_STALL_S", 0.0)
    end, source = os.pipe()
    try:
        with pytest.raises(InputError, match="no byte came out of this pipe"):
            reading.info(f"/dev/fd/{end}")
    finally:
        os.close(end)
        os.close(source)


def test_a_pipe_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_PIPE_BYTES", 1000)
    with pytest.raises(InputError, match="came out of this pipe"):
        through_pipe(wav(INT16[:5000]), reading.info)


def test_standard_input_is_read() -> None:
    code = "from speakerverif.audio import reading; print(len(reading.read('/dev/stdin')))"
    done = subprocess.run([sys.executable, "-c", code], input=wav(INT16), capture_output=True, check=True)
    assert done.stdout == b"32000\n"


def test_every_row_of_the_document_has_a_case() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text("utf-8")
    section = text.partition("\n## Recordings\n")[2].partition("\n## ")[0]
    rows = {line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")}
    assert {container for container, _, _ in WRITTEN} <= rows
    assert rows - {container for container, _, _ in WRITTEN} == {"container", *ELSEWHERE}
    named = {name for module in (sys.modules[__name__], test_reading, test_channels) for name in dir(module)}
    assert {test for tests in ELSEWHERE.values() for test in tests} <= named


def test_a_header_that_points_anywhere_is_refused(tmp_path: Path) -> None:
    """Found by tools/fuzz.py: an offset beyond 2^63 was a ValueError of the file's seek."""
    for format, name, width in (("W64", b"fmt ", 16), ("CAF", b"desc", 4)):
        content = bytearray(encoded(format, "PCM_16"))
        at = content.index(name) + width
        content[at : at + 8] = b"\xff" * 8 if format == "W64" else b"\x7f" + b"\xff" * 7
        (tmp_path / format).write_bytes(content)
        refused(tmp_path / format, "cut off in its header")


def aac(frames: int) -> bytes:
    """Return silent AAC frames: 16 kHz, mono, 7 bytes of header and 4 of a silent frame."""
    frame = bytes([0xFF, 0xF1, 0x60, 0x40, 11 >> 3, (11 & 7) << 5 | 0x1F, 0xFC]) + b"\x01\x40\x20\x07"
    return frame * frames


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (aac(20)[:-5], "its last AAC frame is not whole"),
        (aac(3) + b"\1" * 40 + aac(3), "no AAC frame at byte 33"),
        (b"#!AMR\n" + (b"\x3c" + bytes(31)) * 9 + b"\x3c" + bytes(5), "its last AMR frame is not whole"),
        (b"#!AMR-WB\n" + (b"\x44" + bytes(60)) * 9 + b"\x44", "its last AMR frame is not whole"),
    ],
)
def test_bare_aac_and_amr_that_are_cut_off(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path / "a", word)


@pytest.mark.parametrize("format", ["VOC", "IRCAM", "PAF", "AVR", "MAT5", "WVE"])
def test_formats_whose_completeness_cant_be_told_are_refused_by_name(tmp_path: Path, format: str) -> None:
    subtype, rate = ("ALAW", 8000) if format == "WVE" else ("PCM_16", RATE)
    sf.write(tmp_path / "a", NOISE, rate, format=format, subtype=subtype)
    refused(tmp_path / "a", "whether a file of this format is whole can't be told; convert it to WAV or FLAC")


def test_silence_that_expands_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_READ_S", 1.5)
    path = tmp_path / "a.wav"
    path.write_bytes(wav(INT16))
    with pytest.raises(InputError, match="the most that is read at once"):
        reading.read(path)
    assert len(reading.read(path, 0.5, 1.0)) == RATE
    assert sum(map(len, reading.blocks(path, 0.5))) == 2 * RATE
