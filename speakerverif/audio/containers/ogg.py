"""Pages of Ogg files: Vorbis, Opus, FLAC and Speex, and chains of several streams.

Source: RFC 3533 (pages), RFC 7845 (Opus), RFC 5334 (codecs).
"""

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from speakerverif.audio.containers._bytes import read_at
from speakerverif.audio.streams import Damaged, Stream, check_sound

_HEADER = struct.Struct("<4sBBqIIIB")
_FIRST = 2  # flag of a stream's first page
# Greatest number of samples per packet: Opus 120 ms at 48 kHz, Vorbis half of its longest block.
_MOST_SAMPLES = {"Ogg Opus": 5_760, "Ogg Vorbis": 4_096, "Ogg FLAC": 65_535, "Ogg Speex": 6_400}
# Number of packets before the first samples.
_HEADER_PACKETS = {"Ogg Opus": 2, "Ogg Vorbis": 3, "Ogg FLAC": 2, "Ogg Speex": 2}


@dataclass
class _Link:
    """One stream of a chain, as far as it has been read."""

    begin: int
    codecs: list[str]
    end: int = 0
    packets: int = 0
    last_position: int = -1
    position: int = -1
    sequence: dict[int, int] = field(default_factory=dict)


def is_ogg(head: bytes) -> bool:
    """Return whether a file begins like an Ogg file."""
    return head[:4] == b"OggS"


def ogg(file: BinaryIO, begin: int, size: int) -> tuple[list[Stream], int]:
    """Return the streams of an Ogg file that begins at byte `begin`, and the end of its last page.

    Raises:
        Damaged: a truncated page, missing pages; no samples after the headers; a length that the packets can't
            contain.
    """
    links: list[_Link] = []
    at = begin
    while at + _HEADER.size <= size:
        head = read_at(file, at, _HEADER.size + 255)
        magic, _, flags, position, serial, number, _, segments = _HEADER.unpack_from(head)
        if magic != b"OggS":
            break
        sizes = head[_HEADER.size : _HEADER.size + segments]
        length = _HEADER.size + segments + sum(sizes)
        if len(sizes) < segments or at + length > size:
            raise Damaged("cut off: its last Ogg page is not whole")
        if flags & _FIRST:
            codec = _codec(read_at(file, at + _HEADER.size + segments, min(sum(sizes), 64)))
            # In each link of a chain, the first pages of all streams come before other pages.
            if not links or links[-1].packets > len(links[-1].codecs):
                links.append(_Link(at, []))
            links[-1].codecs.append(codec)
            links[-1].sequence[serial] = number
        elif not links or serial not in links[-1].sequence:
            raise Damaged(f"the Ogg page at byte {at} belongs to no stream")
        elif number != links[-1].sequence[serial] + 1 & 0xFFFFFFFF:
            raise Damaged(
                f"damaged: Ogg pages are missing between {links[-1].sequence[serial]} and {number} "
                f"at byte {at}"
            )
        link = links[-1]
        link.sequence[serial] = number
        link.packets += sum(size < 255 for size in sizes)
        if position != -1:
            link.last_position, link.position = link.position, position
        at += length
        link.end = at
    else:
        if at < size:
            raise Damaged("cut off: its last Ogg page is not whole")
    return [_stream(link) for link in links], at


def _stream(link: _Link) -> Stream:
    """Return the stream of a link.

    Raises:
        Damaged: the granule position of its last page is impossible.
    """
    if len(link.codecs) != 1 or link.codecs[0] not in _MOST_SAMPLES:
        return Stream("Ogg", link.begin, link.end, "ffmpeg")
    codec = link.codecs[0]
    packets = link.packets - _HEADER_PACKETS[codec]
    most = max(0, packets) * _MOST_SAMPLES[codec]
    if packets > 0 and (link.position <= 0 or link.position < link.last_position):
        raise Damaged(
            f"damaged: its last Ogg page says that it ends at sample {link.position}, but {packets} packets of "
            "sound come before"
        )
    return Stream(codec, link.begin, link.end, "libsndfile", bounds=(0, most))


def _codec(packet: bytes) -> str:
    """Return the name of the codec of a first packet.

    Raises:
        Damaged: it announces a rate or a number of channels beyond the limits.
    """
    if packet[:7] == b"\x01vorbis" and len(packet) >= 16:
        check_sound(struct.unpack_from("<I", packet, 12)[0], packet[11])
        return "Ogg Vorbis"
    if packet[:8] == b"OpusHead" and len(packet) >= 19:
        check_sound(48_000, packet[9])
        return "Ogg Opus"
    if packet[:5] == b"\x7fFLAC":
        return "Ogg FLAC"
    if packet[:8] == b"Speex   " and len(packet) >= 56:
        check_sound(struct.unpack_from("<I", packet, 36)[0], struct.unpack_from("<I", packet, 48)[0])
        return "Ogg Speex"
    return "other"
