"""Embedding tables in other toolkits' files: Kaldi's ark and scp, Parquet. The name's ending says which."""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from speakerverif._util.files import open_input, replacing
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError

BINARY = b"\0B"
LONGEST_ID = 4096  # bytes; more is no archive


def read_table(path: str | Path) -> EmbeddingTable:
    """Return the table of an `.npz`, `.ark`, `.scp` or `.parquet` file.

    Raises:
        InputError: unreadable, damaged, another format; vectors of different lengths, an id twice.
    """
    path = Path(path)
    if path.suffix in (".ark", ".scp"):
        rows = list(_archive(path) if path.suffix == ".ark" else _indexed(path))
        if not rows:
            raise InputError(f"{path}: no vectors in it")
        sizes = sorted({len(vector) for _, vector in rows})
        if len(sizes) > 1:
            raise InputError(f"{path}: vectors of different lengths: {', '.join(map(str, sizes[:5]))}")
        return _table(
            [name for name, _ in rows], np.array([vector for _, vector in rows], np.float32), str(path)
        )
    return _read_parquet(path) if path.suffix == ".parquet" else EmbeddingTable.load(path)


def write_table(table: EmbeddingTable, path: str | Path) -> None:
    """Write a table as its name says: `.ark` (an `.scp` beside it), `.parquet`, else `.npz`.

    An archive holds ids and vectors only.

    Raises:
        InputError: an id that an archive can't hold, no pyarrow, or the file can't be written.
    """
    path = Path(path)
    if path.suffix == ".scp":
        raise InputError(
            f"{path}: name the archive, {path.with_suffix('.ark').name}; its .scp is written beside it"
        )
    if path.suffix == ".ark":
        _write_archive(table, path)
    elif path.suffix == ".parquet":
        _write_parquet(table, path)
    else:
        table.save(path)


def _table(ids: list[str], embeddings: np.ndarray, where: str, **known: Any) -> EmbeddingTable:
    if len(set(ids)) < len(ids):
        raise InputError(f"{where}: id {Counter(ids).most_common(1)[0][0]!r} stands twice")
    unknown = np.full(len(ids), np.nan, np.float32)
    columns = {"durations": unknown, "speech": unknown, "status": ["ok"] * len(ids), "fingerprint": ""}
    return EmbeddingTable(ids, embeddings, **{**columns, **known})  # type: ignore[arg-type]


def _write_archive(table: EmbeddingTable, path: Path) -> None:
    """Write Kaldi's binary float vectors, and the index of where each begins."""
    odd = [name for name in table.ids if not name or len(name.split()) != 1]
    if odd:
        raise InputError(f"{path}: an archive's ids hold no spaces: {odd[0]!r}")
    index = []
    with replacing(path) as file:
        for name, vector in zip(table.ids, np.asarray(table.embeddings, "<f4"), strict=True):
            file.write(f"{name} ".encode())
            index.append(f"{name} {path}:{file.tell()}\n")
            file.write(BINARY + b"FV \4" + struct.pack("<i", len(vector)) + vector.tobytes())
    with replacing(path.with_suffix(".scp")) as file:
        file.write("".join(index).encode())


