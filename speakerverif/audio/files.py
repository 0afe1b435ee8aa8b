"""Opening audio files: regular files, files inside tar archives, and pipes, which are read to their end."""

import atexit
import io
import os
import select
import stat
import tempfile
import time
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple

from speakerverif._util.tar import part_of
from speakerverif.errors import InputError

# Reading a pipe fails after this long without a byte, and beyond this size.
PIPE_STALL_S = 60.0
MAX_PIPE_BYTES = 4 << 30
# Names of a process's own open files; bash's `<(command)` expands to one.
_OPEN_FILES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
_KINDS = {
    stat.S_IFDIR: "is a folder",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFCHR: "is a device",
    stat.S_IFBLK: "is a device",
}
_spooled: dict[tuple[str, int], str] = {}
_spooling = Lock()

# Of the names of audio files.
SUFFIXES = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".wma")
    + (".aif", ".aiff", ".au", ".caf", ".sph", ".amr", ".webm", ".mka")
)


class Location(NamedTuple):
    """The file and byte range of a recording.

    Attributes:
        name: the path as it was given, for messages.
        file: the regular file to open.
        begin: byte of the file where the recording begins.
        end: byte of the file where it ends.
        version: changes when the file does.
    """

    name: str
    file: str
    begin: int
    end: int
    version: tuple[int, int]

    @property
    def whole(self) -> bool:
        """Whether the recording is a whole file, not a part of an archive."""
        return part_of(self.name) is None

    def open(self) -> BinaryIO:
        """Return the recording, opened at its first byte.

        Raises:
            InputError: deleted, or no longer readable, since it was located.
        """
        try:
            # Opening must not block if the file has been replaced by a FIFO.
            file = os.fdopen(os.open(self.file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
        except OSError as error:
            raise InputError(f"{self.name}: {error.strerror}") from None
        if self.whole:
            return file
        return io.BufferedReader(Window(file, self.begin, self.end))


def locate(path: str | Path) -> Location:
    """Return the location of a recording; a pipe of this process is first read to its end.

    Raises:
        InputError: missing, empty, unreadable; a folder, device, socket or named pipe; a pipe that stalls.
    """
    name = str(path)
    part = part_of(name)
    try:
        status = os.stat(part.archive if part else name)  # noqa: PTH116 (a million times)
    except (OSError, ValueError):
        raise InputError(f"{name}: no such file, or none that may be read") from None
    file, kind = part.archive if part else name, stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFIFO and name.startswith(_OPEN_FILES):
        file = _spool(name, status.st_ino)
        status = os.stat(file)  # noqa: PTH116
    elif kind != stat.S_IFREG:
        advice = {stat.S_IFDIR: "", stat.S_IFIFO: "; write what comes out of it to a file"}.get(kind, "")
        raise InputError(f"{name}: {_KINDS.get(kind, 'is no file')}; expected an audio file{advice}")
    version = (status.st_size, status.st_mtime_ns)
    if part is None:
        if status.st_size == 0:
            raise InputError(f"{name}: empty file (0 bytes)")
        return Location(name, file, 0, status.st_size, version)
    there = max(0, status.st_size - part.offset)
    if there < part.length:
        raise InputError(f"{name}: cut off: {there} of {part.length} bytes are there")
    if part.length == 0:
        raise InputError(f"{name}: empty file (0 bytes)")
    return Location(name, file, part.offset, part.offset + part.length, version)


def _spool(name: str, inode: int) -> str:
    """Return a file with the content of a pipe; the pipe is read once, and the file is removed at exit."""
    with _spooling:
        if (name, inode) not in _spooled:
            with tempfile.NamedTemporaryFile(prefix="speakerverif-", delete=False) as target:
                atexit.register(Path(target.name).unlink, missing_ok=True)
                _drain(name, target)
            _spooled[name, inode] = target.name
        return _spooled[name, inode]


def _drain(name: str, target: "tempfile._TemporaryFileWrapper[bytes]") -> None:
    """Copy the content of a pipe to a file.

    Raises:
        InputError: unreadable, stalled or too large.
    """
    try:
        source = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}") from None
    try:
        size, last = 0, time.monotonic()
        while True:
            select.select([source], [], [], 1.0)
            try:
                block = os.read(source, 1 << 20)
            except BlockingIOError:
                if time.monotonic() - last > PIPE_STALL_S:
                    raise InputError(f"{name}: no byte came out of this pipe in {PIPE_STALL_S:g} s") from None
                continue
            if not block:
                return
            size, last = size + len(block), time.monotonic()
            if size > MAX_PIPE_BYTES:
                raise InputError(f"{name}: more than {MAX_PIPE_BYTES >> 30} GiB came out of this pipe")
            target.write(block)
    finally:
        os.close(source)


class Window(io.RawIOBase):
    """A byte range of a file as a file object, after a prefix where a decoder needs one.

    Args:
        file: open and seekable; closed together with this object.
        begin: first byte of the range.
        end: byte after the last one.
        prefix: bytes in front of the range.
    """

    def __init__(self, file: BinaryIO, begin: int, end: int, prefix: bytes = b"") -> None:
        super().__init__()
        self._file, self._begin, self._prefix = file, begin, prefix
        self._size, self._at = len(prefix) + end - begin, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position, at least 0, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: "memoryview[int]", /) -> int:  # type: ignore[override]
        """Read bytes into a buffer and return their number."""
        if self._at < len(self._prefix):
            data = self._prefix[self._at : self._at + len(buffer)]
        else:
            left = self._size - self._at
            if left <= 0:
                return 0
            self._file.seek(self._begin + self._at - len(self._prefix))
            data = self._file.read(min(len(buffer), left))
        memoryview(buffer)[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close this object and the file."""
        if not self.closed:
            self._file.close()
        super().close()
