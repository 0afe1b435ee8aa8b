"""Streams of samples in audio files: their byte ranges, and the lengths that headers announce.

One file may contain several streams in sequence (chained Ogg, joined MP3 or WAV). The modules
`speakerverif.audio.containers.*` find them; `decoders.py` turns each into samples.
"""

from dataclasses import dataclass
from typing import Literal

# Limits of the values in a header; one beyond them is taken for damaged.
MIN_SAMPLE_RATE = 2_000
MAX_SAMPLE_RATE = 768_000
MAX_CHANNELS = 1_024
# Greatest difference between the decoded and the announced length, for compressed audio.
TOLERANCE_S = 0.005

Decoder = Literal["numpy", "libsndfile", "ffmpeg"]
Coding = Literal["int", "float", "unsigned", "mulaw", "alaw"]


class Damaged(Exception):
    """A fault in a file; the message doesn't include the file's name."""


@dataclass(frozen=True, slots=True)
class Pcm:
    """The storage format of uncompressed samples.

    Attributes:
        coding: "int", "float", "unsigned" (8 bits), "mulaw" or "alaw".
        width: bytes per sample.
        big: whether the most significant byte comes first.
        channels: samples per frame.
        sample_rate: Hz.
    """

    coding: Coding
    width: int
    big: bool
    channels: int
    sample_rate: int

    @property
    def frame_bytes(self) -> int:
        """Bytes per frame, that is, one sample of every channel."""
        return self.width * self.channels


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of samples.

    Attributes:
        container: its format, as named in `docs/formats.md`.
        begin: first byte in the recording that the decoder gets.
        end: byte after the last one.
        decoder: name of the decoder that reads it.
        pcm: storage format of the samples, where no codec is needed.
        frames: number of frames; None where it is unknown before decoding.
        prefix: bytes that the decoder gets before the stream.
        bounds: least and greatest number of frames that its packets can contain, where the packets were counted.
    """

    container: str
    begin: int
    end: int
    decoder: Decoder
    pcm: Pcm | None = None
    frames: int | None = None
    prefix: bytes = b""
    bounds: tuple[int, int] | None = None


def check_sound(sample_rate: float, channels: int) -> None:
    """Raise `Damaged` where a header announces a rate or a number of channels beyond the limits."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise Damaged(
            f"its header announces {sample_rate:g} samples per second; "
            f"expected {MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,}"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise Damaged(f"its header announces {channels} channels; expected 1 to {MAX_CHANNELS:,}")
