"""Functions shared by all header parsers: reading a few bytes, and checking that the announced samples are there."""

from typing import BinaryIO

from speakerverif.audio.streams import Damaged, Pcm, Stream, check_sound

# Greatest number of chunks before the samples; parsing stops there.
MAX_CHUNKS = 4_096


def read_at(file: BinaryIO, at: int, count: int) -> bytes:
    """Return the bytes at a position, fewer at the end of the file."""
    # Damaged headers can give any position.
    if not 0 <= at < 1 << 63:
        return b""
    file.seek(at)
    return file.read(count)


def is_placeholder(size: int) -> bool:
    """Return whether a size is a placeholder for an unknown one, as written by programs that write to a pipe.

    Placeholders are numbers within 64 KiB of a power of two from 2^30 on, multiples of 10^9, and 64 bits all set.
    """
    near = any(abs(size - (1 << bits)) <= 1 << 16 for bits in (30, 31, 32))
    return near or size >= 1 << 62 or (size > 0 and size % 1_000_000_000 == 0)


def samples_there(announced: int | None, there: int) -> int:
    """Return the number of bytes of samples in a file.

    Args:
        announced: number in its header; None where there is none.
        there: bytes from the first sample to the end of the file.

    Raises:
        Damaged: the file has fewer than the header announces.
    """
    if announced is None or (announced > there and is_placeholder(announced)):
        return there
    if announced < 0:
        raise Damaged(f"its header announces {announced} bytes of samples")
    if announced > there:
        raise Damaged(f"cut off: its header announces {announced} bytes of samples, {there} are there")
    return announced


def uncompressed(container: str, pcm: Pcm, begin: int, announced: int | None, size: int) -> Stream:
    """Return the stream of uncompressed samples that begin at byte `begin` of a file of `size` bytes.

    Raises:
        Damaged: a rate or number of channels beyond the limits; fewer samples than announced.
    """
    check_sound(pcm.sample_rate, pcm.channels)
    there = max(0, size - begin)
    length = samples_there(announced, there)
    frames = length // pcm.frame_bytes
    return Stream(container, begin, begin + length, "numpy", pcm, frames)
