"""Reading recordings of any format, rate and channel count as one channel of float32 at a requested rate.

The decoded samples count, not the header: a recording with fewer or more samples than it announces is an error, never
a shorter waveform. `containers` finds the streams of a file, `decoders.py` decodes them, `channels.py` reduces them to
one channel; `docs/formats.md` lists accepted and refused formats. A path may name a file inside a tar archive
(`speakerverif._util.tar`).
"""

import functools
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from speakerverif.audio.channels import Channel, mono
from speakerverif.audio.containers.detect import find_streams
from speakerverif.audio.decoders import check_length, open_decoder
from speakerverif.audio.files import Location, locate
from speakerverif.audio.streams import Damaged, Stream
from speakerverif.errors import InputError

Samples = NDArray[np.float32]

# soxr is faster than torchaudio's default resampling, has errors of 1e-6 in mid band instead of 2e-3, is flat up to
# 0.9 of the Nyquist frequency, gives bit-identical results in chunks and as a whole, and needs no torch.
QUALITY = "HQ"
# Context decoded on both sides of a part that is resampled; the filters reach 0.02 s.
CONTEXT_S = 0.1
# Times in lists may be rounded to centiseconds, so a part may end this much after the file.
SLACK_S = 0.01
# Longest result of `read`; `blocks` has no limit.
MAX_READ_S = 4 * 3600.0
DIFFERENT_STREAMS = "holds several streams, one of {} Hz and {} channels, another of {} Hz and {}: split it"


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """A recording's sample rate in Hz, number of channels, and length in seconds."""

    sample_rate: int
    channels: int
    duration_s: float


def info(path: str | Path) -> AudioInfo:
    """Return rate, channels and length of a recording.

    The length comes from the header, checked against the number of bytes, packets or frames, or else from decoding the
    whole file (FLAC written to a pipe, and formats that only ffmpeg reads).

    Raises:
        InputError: missing, empty or a folder; not audio; truncated or damaged, where that shows without decoding;
            ffmpeg needed and not installed.
    """
    location = locate(path)
    with _named(location):
        return _info(location)


def read(
    path: str | Path,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sample_rate: int = 16000,
    channel: Channel = None,
) -> Samples:
    """Return a recording, or a part of it, as one channel; only that part is decoded.

    A part equals the same samples of the whole file (to about 1e-6 where resampled).

    Args:
        path: any file that soundfile or ffmpeg reads.
        start_s: seconds from the beginning.
        duration_s: seconds; None reads to the end.
        sample_rate: Hz, of the result.
        channel: counted from 1; "mix" averages all; None averages channels that carry the same voice and refuses
            others.

    Returns:
        float32 (samples,), in [-1, 1] for integer formats; NaN and infinity in float files are kept
        (`speech_check.assess` reports them).

    Raises:
        InputError: as `info`; the file has no samples, ends before the part does, is damaged (its length differs from
            its header, or its decoder fails); the part is longer than `MAX_READ_S`; there is no such channel, or
            `channel` is None and the channels differ.
    """
    if not start_s >= 0 or not (duration_s is None or 0 < duration_s < math.inf):
        raise InputError(
            f"{path}: asked for {duration_s} s from {start_s} s on; expected a part of positive length"
        )
    location = locate(path)
    stop_s = None if duration_s is None else start_s + duration_s
    with _named(location), closing(_Recording(location, stop_s)) as recording:
        rate = recording.sample_rate
        # Resampling begins at a whole second, where the samples of any two rates coincide.
        begin_s = start_s if rate == sample_rate else float(max(0, math.floor(start_s - CONTEXT_S)))
        margin_s = 0.0 if rate == sample_rate else CONTEXT_S
        frames = None if stop_s is None else round((stop_s + margin_s - begin_s) * rate)
        parts, total = [], 0
        for chunk in recording.chunks(round(begin_s * rate), frames):
            parts.append(mono(chunk, rate, channel))
            total += len(chunk)
            if total > MAX_READ_S * rate:
                raise Damaged(f"longer than {MAX_READ_S / 3600:g} hours, the most that is read at once")
        waveform = np.concatenate(parts) if parts else np.empty(0, np.float32)
        if rate != sample_rate:
            waveform = soxr.resample(waveform, rate, sample_rate, quality=QUALITY)
    waveform = waveform[round(start_s * sample_rate) - round(begin_s * sample_rate) :]
    if not len(waveform):
        found = "holds no samples" if start_s == 0 else f"ends before {start_s:g} s"
        raise InputError(f"{path}: {found}")
    if duration_s is None:
        return waveform
    missing_s = duration_s - len(waveform) / sample_rate
    if missing_s > SLACK_S:
        raise InputError(
            f"{path}: ends at {start_s + duration_s - missing_s:g} s; "
            f"asked for {duration_s:g} s from {start_s:g} s on"
        )
    return waveform[: round(duration_s * sample_rate)]


def blocks(
    path: str | Path, block_s: float, sample_rate: int = 16000, channel: Channel = None
) -> Iterator[Samples]:
    """Yield a recording of any length in blocks of `block_s` seconds (the last may be shorter), in bounded memory.

    The blocks joined equal `read(path, sample_rate=sample_rate, channel=channel)` exactly.

    Raises:
        InputError: as `read`; damage raises when it is reached.
    """
    size = round(block_s * sample_rate)
    if size < 1:
        raise InputError(f"blocks of {block_s} s at {sample_rate} Hz hold no sample")
    location = locate(path)
    waiting, empty = np.empty(0, np.float32), True
    with _named(location), closing(_Recording(location, None)) as recording:
        for chunk in _resampled(recording, sample_rate, channel):
            waiting, empty = np.concatenate([waiting, chunk]), empty and not len(chunk)
            while len(waiting) >= size:
                yield waiting[:size]
                waiting = waiting[size:]
    if empty:
        raise InputError(f"{path}: holds no samples")
    if len(waiting):
        yield waiting


