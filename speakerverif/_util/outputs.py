"""Checks on outputs before any work: each can be written, and none overwrites an input."""

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from speakerverif.errors import InputError

# Files that are read from a Kaldi folder, and the files that mark a model folder and an enrolment store.
KALDI_FILES = ("wav.scp", "segments", "utt2spk", "spk2utt", "reco2file_and_channel")
MODEL_FILE, STORE_FILE = "config.toml", "store.db"
# Files that `calibrate` writes into a model folder.
WRITTEN_INTO_MODELS = ("calibration.toml",)
RECORDINGS = frozenset(
    (
        ".wav",
        ".flac",
        ".ogg",
        ".opus",
        ".mp3",
        ".m4a",
        ".aac",
        ".sph",
        ".aif",
        ".aiff",
        ".wma",
        ".webm",
        ".mp4",
    )
)
_KINDS = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True)
class Output:
    """An output of a command: the option that names it, its path, and whether it is a folder."""

    option: str
    path: Path
    is_folder: bool = False

    def __str__(self) -> str:
        return f"{self.option} {self.path}"


def check_outputs(outputs: Iterable[Output], inputs: Iterable[Path]) -> None:
    """Raise `InputError` unless every output can be written without overwriting anything that is needed.

    An output may not be one of the inputs (under any name, link or hard link), a recording, a device, a FIFO or a
    socket, a folder where a file is expected or the reverse, another output, or below a file or an unwritable folder.

    Args:
        outputs: files and folders that will be written.
        inputs: files and folders that will be read; missing ones are ignored.
    """
    outputs = list(outputs)
    if not outputs:
        return
    read = {identity: path for path in inputs for identity, path in _identities(path)}
    written: dict[str, Output] = {}
    for output in outputs:
        _check_one(output, read)
        other = written.setdefault(os.path.realpath(output.path), output)
        if other is not output:
            raise InputError(f"{output}: is written by {other.option} too; name two files")


def refuse_to_replace(outputs: Iterable[Output], recordings: Iterable[str]) -> None:
    """Raise `InputError` where an output is one of a list's recordings."""
    existing = {}
    for output in outputs:
        try:
            status = output.path.stat()
        except OSError:
            continue
        existing[status.st_dev, status.st_ino] = output
    if not existing:
        return
    for recording in recordings:
        try:
            status = os.stat(recording)  # noqa: PTH116 (Path is slow, a million times)
        except (OSError, ValueError):
            continue
        replaced = existing.get((status.st_dev, status.st_ino))
        if replaced is not None:
            raise InputError(f"{replaced}: is the recording {recording}, which would be destroyed")


def _check_one(output: Output, read: dict[tuple[int, int], Path]) -> None:
    # Whatever /dev/stdout points to, the user doesn't want it replaced by a file.
    if output.path.absolute().parts[1:2] == ("dev",) and output.path.absolute().parts[2:3] != ("shm",):
        raise InputError(f"{output}: is a device; expected a file's name")
    try:
        status = output.path.stat()
    except FileNotFoundError:
        status = None
    except (OSError, ValueError) as error:
        status = None
        if not isinstance(error, NotADirectoryError):
            why = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{output}: can't be written: {why}") from error
    if status is not None:
        for is_kind, kind in _KINDS:
            if is_kind(status.st_mode):
                raise InputError(f"{output}: is {kind}; expected a file's name")
        if stat.S_ISDIR(status.st_mode) != output.is_folder:
            kinds = ("a file", "a folder") if output.is_folder else ("a folder", "a file")
            raise InputError(f"{output}: is {kinds[0]}, expected {kinds[1]}")
        if not output.is_folder:
            if path := read.get((status.st_dev, status.st_ino)):
                raise InputError(f"{output}: would write over an input, {path}")
            if output.path.suffix.lower() in RECORDINGS:
                raise InputError(f"{output}: is a recording, which would be destroyed")
    _check_writable(output, status is not None and output.is_folder)


def _check_writable(output: Output, into: bool) -> None:
    place = Path(os.path.realpath(output.path))
    place = place if into else place.parent
    # Missing folders will be created, in the nearest existing one.
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{output}: {place} is a file, below which nothing can be written")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise InputError(f"{output}: can't write in {place}: {error.strerror}") from error


def _identities(path: Path) -> Iterator[tuple[tuple[int, int], Path]]:
    """Yield device and inode, and path, of each file of an input."""
    try:
        if path.is_dir():
            names = [path / name for name in KALDI_FILES]
            if (path / STORE_FILE).is_file():
                names += path.glob("store.*")
            if (path / MODEL_FILE).is_file():
                names += [file for file in path.iterdir() if file.name not in WRITTEN_INTO_MODELS]
        else:
            names = [path]
    except (OSError, ValueError):
        return
    for name in names:
        try:
            status = name.stat()
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(status.st_mode):
            yield (status.st_dev, status.st_ino), name
