"""The groups of parsers that `fuzz.py` tries: where their inputs begin, and the call that must survive them."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from speakerverif.audio import reading

RATE = 16000


@dataclass(frozen=True)
class Group:
    """Parsers of one kind of file.

    Attributes:
        name: of the group.
        suffix: of the file, where the format shows in the name.
        seeds: returns good files, which are then damaged.
        parse: must return or raise `InputError`.
    """

    name: str
    suffix: str
    seeds: Callable[[], list[bytes]]
    parse: Callable[[Path], object]


AUDIO = (
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "GSM610"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "ULAW"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
)


def audio_seeds() -> list[bytes]:
    """Return a third of a second of two sounds in every container and coding."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE // 3, 2)).astype(np.float32)
    files = []
    for format, subtype in AUDIO:
        for samples in (noise[:, 0], noise):
            if soundfile.check_format(format, subtype) and (samples.ndim == 1 or subtype != "GSM610"):
                buffer = io.BytesIO()
                soundfile.write(buffer, samples, RATE, format=format, subtype=subtype)
                files.append(buffer.getvalue())
    flac = bytearray(next(file for file in files if file[:4] == b"fLaC"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    frame = struct.pack(">B", 12 << 3) + bytes(5)
    return [*files, bytes(flac), b"#!AMR\n" + frame * 20, b"\xff\xf1\x60\x40\x01\x7f\xfc" * 9]


def read_audio(path: Path) -> None:
    """Read a recording in all ways there are."""
    reading.info(path)
    reading.read(path, 0.1, 0.05, channel="mix")
    for _ in reading.blocks(path, 0.1, channel=1):
        pass
    reading.read(path)


GROUPS = {group.name: group for group in (Group("audio", "", audio_seeds, read_audio),)}
