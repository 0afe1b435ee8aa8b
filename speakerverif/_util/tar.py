"""Files inside uncompressed archives, read in place: tar archives, and Kaldi archives of WAV files.

A file in a tar archive is named `archive.tar:offset:length`, both in bytes; one in a Kaldi archive
`archive.ark:offset`, as in a `wav.scp`, or `archive.ark:offset:length`. No index of the archive is needed.
"""

import io
import re
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from speakerverif.errors import InputError

_PART = re.compile(r"(.+\.(?:tar|ark)):(\d{1,18}):(\d{1,18})|(.+\.ark):(\d{1,18})", re.DOTALL)
# Sizes in headers written before the length was known.
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)


class Part(NamedTuple):
    """A range of bytes in an archive."""

    archive: str
    offset: int  # bytes
    length: int  # bytes

    def __str__(self) -> str:
        return f"{self.archive}:{self.offset}:{self.length}"

    def open(self) -> io.BytesIO:
        """Return the part's bytes as an open file.

        Raises:
            InputError: the archive is missing, or ends before the part does.
        """
        try:
            with open(self.archive, "rb") as file:
                size = file.seek(0, io.SEEK_END)
                there = max(0, min(self.length, size - self.offset))
                if there < self.length:
                    raise InputError(f"{self}: cut off: {there} of {self.length} bytes are there")
                file.seek(self.offset)
                return io.BytesIO(file.read(self.length))
        except OSError as error:
            raise InputError(f"{self}: {error.strerror}") from error


def archive_of(path: str | Path) -> str | None:
    """Return the archive of a path that names a part of one; None for the path of a plain file."""
    match = _PART.fullmatch(str(path))
    return (match[1] or match[4]) if match else None


def part_of(path: str | Path) -> Part | None:
    """Return the part of an archive that a path names; None for the path of a plain file.

    Raises:
        InputError: the path names a part of a Kaldi archive by its offset alone, and no WAV file begins there.
    """
    match = _PART.fullmatch(str(path))
    if match is None:
        return None
    if match[1]:
        return Part(match[1], int(match[2]), int(match[3]))
    return _wav_at(match[4], int(match[5]))


def _wav_at(archive: str, offset: int) -> Part:
    """Return the part with the WAV file that begins at an offset."""
    where = f"{archive}:{offset}"
    head = Part(archive, offset, 12).open().read()
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise InputError(f"{where}: no WAV file begins there, found {head!r}")
    size = struct.unpack("<I", head[4:8])[0]
    if size in _UNKNOWN_SIZES:
        raise InputError(
            f"{where}: the WAV file there doesn't state its length; expected files of known length"
        )
    return Part(archive, offset, size + 8)


def members(path: str | Path) -> Iterator[tuple[str, Part]]:
    """Yield name and part of every file in a tar archive, in its order.

    Raises:
        InputError: no such file, not a tar archive, a compressed or truncated one.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            size = Path(path).stat().st_size
            for member in archive:
                if member.isfile():
                    if not 0 <= member.size <= size - member.offset_data:
                        raise InputError(f"{path}: cut off within {member.name}")
                    yield member.name, Part(str(path), member.offset_data, member.size)
            # tarfile takes a truncated header for the end; a complete archive ends with empty blocks.
            if Part(str(path), archive.offset, tarfile.BLOCKSIZE).open().read().strip(b"\0"):
                raise InputError(f"{path}: damaged: no end mark where its last file ends")
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged, or not an uncompressed tar archive: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
