"""Streams of samples in audio files: where they lie, and how much their headers announce.

One file may hold several streams one after the other (chained Ogg, joined MP3 or WAV). The modules
`speakerverif.audio.containers.*` find them; `decoders.py` turns each into samples.
"""

from dataclasses import dataclass
from typing import Literal

# Limits of what a header may say: beyond them it is taken for damaged, not believed.
MIN_SAMPLE_RATE = 2_000
MAX_SAMPLE_RATE = 768_000
MAX_CHANNELS = 1_024
# What is decoded may differ by so much from what the header announces. What can be counted in bytes is exact.
TOLERANCE_S = 0.005

Decoder = Literal["numpy", "libsndfile", "ffmpeg"]
Coding = Literal["int", "float", "unsigned", "mulaw", "alaw"]


class Damaged(Exception):
    """What is wrong with a file, without its name."""


@dataclass(frozen=True, slots=True)
class Pcm:
    """How uncompressed samples are stored.

    Attributes:
        coding: "int", "float", "unsigned" (8 bits), "mulaw" or "alaw".
        width: bytes of a sample.
        big: whether the most significant byte comes first.
        channels: samples of a frame.
        sample_rate: Hz.
    """

    coding: Coding
    width: int
    big: bool
    channels: int
    sample_rate: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.width * self.channels


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of samples.

    Attributes:
        container: its format, as `docs/formats.md` calls it.
        begin: first byte in the recording that the decoder gets.
        end: byte behind the last.
        decoder: which decoder reads it.
        pcm: how the samples are stored, where no codec is needed.
        frames: how many frames it holds; None where only decoding can tell.
        prefix: bytes that the decoder gets before the stream.
        bounds: the least and the greatest number of frames that its packets can hold, where they were counted.
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
