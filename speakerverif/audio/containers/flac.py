"""Headers of FLAC files.

Source: RFC 9639, section 8.2 (STREAMINFO).
"""

import struct
from typing import BinaryIO

from speakerverif.audio.containers._bytes import read_at
from speakerverif.audio.containers.mpeg import after_tags, before_tags
from speakerverif.audio.streams import Damaged, Stream, check_sound

_HEAD = 26  # bytes: the magic number, the header of STREAMINFO, and STREAMINFO without its checksum
_TOTAL = (1 << 36) - 1


def is_flac(head: bytes) -> bool:
    """Return whether a file begins like a FLAC file."""
    return head[:4] == b"fLaC"


def flac(file: BinaryIO, begin: int, size: int) -> tuple[Stream, int]:
    """Return the stream of a FLAC file that begins at byte `begin`, and the end of the file.

    The announced number of samples is removed from the header that the decoder gets, so that it decodes all samples
    that are there.

    Raises:
        Damaged: what is wrong with its header.
    """
    at = after_tags(file, begin, size)
    head = read_at(file, at, _HEAD)
    if len(head) < _HEAD or head[4] & 0x7F != 0:
        raise Damaged("cut off in its header: no samples follow")
    packed = struct.unpack_from(">Q", head, 18)[0]
    check_sound(packed >> 44, (packed >> 41 & 7) + 1)
    unknown = head[:18] + struct.pack(">Q", packed & ~_TOTAL)
    return Stream(
        "FLAC",
        at + _HEAD,
        before_tags(file, size),
        "libsndfile",
        frames=packed & _TOTAL or None,
        prefix=unknown,
    ), size
