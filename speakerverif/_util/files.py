"""Opening files with clear errors, and writing them whole or not at all."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from speakerverif.errors import InputError

# A compressed file may unpack to this many MB, or to this many times its size if that is more.
UNPACKED_MB, UNPACKED_RATIO = 256, 50


def unpacked_limit(packed: int) -> int:
    """Return the largest size in bytes that a compressed file of `packed` bytes may unpack to.

    The environment variable SPEAKERVERIF_MAX_UNPACKED_MB raises it.

    Raises:
        InputError: the variable holds no whole number of megabytes.
    """
    text = os.environ.get("SPEAKERVERIF_MAX_UNPACKED_MB", str(UNPACKED_MB))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise InputError(f"SPEAKERVERIF_MAX_UNPACKED_MB={text!r}: expected a whole number of megabytes")
    return max(int(text) << 20, UNPACKED_RATIO * packed)


def open_input(path: str | Path) -> IO[bytes]:
    """Return a file opened for binary reading, or raise `InputError` with the path and the reason."""
    try:
        if Path(path).is_dir():
            raise InputError(f"{path}: is a folder, expected a file")
        file = open(path, "rb")  # noqa: SIM115
        # /dev/zero and /dev/full have no end; a terminal and /dev/null have one.
        endless = stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty()
        if endless and not os.path.samestat(os.fstat(file.fileno()), Path(os.devnull).stat()):
            file.close()
            raise InputError(f"{path}: is a device, expected a file")
        return file
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r}: no file has such a name: {error}") from error


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 text file, as `lines_of`.

    Raises:
        InputError: unreadable, or not UTF-8.
    """
    try:
        with open_input(path) as file:
            return lines_of(file.read().decode())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error


def lines_of(text: str) -> list[str]:
    """Return the lines that end in line feeds; unlike `str.splitlines`, other separators are part of a line."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing; it replaces the file at `path` on success and is deleted otherwise.

    Missing folders are created, and links are followed.

    Raises:
        InputError: the file can't be written, or not to its end (a full disk); the old file is unchanged.
    """
    target = Path(os.path.realpath(path))
    name = (
        target.name
        if len(os.fsencode(target.name)) < 200
        else hashlib.sha256(os.fsencode(target)).hexdigest()
    )
    aside = target.with_name(f"{name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except OSError as error:
        raise InputError(f"{path}: can't write: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write a file, text as UTF-8, as `replacing` does: on failure the old file is unchanged."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_json(path: str | Path, record: Any) -> None:
    """Write a record as indented JSON with `write_atomically`."""
    write_atomically(path, json.dumps(record, indent=2) + "\n")
