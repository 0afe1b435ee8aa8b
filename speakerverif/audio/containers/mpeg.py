"""Frames of MP3 files and of bare AAC (ADTS) and AMR streams, and the tags around them.

Each frame contains its length, so all frames can be counted without decoding.

Source: ISO/IEC 11172-3 2.4.1.3 and 13818-3 (MPEG audio), 14496-3 1.A.2 (ADTS), RFC 4867 section 5 (AMR).
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from speakerverif.audio.containers._bytes import read_at
from speakerverif.audio.streams import Damaged, Stream

_BLOCK = 1 << 16
# kbit/s by (MPEG 1, layer): index 1 in the header is the first entry here.
_KBPS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBPS[False, 3] = _KBPS[False, 2]
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# Greatest number of bytes between frames that decoders skip: padding, and tags in the middle of joined files.
MAX_JUNK = 1 << 14
# Greatest number of samples that a decoder trims at both ends: its own delay, and the values of the LAME tag.
_MAX_TRIM = 529 + 2 * 4095
_AMR = {
    b"#!AMR\n": (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1),
    b"#!AMR-WB\n": (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1),
}


@dataclass(frozen=True, slots=True)
class _Frame:
    """The header of an MPEG audio frame."""

    key: tuple[int, int, int, bool]  # version, layer, rate, mono: the same throughout a stream
    length: int
    samples: int


def after_tags(file: BinaryIO, begin: int, size: int) -> int:
    """Return the end of the ID3 tags at the beginning of a file."""
    while (head := read_at(file, begin, 10))[:3] == b"ID3" and len(head) == 10:
        length = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(reversed(head[6:10])))
        begin += 10 + length + (10 if head[5] & 0x10 else 0)
        if begin >= size:
            raise Damaged("cut off: its ID3 tag is not whole")
    return begin


def before_tags(file: BinaryIO, size: int) -> int:
    """Return the beginning of the ID3v1 and APE tags at the end of a file, or else its end."""
    while True:
        if size >= 128 and read_at(file, size - 128, 3) == b"TAG":
            size -= 128
            continue
        tail = read_at(file, size - 32, 32) if size >= 32 else b""
        if tail[:8] != b"APETAGEX":
            return size
        length, _, flags = struct.unpack_from("<III", tail, 12)
        whole = length + (32 if flags >> 31 else 0)
        if not 32 <= whole <= size:
            return size
        size -= whole


def is_mp3(file: BinaryIO, begin: int, size: int) -> bool:
    """Return whether two frames of MPEG audio begin at byte `begin`, or anywhere after an ID3 tag there."""
    if read_at(file, begin, 3) != b"ID3" and _frame(read_at(file, begin, 4), 0) is None:
        return False
    first = _next_frame(file, begin, size)
    return first == begin or (first > 0 and read_at(file, begin, 3) == b"ID3")


def is_sync(head: bytes) -> bool:
    """Return whether a file begins with the synchronisation bits of an MPEG audio frame of any bit rate."""
    return len(head) >= 2 and head[0] == 0xFF and head[1] >= 0xE0 and head[1] & 0x18 != 8 and head[1] & 6 != 0


def mp3(file: BinaryIO, begin: int, size: int) -> tuple[list[Stream], int]:
    """Return the streams of an MP3 file that begins at byte `begin`, and its end.

    A stream ends where another that announces its length begins (joined files), or with the last frame. A stream
    without a length gets a Xing header with its number of frames: decoders would guess that number, and stop there.

    Raises:
        Damaged: fewer frames than announced; a truncated last frame; something else between frames.
    """
    at, end = after_tags(file, begin, size), before_tags(file, size)
    streams: list[_Mp3] = []
    data, base = b"", at
    while at < end - 3:
        if at + 256 > base + len(data):
            data, base = read_at(file, at, min(_BLOCK, end - at)), at
        frame = _frame(data, at - base)
        if frame is None or (streams and frame.key != streams[-1].first.key):
            following = _next_frame(file, at, end)
            if following != at:
                if following < 0 or (streams and not _is_padding(read_at(file, at, following - at))):
                    break
                at = following
                continue
            assert frame is not None
        if at + frame.length > end:
            break
        announced = _announced(data[at - base : at - base + min(frame.length, 200)], frame)
        last = streams[-1] if streams else None
        if last is None or announced is not None or last.full or last.first.key != frame.key:
            last = _Mp3(frame, at, announced)
            streams.append(last)
        last.frames += announced is None
        at += frame.length
        last.end = at
    if not streams:
        raise Damaged("holds no MP3 frames")
    rest = read_at(file, at, min(end - at, MAX_JUNK))
    if not streams[-1].full and _frame(rest, 0):
        raise Damaged("cut off: its last MP3 frame is not whole")
    if at + len(rest) < end or not (streams[-1].full or _is_padding(rest)):
        raise Damaged(f"damaged: no MP3 frame at byte {at}")
    return [stream.stream(file) for stream in streams], size


@dataclass
class _Mp3:
    """One stream of MP3 frames, as far as it has been read."""

    first: _Frame
    begin: int
    announced: int | None
    frames: int = 0
    end: int = 0

    @property
    def full(self) -> bool:
        """Whether all announced frames have been read."""
        return bool(self.announced) and self.frames == self.announced

    def stream(self, file: BinaryIO) -> Stream:
        """Return the finished stream.

        Raises:
            Damaged: it has fewer frames than announced, or none.
        """
        if self.announced and self.frames < self.announced:
            raise Damaged(
                f"damaged or cut off: its header announces {self.announced} MP3 frames, {self.frames} are there"
            )
        if not self.frames:
            raise Damaged("holds no samples")
        prefix = b"" if self.announced else _xing(read_at(file, self.begin, 4), self.frames)
        # A header that announces no length is left out: the decoder would read it instead of the one added here.
        begin = self.begin + (self.first.length if self.announced == 0 else 0)
        most = self.frames * self.first.samples
        return Stream("MP3", begin, self.end, "libsndfile", prefix=prefix, bounds=(most - _MAX_TRIM, most))


def _frame(data: bytes, at: int) -> _Frame | None:
    """Return the frame whose header is at a position, or None where there is none."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    index, rate_index = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer == 4 or not 0 < index < 15 or rate_index == 3:
        return None
    rate, kbps = _RATES[version][rate_index], _KBPS[version == 3, layer][index - 1]
    padding = data[at + 2] >> 1 & 1
    if layer == 1:
        length, samples = (12_000 * kbps // rate + padding) * 4, 384
    else:
        samples = 576 if layer == 3 and version != 3 else 1152
        length = samples // 8 * 1000 * kbps // rate + padding
    return _Frame((version, layer, rate, data[at + 3] >> 6 == 3), length, samples)


def _next_frame(file: BinaryIO, at: int, end: int) -> int:
    """Return the position of the next two consecutive frames, or -1 if none begin within `MAX_JUNK` bytes."""
    begin = after_tags(file, at, end)
    data = read_at(file, begin, MAX_JUNK + 8192)
    for i in range(min(MAX_JUNK, len(data) - 4)):
        first = _frame(data, i) if data[i] == 0xFF else None
        if first is None:
            continue
        following = _frame(data, i + first.length)
        if (following and following.key == first.key) or begin + i + first.length == end:
            return begin + i
    return -1


def _is_padding(data: bytes) -> bool:
    """Return whether the bytes between two frames are only zeros, or a tag."""
    return not data.strip(b"\0") or data[:3] in (b"ID3", b"TAG") or data[:8] == b"APETAGEX"


def _offset(head: bytes) -> int:
    """Return the offset of a Xing header in a frame: after the side information."""
    mono, mpeg1 = head[3] >> 6 == 3, head[1] >> 3 & 3 == 3
    return 4 + ((17 if mono else 32) if mpeg1 else (9 if mono else 17))


def _announced(data: bytes, frame: _Frame) -> int | None:
    """Return the number of frames in a Xing, Info or VBRI header; 0: it has none; None: not such a header."""
    if frame.key[1] != 3:
        return None
    at = _offset(data)
    if data[at : at + 4] in (b"Xing", b"Info") and len(data) >= at + 12:
        flags, frames = struct.unpack_from(">II", data, at + 4)
        return int(frames) if flags & 1 else 0
    if data[36:40] == b"VBRI" and len(data) >= 54:
        return int(struct.unpack_from(">I", data, 50)[0])
    return None


def _xing(head: bytes, frames: int) -> bytes:
    """Return a frame with a Xing header that announces `frames`, for a stream that begins with `head`."""
    # No checksum, and a bit rate whose frames are long enough for the header.
    head = bytes([head[0], head[1] | 1, 0x80 | head[2] & 0x0D, head[3]])
    frame = _frame(head, 0)
    if frame is None or frame.key[1] != 3:
        return b""
    body = bytearray(frame.length)
    body[:4] = head
    struct.pack_into(">4sII", body, _offset(head), b"Xing", 1, frames)
    return bytes(body)


def is_adts(head: bytes) -> bool:
    """Return whether a file (after its tags) begins with an ADTS frame of a bare AAC stream."""
    return len(head) >= 7 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def adts(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of an ADTS file that begins at byte `begin`, and its end.

    Raises:
        Damaged: a truncated last frame; something else between frames.
    """
    at, end = after_tags(file, begin, size), before_tags(file, size)
    while at < end:
        head = read_at(file, at, 7)
        if not is_adts(head):
            if not read_at(file, at, MAX_JUNK).strip(b"\0") and end - at < MAX_JUNK:
                break
            raise Damaged(
                "cut off: its last AAC frame is not whole"
                if end - at < 7
                else f"damaged: no AAC frame at byte {at}"
            )
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if length < 7:
            raise Damaged(f"damaged: an AAC frame of {length} bytes at byte {at}")
        at += length
    if at > end:
        raise Damaged("cut off: its last AAC frame is not whole")
    return Stream("AAC", begin, size, "ffmpeg"), size


def is_amr(head: bytes) -> bool:
    """Return whether a file begins like an AMR file, narrow or wide band."""
    return head.startswith(tuple(_AMR))


def amr(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of an AMR file that begins at byte `begin`, and its end.

    Raises:
        Damaged: a truncated last frame.
    """
    magic = next(magic for magic in _AMR if read_at(file, begin, 9).startswith(magic))
    lengths, at = _AMR[magic], begin + len(magic)
    while at < size:
        block = read_at(file, at, _BLOCK)
        place = 0
        while place < len(block):
            place += lengths[block[place] >> 3 & 15]
        at += place
    if at > size:
        raise Damaged("cut off: its last AMR frame is not whole")
    return Stream("AMR", begin, size, "ffmpeg"), size
