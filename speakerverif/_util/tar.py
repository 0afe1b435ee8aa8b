"""Files inside uncompressed tar archives, read where they lie.

Such a file is named `archive.tar:offset:length`, both in bytes: whoever reads it needs no index of the archive.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from speakerverif.errors import InputError

_PART = re.compile(r"(.+\.tar):(\d+):(\d+)")


class Part(NamedTuple):
    """A stretch of an archive."""

    archive: str
    offset: int  # bytes
    length: int  # bytes

    def __str__(self) -> str:
        return f"{self.archive}:{self.offset}:{self.length}"

    def open(self) -> io.BytesIO:
        """Return the part's bytes as an open file.

        Raises:
            InputError: the archive is gone, or ends before the part does.
        """
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.offset)
                found = file.read(self.length)
        except OSError as error:
            raise InputError(f"{self}: {error.strerror}") from error
        if len(found) < self.length:
            raise InputError(f"{self}: cut off: {len(found)} of {self.length} bytes are there")
        return io.BytesIO(found)


def part_of(path: str | Path) -> Part | None:
    """Return the part of an archive that a path names; None where it names a file of its own."""
    found = _PART.fullmatch(str(path))
    return Part(found[1], int(found[2]), int(found[3])) if found else None


def members(path: str | Path) -> Iterator[tuple[str, Part]]:
    """Yield the name and the place of every file in an archive, in its order.

    Raises:
        InputError: no such file, no tar archive, a compressed one, one that is cut off.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            size = Path(path).stat().st_size
            for member in archive:
                if member.isfile():
                    if member.offset_data + member.size > size:
                        raise InputError(f"{path}: cut off within {member.name}")
                    yield member.name, Part(str(path), member.offset_data, member.size)
            # tarfile takes a header that is cut off for the end; a whole archive ends with empty blocks.
            if Part(str(path), archive.offset, tarfile.BLOCKSIZE).open().read().strip(b"\0"):
                raise InputError(f"{path}: damaged: no end mark where its last file ends")
    except tarfile.TarError as error:
        raise InputError(f"{path}: damaged, or not an uncompressed tar archive: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
