"""Headers of AIFF, AU, CAF and NIST SPHERE files."""

import math
import re
import struct
from typing import BinaryIO

from speakerverif.audio.containers._bytes import MAX_CHUNKS, read_at, samples_there, uncompressed
from speakerverif.audio.streams import Coding, Damaged, Pcm, Stream, check_sound

# For each compression type of AIFF-C: coding, whether big-endian, bytes per sample (0: given in the header).
_AIFF: dict[bytes, tuple[Coding, bool, int]] = {
    b"NONE": ("int", True, 0),
    b"twos": ("int", True, 0),
    b"sowt": ("int", False, 0),
    b"raw ": ("unsigned", True, 1),
    b"in24": ("int", True, 3),
    b"in32": ("int", True, 4),
    b"fl32": ("float", True, 4),
    b"fl64": ("float", True, 8),
    b"ulaw": ("mulaw", True, 1),
    b"alaw": ("alaw", True, 1),
}
_AU: dict[int, tuple[Coding, int]] = {
    1: ("mulaw", 1),
    2: ("int", 1),
    3: ("int", 2),
    4: ("int", 3),
    5: ("int", 4),
    6: ("float", 4),
    7: ("float", 8),
    27: ("alaw", 1),
}
_SPHERE: dict[str, Coding] = {"pcm": "int", "ulaw": "mulaw", "mu-law": "mulaw", "alaw": "alaw"}
_CAF: dict[bytes, Coding] = {b"alaw": "alaw", b"ulaw": "mulaw"}
_SPHERE_HEADER = 1 << 16


def is_aiff(head: bytes) -> bool:
    """Return whether a file begins like an AIFF or AIFF-C file."""
    return head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")


