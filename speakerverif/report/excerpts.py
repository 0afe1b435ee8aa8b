"""Excerpts of recordings to listen to and to look at, small enough to be part of a page."""

import base64
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from speakerverif.audio import reading

RATE = 16000
EXCERPT_S = 5.0  # of each recording
LONGEST_S = 60.0  # of each recording, searched for the loudest excerpt
FRAME, HOP = 512, 160  # samples: 32 ms every 10 ms
RANGE_DB = 60.0  # between the darkest and the lightest shade
SHADES = 16  # four bits a pixel


@dataclass(frozen=True)
class Excerpt:
    """A part of a recording, as data URIs.

    Attributes:
        sound: MP3 or WAV.
        picture: PNG of the spectrogram, 0 to 8 kHz.
        start_s: begin of the part.
        duration_s: of the part.
        whole_s: duration of the recording.
    """

    sound: str
    picture: str
    start_s: float
    duration_s: float
    whole_s: float


def excerpt(path: Path) -> Excerpt:
    """Return the loudest five seconds of a recording's first minute.

    Raises:
        InputError: as `audio.reading.read`.
    """
    whole_s = reading.info(path).duration_s
    waveform = reading.read(path, 0.0, LONGEST_S if whole_s > LONGEST_S else None, RATE, "mix")
    length = min(round(EXCERPT_S * RATE), len(waveform))
    power = np.cumsum(np.append(0.0, waveform.astype(np.float64) ** 2))
    start = int(np.argmax(power[length:] - power[:-length]))
    part = waveform[start : start + length]
    return Excerpt(
        _sound(part), _uri("image/png", spectrogram_png(part)), start / RATE, length / RATE, whole_s
    )


def spectrogram_png(waveform: np.ndarray) -> bytes:
    """Return a picture 128 pixels high of a waveform's power over time and frequency, a column every 10 ms."""
    padded = np.pad(np.asarray(waveform, np.float32), FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP] * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames, axis=1))[:, : FRAME // 2] ** 2
    level = 10 * np.log10(power.reshape(len(frames), -1, 2).mean(axis=2) + 1e-10)
    shade = np.clip(1 + (level - level.max()) / RANGE_DB, 0, 1)
    return _png(np.round(shade.T[::-1] * (SHADES - 1)).astype(np.uint8))


def _png(shades: np.ndarray) -> bytes:
    """Return a PNG of four bits a pixel, of shades (height, width) from 0 to 15.

    Image libraries write eight bits and more, which makes files four times as large without a visible difference.
    """
    from matplotlib import colormaps

    height, width = shades.shape
    even = np.pad(shades, ((0, 0), (0, width % 2)))
    packed = even[:, ::2] << 4 | even[:, 1::2]
    lines = np.pad(packed, ((0, 0), (1, 0)))  # every line begins with the number of its filter: 0, none
    palette = colormaps["magma"](np.linspace(0, 1, SHADES), bytes=True)[:, :3]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)
    parts = (
        (b"IHDR", head),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def _sound(waveform: np.ndarray) -> str:
    """Return MP3, or WAV where it is smaller or libsndfile can't write MP3.

    Every browser plays both. Ogg would be smaller, but not all browsers play it, and its bytes differ every time.
    """
    encoded = [_uri("audio/wav", _written(waveform, "WAV", "PCM_16"))]
    if "MP3" in sf.available_formats():
        encoded.append(_uri("audio/mpeg", _written(waveform, "MP3", "MPEG_LAYER_III")))
    return min(encoded, key=len)


def _written(waveform: np.ndarray, kind: str, subtype: str) -> bytes:
    with io.BytesIO() as buffer:
        sf.write(buffer, np.clip(waveform, -1, 1), RATE, format=kind, subtype=subtype)
        return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