def check(path: str | Path, channel: Channel = None) -> AudioInfo:
    """Return rate, channels and length, as `info`, after decoding the whole recording.

    Raises:
        InputError: as `read`, but without a limit on the length.
    """
    location = locate(path)
    with _named(location), closing(_Recording(location, None)) as recording:
        for chunk in recording.chunks(0, None):
            mono(chunk, recording.sample_rate, channel)
        checked = _info(location)
    if not checked.duration_s:
        raise InputError(f"{path}: holds no samples")
    return checked


class Files:
    """A reader of files with a default channel, for recordings without their own.

    It implements `speakerverif.inference.chunks.Source`.
    """

    info = staticmethod(info)

    def __init__(self, channel: Channel = None) -> None:
        self._channel = channel

    def read(
        self,
        path: str,
        start_s: float = 0.0,
        duration_s: float | None = None,
        sample_rate: int = 16000,
        channel: Channel = None,
        /,
    ) -> Samples:
        """Return a recording or a part of it, as `read`."""
        return read(path, start_s, duration_s, sample_rate, self._channel if channel is None else channel)

    def blocks(
        self, path: str, block_s: float, sample_rate: int = 16000, channel: Channel = None, /
    ) -> Iterator[Samples]:
        """Return an iterator over the blocks of a recording, as `blocks`."""
        return blocks(path, block_s, sample_rate, self._channel if channel is None else channel)


def _resampled(recording: "_Recording", sample_rate: int, channel: Channel) -> Iterator[Samples]:
    """Yield a recording in chunks, as one channel at a rate."""
    rate = recording.sample_rate
    chunks = (mono(chunk, rate, channel) for chunk in recording.chunks(0, None))
    if rate == sample_rate:
        yield from chunks
        return
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality=QUALITY)
    for chunk in chunks:
        yield stream.resample_chunk(chunk)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


class _Recording:
    """The streams of a file, decoded in sequence as if they were one.

    Args:
        location: the recording.
        stop_s: end of the needed part, in seconds; None: the recording is read to its end.
    """

    def __init__(self, location: Location, stop_s: float | None) -> None:
        self._location, self._streams = location, _streams(location)
        self._stop_s = None if stop_s is None else stop_s + CONTEXT_S
        self._decoder = open_decoder(location, self._streams[0], self._stop_s)
        self.sample_rate, self.channels = self._decoder.sample_rate, self._decoder.channels

    def chunks(self, first: int, frames: int | None) -> Iterator[Samples]:
        """Yield frames (N, channels) from `first` on, at most `frames`; can be called once only.

        Raises:
            Damaged: a stream decoded to its end has fewer or more frames than it announces.
        """
        left = frames
        for number, stream in enumerate(self._streams):
            if number:
                self._next(stream)
            decoder = self._decoder
            decoded = 0
            if first:
                decoded = decoder.skip(first)
                first -= decoded
            if not first:
                for chunk in decoder.chunks(left):
                    decoded += len(chunk)
                    yield chunk
                    left = None if left is None else left - len(chunk)
                    if left == 0:
                        return
            check_length(decoder, decoded)

    def _next(self, stream: Stream) -> None:
        """Open the next stream.

        Raises:
            Damaged: it has another rate or number of channels.
        """
        self._decoder.close()
        self._decoder = open_decoder(self._location, stream, self._stop_s)
        rate, channels = self._decoder.sample_rate, self._decoder.channels
        if (rate, channels) != (self.sample_rate, self.channels):
            raise Damaged(DIFFERENT_STREAMS.format(self.sample_rate, self.channels, rate, channels))

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()


@functools.lru_cache(maxsize=4096)
def _streams(location: Location) -> tuple[Stream, ...]:
    """Return the streams of a recording, at least one."""
    with location.open() as file:
        return tuple(find_streams(file, location.end - location.begin))


@functools.lru_cache(maxsize=4096)
def _info(location: Location) -> AudioInfo:
    """Return rate, channels and length of a recording."""
    sample_rate, channels, frames = 0, 0, 0
    for stream in _streams(location):
        rate, width, counted = _counted(location, stream)
        if sample_rate and (rate, width) != (sample_rate, channels):
            raise Damaged(DIFFERENT_STREAMS.format(sample_rate, channels, rate, width))
        sample_rate, channels, frames = rate, width, frames + counted
    return AudioInfo(sample_rate, channels, frames / sample_rate)


def _counted(location: Location, stream: Stream) -> tuple[int, int, int]:
    """Return rate, channels and number of frames of a stream."""
    if stream.pcm is not None and stream.frames is not None:
        return stream.pcm.sample_rate, stream.pcm.channels, stream.frames
    # Where the header is reliable, nothing needs to be decoded.
    stop_s = None if stream.decoder == "ffmpeg" or stream.container == "unknown" else 0.0
    with closing(open_decoder(location, stream, stop_s)) as decoder:
        frames = sum(map(len, decoder.chunks())) if decoder.frames is None else decoder.frames
        return decoder.sample_rate, decoder.channels, frames


@contextmanager
def _named(location: Location) -> Iterator[None]:
    """Convert `Damaged` to an `InputError` that begins with the recording's name."""
    try:
        yield
    except Damaged as error:
        raise InputError(f"{location.name}: {error}") from error
    except OSError as error:
        raise InputError(f"{location.name}: {error.strerror or error}") from error