def aiff(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of an AIFF file that begins at byte `begin`, and the end of the file.

    Raises:
        Damaged: what is wrong with its header; fewer samples than announced.
    """
    common, samples, at = b"", None, begin + 12
    end = begin + 8 + struct.unpack(">I", read_at(file, begin + 4, 4).rjust(4, b"\0"))[0]
    for _ in range(MAX_CHUNKS):
        head = read_at(file, at, 8)
        if len(head) < 8 or (common and samples):
            break
        name, length = struct.unpack(">4sI", head)
        if name == b"COMM":
            common = read_at(file, at + 8, min(length, 64))
        if name == b"SSND":
            offset = struct.unpack(">I", read_at(file, at + 8, 4).rjust(4, b"\0"))[0]
            samples = (at + 16 + offset, length - 8 - offset)
        at += 8 + length + length % 2
    if len(common) < 18 or samples is None:
        raise Damaged("cut off in its header: no samples follow")
    channels, frames, bits, exponent, mantissa = struct.unpack_from(">hIhHQ", common)
    # An 80-bit extended-precision number (Motorola 68881); beyond the range of a double it isn't a valid rate.
    rate = math.ldexp(mantissa, min(exponent, 0x4FFF) - 16383 - 63) if exponent < 0x4100 else math.inf
    check_sound(rate, channels)
    kind = common[18:22] if len(common) >= 22 else b"NONE"
    kind = kind if kind in _AIFF else kind.lower()
    if kind not in _AIFF:
        announced = samples[1] if samples[1] > 0 else None
        samples_there(announced, size - samples[0])
        return Stream("AIFF", begin, size, "libsndfile"), size
    coding, big, width = _AIFF[kind]
    width = width or -(-bits // 8)
    if not 1 <= width <= 8 or (coding == "int" and width > 4):
        raise Damaged(f"its header announces samples of {bits} bits")
    pcm = Pcm(coding, width, big, channels, round(rate))
    announced = frames * pcm.frame_bytes if frames else max(0, samples[1]) or None
    stream = uncompressed("AIFF", pcm, samples[0], announced, size)
    return stream, min(size, end) if end >= stream.end else size


def is_au(head: bytes) -> bool:
    """Return whether a file begins like an AU file, of either byte order."""
    return head[:4] in (b".snd", b"dns.")


def au(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of an AU file that begins at byte `begin`, and the end of the file; as `aiff`."""
    head = read_at(file, begin, 24)
    big = head[:4] == b".snd"
    if len(head) < 24:
        raise Damaged("cut off in its header: no samples follow")
    offset, length, encoding, rate, channels = struct.unpack((">" if big else "<") + "4x5I", head)
    check_sound(rate, channels)
    at, announced = begin + offset, None if length in (0, 0xFFFFFFFF) else length
    if encoding not in _AU:
        return Stream("AU", begin, size, "libsndfile"), size
    coding, width = _AU[encoding]
    pcm = Pcm(coding, width, big, channels, rate)
    stream = uncompressed("AU", pcm, at, announced, size)
    return stream, stream.end


def is_caf(head: bytes) -> bool:
    """Return whether a file begins like an Apple Core Audio file."""
    return head[:6] == b"caff\0\1"


def caf(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of a Core Audio file that begins at byte `begin`, and the end of the file; as `aiff`."""
    at, description = begin + 8, b""
    for _ in range(MAX_CHUNKS):
        head = read_at(file, at, 12)
        if len(head) < 12:
            raise Damaged("cut off in its header: no samples follow")
        name, length = struct.unpack(">4sq", head)
        at += 12
        if name == b"desc":
            description = read_at(file, at, 32)
        if name == b"data":
            break
        if length < 0:
            raise Damaged(f"its {name.decode('latin-1')!r} chunk has {length} bytes")
        at += length
    else:
        raise Damaged(f"no samples within its first {MAX_CHUNKS} chunks")
    if len(description) < 32:
        raise Damaged("its header doesn't say how its samples are stored (no 'desc' chunk)")
    rate, kind, flags, packet, _, channels = struct.unpack(">d4sIIII", description[:28])
    check_sound(rate if math.isfinite(rate) else math.inf, channels)
    announced = None if length <= 4 else length - 4
    if kind not in (b"lpcm", b"alaw", b"ulaw"):
        end = at + 4 + samples_there(announced, size - at - 4)
        end = _caf_end(file, end, size)
        return Stream("CAF", begin, end, "libsndfile" if kind == b"alac" else "ffmpeg"), end
    coding = _CAF.get(kind, "float" if flags & 1 else "int")
    width, rest = divmod(packet, channels)
    if rest or width not in ((4, 8) if coding == "float" else (1, 2, 3, 4)):
        raise Damaged(f"its header announces {packet} bytes for a sample of each of {channels} channels")
    pcm = Pcm(coding, width, not flags & 2, channels, round(rate))
    stream = uncompressed("CAF", pcm, at + 4, announced, size)
    return stream, _caf_end(file, stream.end, size)


def _caf_end(file: BinaryIO, at: int, size: int) -> int:
    """Return the end of the chunks after the samples of a CAF file."""
    for _ in range(MAX_CHUNKS):
        head = read_at(file, at, 12)
        if len(head) < 12 or is_caf(head):
            return at
        name, length = struct.unpack(">4sq", head)
        if not (name.isascii() and name.decode("ascii").isprintable() and 0 <= length <= size - at - 12):
            return at
        at += 12 + length
    return at


def is_sphere(head: bytes) -> bool:
    """Return whether a file begins like a NIST SPHERE file."""
    return head[:8] == b"NIST_1A\n"


def sphere(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of a NIST SPHERE file that begins at byte `begin`, and the end of the file; as `aiff`."""
    try:
        length = int(read_at(file, begin + 8, 8))
    except ValueError:
        raise Damaged("its header doesn't say how long it is") from None
    text = read_at(file, begin, min(max(length, 0), _SPHERE_HEADER)).decode("latin-1")
    fields = dict(re.findall(r"^(\w+) -(?:i|r|s\d+) (\S+)", text, re.MULTILINE))
    try:
        channels, rate = int(fields["channel_count"]), int(float(fields["sample_rate"]))
        count = int(fields["sample_count"]) if "sample_count" in fields else None
        width = int(fields["sample_n_bytes"])
    except (KeyError, ValueError, OverflowError):
        raise Damaged("its header lacks channel_count, sample_rate or sample_n_bytes") from None
    check_sound(rate, channels)
    kind = fields.get("sample_coding", "pcm")
    coding = _SPHERE.get(kind)
    if coding is None:
        # Such as "pcm,embedded-shorten", which ffmpeg reads.
        return Stream("SPHERE", begin, size, "ffmpeg"), size
    if width not in ((1, 2, 3, 4) if coding == "int" else (1,)):
        raise Damaged(f"its header announces samples of {width} bytes")
    pcm = Pcm(coding, width, fields.get("sample_byte_format", "01").startswith("1"), channels, rate)
    announced = None if count is None else count * pcm.frame_bytes
    stream = uncompressed("SPHERE", pcm, begin + length, announced, size)
    return stream, stream.end
