"""Embedding tables as Kaldi archives (`.ark`) of vectors, and their indices (`.scp`)."""

import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import open_input, replacing
from speakerverif._util.messages import refuse_repeated
from speakerverif.data import _columns, _text
from speakerverif.data._manifest_files import is_there
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError

Vector = NDArray[np.float32]

BINARY = b"\0B"
# Tokens of binary vectors of float and double, and their dtypes.
TYPES = {b"FV ": "<f4", b"DV ": "<f8"}
LONGEST_TEXT = 1 << 24  # bytes of one vector written as text
_PLACE = re.compile(r"(.+):(\d{1,18})(?:\[(\d{1,9}):(\d{1,9})\])?")


class _Row(NamedTuple):
    id: str
    vector: Vector


def read(path: Path) -> EmbeddingTable:
    """Return the vectors in a binary or text archive.

    Raises:
        InputError: unreadable, damaged, vectors of different lengths, numbers that aren't finite, a repeated id.
    """
    return _table(_archive(path), path)


def read_index(path: Path) -> EmbeddingTable:
    """Return the vectors that an index names, `id archive:offset` or `id archive:offset[first:last]`.

    An archive that is not where the index says is searched for in the index's folder. As in Kaldi, a range counts
    from 0 and includes both ends.

    Raises:
        InputError: as `read`; a row that names no vector (for example a command, which Kaldi would run).
    """
    return _table(_indexed(path), path)


def write(parts: Sequence[EmbeddingTable], path: Path) -> None:
    """Write an archive of binary float vectors, and in the same folder an index of their offsets.

    Raises:
        InputError: an id with a blank, which an archive can't represent.
    """
    for part in parts:
        blank = [name for name in part.ids if not name or len(re.split(r"\s", name)) != 1]
        if blank:
            raise InputError(f"{path}: an archive's ids hold no spaces: {blank[0]!r}")
    with replacing(path) as file, replacing(path.with_suffix(".scp")) as index:
        for part in parts:
            for name, vector in zip(part.ids, np.asarray(part.embeddings, "<f4"), strict=True):
                file.write(f"{name} ".encode())
                index.write(f"{name} {path}:{file.tell()}\n".encode("utf-8", "surrogateescape"))
                file.write(BINARY + b"FV \4" + struct.pack("<i", len(vector)) + vector.tobytes())


def _table(rows: Iterator[_Row], path: Path) -> EmbeddingTable:
    ids: list[str] = []
    vectors: list[Vector] = []
    for name, vector in rows:
        if vectors and len(vector) != len(vectors[0]):
            raise InputError(
                f"{path}: vectors of different lengths: {len(vectors[0])} ({ids[0]!r}) and {len(vector)} ({name!r})"
            )
        ids.append(name)
        vectors.append(vector)
    if not ids:
        raise InputError(f"{path}: no vectors in it")
    refuse_repeated(ids, str(path), range(1, len(ids) + 1))
    return EmbeddingTable.checked(str(path), {"ids": np.array(ids, np.str_), "embeddings": np.array(vectors)})


def _archive(path: Path) -> Iterator[_Row]:
    with open_input(path) as file:
        while (name := _name(file, path)) is not None:
            yield _Row(name, _vector(file, f"{path}: {name}"))


def _indexed(path: Path) -> Iterator[_Row]:
    archive, opened = "", None
    try:
        for line in _text.lines(path, raw_paths=True):
            name, *rest = re.split(r"[ \t]+", line.text, maxsplit=1)
            match = _PLACE.fullmatch(rest[0]) if rest else None
            if match is None:
                raise InputError(
                    f"{path}:{line.number}: expected 'id archive:offset', found {line.text[:80]!r}"
                )
            if opened is None or match[1] != archive:
                if opened is not None:
                    opened.close()
                archive = match[1]
                beside = path.parent / Path(archive).name
                opened = open_input(archive if is_there(archive) else beside)
            opened.seek(int(match[2]))
            vector = _vector(opened, f"{path}:{line.number}: {name}")
            if match[3]:
                first, last = int(match[3]), int(match[4])
                if not first <= last < len(vector):
                    raise InputError(
                        f"{path}:{line.number}: [{first}:{last}] of a vector of {len(vector)} numbers"
                    )
                vector = vector[first : last + 1]
            yield _Row(name, vector)
    finally:
        if opened is not None:
            opened.close()


def _name(file: IO[bytes], path: Path) -> str | None:
    """Return the next id; None at the end."""
    name = b""
    while (byte := file.read(1)) not in (b"", b" "):
        if byte != b"\n" or name:  # the line feed after a text vector
            name += byte
        if len(name) > _columns.LONGEST_ID:
            break
    if not name and not byte:
        return None
    if byte != b" ":
        raise InputError(f"{path}: damaged or not a Kaldi archive: no id where one was expected")
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: the id {name[:40]!r} is {_text.wrong_encoding(name)}") from None
    if not _columns.is_id(text):
        raise InputError(
            f"{path}: damaged or not a Kaldi archive: found {text[:40]!r} where an id was expected"
        )
    return text


def _vector(file: IO[bytes], where: str) -> Vector:
    """Return the next vector: binary float or double, or text in brackets."""
    mark = file.read(2)
    if mark == BINARY:
        kind, head = file.read(3), file.read(5)
        if kind not in TYPES or len(head) < 5 or head[0] != 4:
            raise InputError(f"{where}: damaged, or not a vector of floats ({kind!r})")
        size = struct.unpack("<i", head[1:])[0]
        width = np.dtype(TYPES[kind]).itemsize
        if not 0 < size <= _columns.MOST_DIMENSIONS:
            raise InputError(f"{where}: damaged: a vector of length {size}")
        data = file.read(size * width)
        if len(data) < size * width:
            raise InputError(f"{where}: damaged: cut off within a vector of length {size}")
        with np.errstate(over="ignore"):
            return np.frombuffer(data, TYPES[kind]).astype(np.float32)
    text = (mark + file.readline(LONGEST_TEXT)).decode("utf-8", "replace").strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise InputError(f"{where}: damaged, or not a vector: {text[:40]!r}")
    try:
        with np.errstate(over="ignore"):
            return np.array([_text.number(number) for number in text[1:-1].split()], np.float32)
    except ValueError as error:
        raise InputError(f"{where}: damaged, or not a vector: {error}") from error