def _archive(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the vectors of a binary or text archive."""
    with open_input(path) as file:
        while (name := _name(file, path)) is not None:
            yield name, _vector(file, f"{path}: {name}")


def _indexed(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the vectors that an index points to; archives beside it are found where paths have changed."""
    with open_input(path) as file:
        lines = file.read().decode("utf-8", "replace").splitlines()
    archives: dict[str, IO[bytes]] = {}
    try:
        for number, line in enumerate((text.strip() for text in lines), 1):
            name, _, where = line.partition(" ")
            archive, _, offset = where.strip().rpartition(":")
            if not line:
                continue
            if not archive or not offset.isdigit():  # Kaldi would run a command here
                raise InputError(f"{path}:{number}: expected 'id archive:offset', found {line[:80]!r}")
            if archive not in archives:
                beside = path.parent / Path(archive).name
                archives[archive] = open_input(archive if Path(archive).is_file() else beside)
            archives[archive].seek(int(offset))
            yield name, _vector(archives[archive], f"{path}: {name}")
    finally:
        for opened in archives.values():
            opened.close()


def _name(file: IO[bytes], path: Path) -> str | None:
    """Return the id that comes next; None at the end."""
    name = b""
    while (byte := file.read(1)) not in (b"", b" "):
        if byte != b"\n" or name:  # the line feed after a text vector
            name += byte
        if len(name) > LONGEST_ID:
            break
    if not name and not byte:
        return None
    if byte != b" ":
        raise InputError(f"{path}: damaged or not a Kaldi archive: no id where one was expected")
    return name.decode("utf-8", "replace")


def _vector(file: IO[bytes], where: str) -> np.ndarray:
    """Return the vector that begins here: binary float or double, or text in brackets."""
    mark = file.read(2)
    if mark == BINARY:
        kind, head = file.read(3), file.read(5)
        types = {b"FV ": "<f4", b"DV ": "<f8"}
        if kind not in types or len(head) < 5 or head[0] != 4:
            raise InputError(f"{where}: damaged, or not a vector of floats ({kind!r})")
        size = struct.unpack("<i", head[1:])[0]
        data = file.read(max(size, 0) * np.dtype(types[kind]).itemsize)
        if size < 1 or len(data) < size * np.dtype(types[kind]).itemsize:
            raise InputError(f"{where}: damaged: cut off, or of length {size}")
        return np.frombuffer(data, types[kind]).astype(np.float32)
    text = (mark + file.readline()).decode("utf-8", "replace").strip()
    try:
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError
        return np.array([float(number) for number in text[1:-1].split()], np.float32)
    except ValueError as error:
        raise InputError(f"{where}: damaged, or not a vector: {text[:40]!r}") from error


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: install pyarrow (the extra 'parquet' brings it)") from error
    return pyarrow, pyarrow.parquet


def _write_parquet(table: EmbeddingTable, path: Path) -> None:
    arrow, parquet = _pyarrow(path)
    width = table.embeddings.shape[1]
    flat = arrow.array(np.asarray(table.embeddings, np.float32).ravel())
    columns = {
        "id": arrow.array(list(table.ids)),
        "embedding": arrow.FixedSizeListArray.from_arrays(flat, width),
        "duration_s": arrow.array(np.asarray(table.durations, np.float32)),
        "speech_s": arrow.array(np.asarray(table.speech, np.float32)),
        "status": arrow.array(list(table.status)),
    }
    made = arrow.table(columns).replace_schema_metadata({"fingerprint": table.fingerprint})
    with replacing(path) as file:
        parquet.write_table(made, file)


def _read_parquet(path: Path) -> EmbeddingTable:
    arrow, parquet = _pyarrow(path)
    with open_input(path) as file:
        try:
            table = parquet.read_table(file)
        except (arrow.ArrowException, OSError) as error:
            raise InputError(f"{path}: damaged or not a Parquet file: {error}") from error
    lacking = [name for name in ("id", "embedding") if name not in table.column_names]
    if lacking:
        raise InputError(f"{path}: no column {' or '.join(lacking)}; found {', '.join(table.column_names)}")
    ids = [str(name) for name in table["id"].to_pylist()]
    try:
        embeddings = np.array(table["embedding"].to_pylist(), np.float32).reshape(len(ids), -1)
    except ValueError as error:
        raise InputError(f"{path}: the embeddings are not vectors of one length") from error
    known: dict[str, Any] = {"fingerprint": (table.schema.metadata or {}).get(b"fingerprint", b"").decode()}
    for ours, theirs in (("durations", "duration_s"), ("speech", "speech_s")):
        if theirs in table.column_names:
            known[ours] = table[theirs].to_numpy().astype(np.float32)
    if "status" in table.column_names:
        known["status"] = table["status"].to_pylist()
    return _table(ids, embeddings, str(path), **known)
