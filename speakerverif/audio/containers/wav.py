"""Headers of WAV files: RIFF and RIFX, RF64 and BW64 (64-bit sizes), and Sony Wave64."""

import struct
from typing import BinaryIO

from speakerverif.audio.containers._bytes import (
    MAX_CHUNKS,
    is_placeholder,
    read_at,
    samples_there,
    uncompressed,
)
from speakerverif.audio.streams import Coding, Damaged, Decoder, Pcm, Stream, check_sound

_CODINGS: dict[int, Coding] = {1: "int", 3: "float", 6: "alaw", 7: "mulaw"}
_EXTENSIBLE = 0xFFFE
# Format tags that libsndfile decodes: Microsoft ADPCM, IMA ADPCM, GSM 06.10.
_LIBSNDFILE = (0x02, 0x11, 0x31)
# Chunks before the samples that may follow one of odd length at once, without the byte that pads it.
_UNPADDED = (b"fmt ", b"data", b"fact", b"LIST", b"bext", b"JUNK", b"cue ", b"smpl", b"PEAK")
_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"BW64")


def is_wav(head: bytes) -> bool:
    """Return whether a file begins like a WAV file."""
    return head[:4] in _MAGIC and head[8:12] == b"WAVE"


def is_wave64(head: bytes) -> bool:
    """Return whether a file begins like a Sony Wave64 file."""
    return head[:12] == b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"


def wav(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of a WAV file that begins at byte `begin`, and the end of the file.

    A size of 0, left by a recorder that was killed, and the placeholders of programs that write to a pipe mean the
    rest of the file; sizes that wrapped around at 4 GiB are corrected.

    Raises:
        Damaged: what is wrong with its header; fewer samples than announced.
    """
    magic = read_at(file, begin, 4)
    order = ">" if magic == b"RIFX" else "<"
    at, form, wide = begin + 12, b"", 0
    for _ in range(MAX_CHUNKS):
        head = read_at(file, at, 8)
        if len(head) < 8:
            raise Damaged("cut off in its header: no samples follow")
        name, length = struct.unpack(order + "4sI", head)
        at += 8
        if name == b"ds64":
            wide = struct.unpack("<8xQ", read_at(file, at, 16).ljust(16, b"\0"))[0]
        elif name == b"fmt ":
            form = read_at(file, at, min(length, 40))
        elif name == b"data":
            break
        at += length
        # Some programs leave out the byte that makes the length even.
        if length % 2 and read_at(file, at, 4) not in _UNPADDED:
            at += 1
    else:
        raise Damaged(f"no samples within its first {MAX_CHUNKS} chunks")
    there = max(0, size - at)
    announced: int | None = length
    if magic in (b"RF64", b"BW64") and length == 0xFFFFFFFF:
        announced = wide
    elif length < there:
        announced = length + (there - length >> 32 << 32)
    if announced == 0 and there and not chunks_to_end(file, at, size, order):
        announced = None
    stream = _stream(
        "RF64" if magic in (b"RF64", b"BW64") else "WAV", form, order, begin, at, announced, size
    )
    end = at + stream.frames * stream.pcm.frame_bytes if stream.pcm and stream.frames else stream.end
    if announced is not None and announced <= there:
        end = at + announced
    ends = (chunks_to_end(file, first, size, order) for first in (end + (end - at) % 2, end))
    return stream, next(filter(None, ends), end)


def wave64(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of a Sony Wave64 file that begins at byte `begin`, and the end of the file; as `wav`."""
    at, form = begin + 40, b""
    for _ in range(MAX_CHUNKS):
        head = read_at(file, at, 24)
        if len(head) < 24:
            raise Damaged("cut off in its header: no samples follow")
        name, length = struct.unpack("<4s12xQ", head)
        if name == b"data":
            break
        if name == b"fmt ":
            form = read_at(file, at + 24, min(length, 40))
        at += max(24, length + -length % 8)
    else:
        raise Damaged(f"no samples within its first {MAX_CHUNKS} chunks")
    announced = None if length <= 24 < size - at else length - 24
    stream = _stream("W64", form, "<", begin, at + 24, announced, size)
    whole = struct.unpack("<Q", read_at(file, begin + 16, 8))[0]
    return stream, begin + whole if stream.end <= begin + whole <= size else stream.end


def chunks_to_end(file: BinaryIO, at: int, size: int, order: str) -> int:
    """Return the end of the chunks that begin at `at`; 0 unless they end at the file's end or at a WAV header."""
    for _ in range(MAX_CHUNKS):
        head = read_at(file, at, 12)
        if at >= size or is_wav(head):
            return min(at, size)
        if head[:4] == b"data":
            raise Damaged("holds a second block of samples ('data' chunk) behind the first; split it")
        if len(head) < 8 or not head[:4].isascii() or not head[:4].decode("ascii").isprintable():
            return 0
        length = struct.unpack(order + "I", head[4:8])[0]
        at += 8 + length + length % 2
        if at > size + 1:
            return 0
    return 0


def _stream(
    container: str, form: bytes, order: str, begin: int, at: int, announced: int | None, size: int
) -> Stream:
    """Return the stream of samples that begin at `at`, stored as a `fmt ` chunk says."""
    if len(form) < 16:
        raise Damaged("its header doesn't say how its samples are stored (no 'fmt ' chunk)")
    tag, channels, rate, block, bits = struct.unpack_from(order + "HHI4xHH", form)
    if tag == _EXTENSIBLE and len(form) >= 26:
        tag = struct.unpack_from(order + "H", form, 24)[0]
    check_sound(rate, channels)
    coding = _CODINGS.get(tag)
    if coding is None:
        decoder: Decoder = "libsndfile" if tag in _LIBSNDFILE and announced is not None else "ffmpeg"
        length = samples_there(announced, size - at)
        if announced is not None and is_placeholder(announced):
            decoder = "ffmpeg"
        return Stream(container, begin, at + length, decoder)
    width, rest = divmod(block, channels)
    allowed = {"int": (1, 2, 3, 4), "float": (4, 8)}.get(coding, (1,))
    if rest or width not in allowed or bits > 8 * width:
        raise Damaged(
            f"its header announces {block} bytes for a sample of {bits} bits of each of {channels} channels"
        )
    if coding == "int" and width == 1:
        coding = "unsigned"
    pcm = Pcm(coding, width, order == ">", channels, rate)
    return uncompressed(container, pcm, at, announced, size)
