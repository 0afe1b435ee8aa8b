"""Decoders of one stream of a file: NumPy, libsndfile or an `ffmpeg` process.

All of them count the decoded frames. A stream with fewer or more than its header announces is an error.
"""

import contextlib
import io
import math
import os
import select
import shutil
import struct
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from speakerverif.audio.files import Location, Window
from speakerverif.audio.streams import TOLERANCE_S, Damaged, Pcm, Stream, check_sound

Samples = NDArray[np.float32]
# Samples decoded at a time, so that an hour of 48 kHz stereo needs a few MB.
CHUNK_SAMPLES = 1 << 20
# A stream of at most this many bytes that is decoded whole is first read into memory: decoders read small pieces.
MAX_BUFFERED = 16 << 20
# An ffmpeg process without output for this long, or with more memory than this, is killed.
FFMPEG_STALL_S = 60.0
FFMPEG_MEMORY = 4 << 30
# Formats of libsndfile that `containers` parses as well: a file in which it finds no stream is damaged.
_PARSED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3")


class _NotSoundfile(Exception):
    """The reason why libsndfile can't read a file of unknown format."""


class Decoder(ABC):
    """A decoder of one stream, from its beginning.

    Attributes:
        sample_rate: Hz.
        channels: samples per frame.
        frames: number that the stream announces; None where it announces none.
    """

    sample_rate: int
    channels: int
    frames: int | None

    @abstractmethod
    def _decode(self, frames: int) -> Samples:
        """Return the next frames, float32 (frames, channels); fewer only at the end."""

    def skip(self, frames: int) -> int:
        """Skip the given number of frames, or all if there are fewer, and return the number skipped."""
        return sum(len(chunk) for chunk in self.chunks(frames))

    def chunks(self, frames: int | None = None) -> Iterator[Samples]:
        """Yield the next frames, at most `frames`, in chunks of at most `CHUNK_SAMPLES` samples.

        Raises:
            Damaged: the decoder fails.
        """
        size = max(1, CHUNK_SAMPLES // self.channels)
        left = math.inf if frames is None else frames
        while left > 0:
            wanted = int(min(size, left))
            chunk = self._decode(wanted)
            if len(chunk):
                yield chunk
            if len(chunk) < wanted:
                return
            left -= len(chunk)

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        """Convert a library's exceptions about a file's content to `Damaged`."""
        try:
            yield
        except sf.LibsndfileError as error:
            raise Damaged(error.error_string.removeprefix("Error : ").rstrip(".")) from error
        except (TypeError, ValueError, OverflowError, MemoryError, RuntimeError) as error:
            raise Damaged(f"its decoder fails ({error})") from error

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class NumPyDecoder(Decoder):
    """A decoder of uncompressed samples, by NumPy."""

    def __init__(self, file: BinaryIO, stream: Stream) -> None:
        assert stream.pcm is not None and stream.frames is not None
        self._file, self._pcm, self._left = file, stream.pcm, stream.frames
        self.sample_rate, self.channels = stream.pcm.sample_rate, stream.pcm.channels
        self.frames: int | None = stream.frames
        file.seek(stream.begin)

    def skip(self, frames: int) -> int:
        frames = min(frames, self._left)
        self._file.seek(frames * self._pcm.frame_bytes, os.SEEK_CUR)
        self._left -= frames
        return frames

    def _decode(self, frames: int) -> Samples:
        data = self._file.read(min(frames, self._left) * self._pcm.frame_bytes)
        whole = len(data) // self._pcm.frame_bytes
        self._left -= whole
        return scaled(data[: whole * self._pcm.frame_bytes], self._pcm).reshape(whole, self.channels)

    def close(self) -> None:
        self._file.close()


class SoundfileDecoder(Decoder):
    """A decoder that uses libsndfile."""

    _at_end = False

    def __init__(self, location: Location, stream: Stream, to_end: bool) -> None:
        begin, prefix = stream.begin, stream.prefix
        if prefix and stream.frames is not None and not to_end:
            # Seeking in FLAC is faster where the decoder knows the length.
            begin, prefix = begin - len(prefix), b""
        all_of_it = (begin, stream.end) == (0, location.end - location.begin) and not prefix
        source: Any = location.file
        # libsndfile takes an unknown file for MP3 if its name ends like that: it doesn't get the name.
        nameless = stream.container == "unknown" and location.file.lower().endswith(".mp3")
        if nameless or not (location.whole and all_of_it):
            if to_end and stream.end - begin <= MAX_BUFFERED:
                with location.open() as file:
                    file.seek(begin)
                    source = io.BytesIO(prefix + file.read(stream.end - begin))
            else:
                source = Window(location.open(), begin, stream.end, prefix)
        try:
            with self._checked():
                self._sound = _Sound(source)
        except Damaged as error:
            if stream.container != "unknown":
                raise Damaged(f"damaged: {error}") from error
            raise _NotSoundfile(str(error)) from error
        self.sample_rate, self.channels = self._sound.samplerate, self._sound.channels
        check_sound(self.sample_rate, self.channels)
        # For a FLAC stream of unknown length libsndfile reports the largest integer.
        self.frames = self._sound.frames if self._sound.frames < 1 << 62 else stream.frames
        if stream.container == "unknown":
            self._check_other()
        if stream.bounds and self.frames is not None:
            least, most = stream.bounds
            if not least <= self.frames <= most:
                raise Damaged(
                    f"damaged: its header announces {self.frames / self.sample_rate:g} s; its packets hold "
                    f"{max(0, least) / self.sample_rate:g} to {most / self.sample_rate:g} s"
                )
        # NumPy scales 16-bit samples in a tenth of libsndfile's time, with identical results.
        self._stored = "int16" if self._sound.subtype == "PCM_16" else "float32"

    def _check_other(self) -> None:
        """Raise `Damaged` for a file in which `containers` found no stream."""
        name = self._sound.format_info
        if self._sound.format in _PARSED:
            raise Damaged(f"damaged in its header ({name})")
        raise Damaged(
            f"{name}: whether a file of this format is whole can't be told; convert it to WAV or FLAC"
        )

    def skip(self, frames: int) -> int:
        if self.frames is None or not sf.SoundFile.seekable(self._sound):
            return super().skip(frames)
        self._at_end = frames >= self.frames
        if not self._at_end:
            try:
                with self._checked():
                    self._sound.seek(frames)
            except Damaged as error:
                raise Damaged(
                    f"damaged or cut off before {frames / self.sample_rate:g} s: {error}"
                ) from error
        return min(frames, self.frames)

    def _decode(self, frames: int) -> Samples:
        if self._at_end:
            return np.empty((0, self.channels), np.float32)
        try:
            with self._checked():
                chunk: NDArray[Any] = self._sound.read(frames, dtype=self._stored, always_2d=True)
        except Damaged as error:
            at = self._sound.tell()
            if self.frames is not None and at >= self.frames:
                raise Damaged(
                    f"something follows the {self.frames / self.sample_rate:g} s that its header announces "
                    "(are several files joined?)"
                ) from error
            raise Damaged(f"damaged or cut off at {at / self.sample_rate:.3f} s: {error}") from error
        return chunk * np.float32(1 / 32768) if self._stored == "int16" else chunk

    def close(self) -> None:
        self._sound.close()


class _Sound(sf.SoundFile):  # type: ignore[misc]
    """A sound file without the seek that soundfile makes after every read of a seekable file."""

    def seekable(self) -> bool:
        return False


class FfmpegDecoder(Decoder):
    """A decoder that uses ffmpeg: the first audio stream, from the beginning of the file.

    ffmpeg's own seeking is off by up to 1,024 samples in m4a, and decodes the frames there differently.
    """

    def __init__(self, location: Location, reason: str, stop_s: float | None) -> None:
        command = _ffmpeg_command(location, reason, ["-v", "error", "-xerror"])
        cut = [] if stop_s is None else ["-t", f"{stop_s:.6f}"]
        # AU: a short header with rate and channels, then only samples.
        command += ["-map", "0:a:0", *cut, "-c:a", "pcm_f32be", "-f", "au", "-"]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log)
        _limit_memory(self._process.pid)
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        self.frames = None
        try:
            head = self._read(24)
            if len(head) < 24:
                self._finish()
                raise Damaged("ffmpeg finds no sound in it")
            offset, _, _, self.sample_rate, self.channels = struct.unpack(">4x5I", head)
            check_sound(self.sample_rate, self.channels)
            self._read(offset - 24)
        except BaseException:
            self.close()
            raise
        self._pcm = Pcm("float", 4, True, self.channels, self.sample_rate)

    def _decode(self, frames: int) -> Samples:
        data = self._read(frames * self._pcm.frame_bytes)
        whole = len(data) // self._pcm.frame_bytes
        if whole < frames:
            self._finish()
        return scaled(data[: whole * self._pcm.frame_bytes], self._pcm).reshape(whole, self.channels)

    def _read(self, count: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        blocks, left, last = [], count, time.monotonic()
        while left:
            if not select.select([self._pipe], [], [], 1.0)[0]:
                if time.monotonic() - last > FFMPEG_STALL_S:
                    raise Damaged(f"ffmpeg decoded nothing of it in {FFMPEG_STALL_S:g} s")
                continue
            block = os.read(self._pipe.fileno(), min(left, 1 << 18))
            if not block:
                break
            blocks.append(block)
            left, last = left - len(block), time.monotonic()
        return b"".join(blocks)

    def _finish(self) -> None:
        """Raise `Damaged` where ffmpeg failed or reported an error."""
        status = self._process.wait()
        self._log.seek(0)
        said = list(dict.fromkeys(self._log.read(1 << 16).decode(errors="replace").strip().splitlines()))
        if status or said:
            shown = " | ".join(said[:3]) or f"exit status {status}"
            raise Damaged(f"ffmpeg can't decode it: {shown}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._log.close()


def open_decoder(location: Location, stream: Stream, stop_s: float | None) -> Decoder:
    """Return a decoder at the beginning of a stream.

    Args:
        location: the recording.
        stream: one of its streams.
        stop_s: end of the needed part, in seconds; None: the stream is read to its end.

    Raises:
        Damaged: it can't be decoded; ffmpeg is needed and not installed.
    """
    if stream.decoder == "numpy":
        return NumPyDecoder(location.open(), stream)
    if stream.decoder == "libsndfile":
        try:
            return SoundfileDecoder(location, stream, stop_s is None)
        except _NotSoundfile as error:
            return FfmpegDecoder(location, str(error), stop_s)
    if stream.begin or stream.end != location.end - location.begin:
        raise Damaged(f"holds several streams, one of them {stream.container}, which is read only by itself")
    return FfmpegDecoder(location, f"{stream.container} is read with ffmpeg", stop_s)


def check_length(decoder: Decoder, decoded: int) -> None:
    """Raise `Damaged` where a stream decoded to its end has fewer or more frames than it announces."""
    if decoder.frames is None:
        return
    rate, missing = decoder.sample_rate, decoder.frames - decoded
    if abs(missing) > TOLERANCE_S * rate:
        what = "damaged or cut off" if missing > 0 else "its header is wrong"
        raise Damaged(
            f"{what}: its header announces {decoder.frames / rate:.3f} s, {decoded / rate:.3f} s are decoded"
        )


def scaled(data: bytes, pcm: Pcm) -> Samples:
    """Return stored samples as float32 (samples,); the full range of integers is mapped to [-1, 1).

    Source: ITU-T G.711 (1988) for the µ-law and the A-law.
    """
    order = ">" if pcm.big else "<"
    if pcm.coding == "float":
        return np.frombuffer(data, f"{order}f{pcm.width}").astype(np.float32)
    if pcm.coding in ("mulaw", "alaw"):
        table = _MULAW if pcm.coding == "mulaw" else _ALAW
        return table[np.frombuffer(data, np.uint8)]
    if pcm.coding == "unsigned":
        return (np.frombuffer(data, np.uint8) - np.float32(128)) * np.float32(1 / 128)
    if pcm.width == 3:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        triples = np.frombuffer(data, np.uint8).reshape(-1, 3)
        wide[:, 1:] = triples[:, ::-1] if pcm.big else triples
        return wide.reshape(-1).view("<i4").astype(np.float32) * np.float32(1 / (1 << 31))
    values = np.frombuffer(data, f"{order}i{pcm.width}")
    return values.astype(np.float32) * np.float32(1 / (1 << 8 * pcm.width - 1))


def _mulaw() -> Samples:
    code = ~np.arange(256, dtype=np.uint8)
    size = ((code & 15).astype(np.int32) * 8 + 132 << (code >> 4 & 7)) - 132
    return (np.where(code & 128, -size, size) / 32768).astype(np.float32)


def _alaw() -> Samples:
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, size = code >> 4 & 7, (code & 15).astype(np.int32) * 16 + 8
    size = np.where(exponent > 0, size + 256 << np.maximum(exponent, 1) - 1, size)
    return (np.where(code & 128, size, -size) / 32768).astype(np.float32)


_MULAW, _ALAW = _mulaw(), _alaw()


def _ffmpeg_command(location: Location, reason: str, options: list[str]) -> list[str]:
    """Return the command that opens a recording with ffmpeg; `reason` says why no other decoder can.

    Raises:
        Damaged: ffmpeg isn't installed.
    """
    executable = shutil.which("ffmpeg")
    if executable is None:
        raise Damaged(
            f"soundfile can't read it ({reason}) and ffmpeg, which reads m4a and more, "
            "is not installed: install ffmpeg, or convert the file to WAV or FLAC"
        )
    where = f"file:{location.file}"
    if not location.whole:
        where = f"subfile,,start,{location.begin},end,{location.end},,:{where}"
    # The whitelist keeps a playlist with an audio file's name from opening network connections.
    quiet = [executable, "-nostdin", "-hide_banner", "-protocol_whitelist", "file,subfile"]
    return [*quiet, *options, "-i", where]


def _limit_memory(process: int) -> None:
    """Limit a process to `FFMPEG_MEMORY` bytes, where the system supports that."""
    try:
        import resource

        resource.prlimit(process, resource.RLIMIT_AS, (FFMPEG_MEMORY, FFMPEG_MEMORY))
    except (ImportError, AttributeError, OSError, ValueError):
        pass
