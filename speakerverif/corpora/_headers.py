"""How long a recording is, from a few bytes of its file: what a million files can afford.

WAV and MP4 are read here with four system calls a file; whatever is unusual about a file goes through `audio.info`.
"""

import os
import struct
from collections.abc import Iterator

from speakerverif.audio import reading
from speakerverif.errors import InputError

HEAD_BYTES = 4096  # enough for the chunks that stand before the samples, in nearly all files
_PCM = {1, 3, 6, 7, 0xFFFE}  # format tags in which a block of samples has a fixed size
_UNKNOWN_SIZE = 0x7FFF0000  # programs that write to a pipe announce sizes above this


def duration_s(path: str) -> float:
    """Return the seconds of audio that a file's header announces.

    For MP4 that is the movie header's duration, in milliseconds: what is heard, without the encoder's delay that
    the track's own duration counts in (1,024 samples for AAC). Older ffmpeg decodes the last frame's padding too, up
    to 0.064 s at 16 kHz, so never less than this comes out.

    Raises:
        InputError: missing, empty, cut off, without samples, or not audio; the message begins with that reason.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise InputError("missing: no such file, or a link to nowhere") from None
    except OSError as error:
        raise InputError(f"unreadable: {error.strerror}") from error
    try:
        size = os.fstat(file).st_size
        if size == 0:
            raise InputError("empty: 0 bytes")
        head = os.read(file, HEAD_BYTES)
        seconds = _mp4(file, size) if head[4:8] == b"ftyp" else _wav(head, size)
    except OSError as error:
        raise InputError(f"unreadable: {error.strerror}") from error
    finally:
        os.close(file)
    if seconds is None:
        try:
            seconds = reading.info(path).duration_s
        except InputError as error:
            raise InputError(f"broken: {str(error).removeprefix(f'{path}: ')}") from error
    if seconds <= 0:
        raise InputError("empty: no samples")
    return seconds


def _wav(head: bytes, size: int) -> float | None:
    """Return the seconds of a RIFF WAV file that begins with `head`, or None where that doesn't tell."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    at, bytes_per_s = 12, 0
    while at + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, at)
        at += 8
        if name == b"fmt " and at + 16 <= len(head):
            tag, _, rate, _, block = struct.unpack_from("<HHIIH", head, at)
            bytes_per_s = rate * block if tag in _PCM else 0
        elif name == b"data":
            there = size - at
            if not bytes_per_s or (length == 0 and there > 0):
                return None
            if there < length < _UNKNOWN_SIZE:
                raise InputError(
                    f"cut off: its header announces {length} bytes of samples, {there} are there"
                )
            return min(length, there) / bytes_per_s
        at += length + length % 2
    return None


def _mp4(file: int, size: int) -> float:
    """Return the seconds that the movie header of an open MP4 file announces."""
    for name, begin, end in _boxes(file, 0, size):
        if name != b"moov":
            continue
        for inner, start, stop in _boxes(file, begin, end):
            if inner == b"mvhd":
                head = os.pread(file, min(stop - start, 32), start)
                form, skipped = (">IQ", 20) if head[0] else (">II", 12)
                scale, duration = struct.unpack_from(form, head, skipped)
                if scale:
                    return duration / scale
    raise InputError("broken: an MP4 file without a movie header; was it cut off?")


def _boxes(file: int, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, begin and end of the contents of every MP4 box between two places of a file."""
    while at + 8 <= end:
        head = os.pread(file, 16, at)
        length, name = struct.unpack_from(">I4s", head)
        skipped = 8
        if length == 1 and len(head) == 16:
            length, skipped = struct.unpack_from(">Q", head, 8)[0], 16
        length = length or end - at  # 0: to the end
        if length < skipped or at + length > end:
            raise InputError(f"cut off: its {name.decode('latin-1')} box is not whole")
        yield name, at + skipped, at + length
        at += length
