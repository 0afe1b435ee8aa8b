"""Embedding tables in files of several formats, chosen by the name's ending."""

from collections.abc import Sequence
from pathlib import Path

from speakerverif.data.embeddings import EmbeddingTable, save_parts
from speakerverif.data.formats import _archives, _parquet
from speakerverif.errors import InputError

READERS = {
    ".npz": EmbeddingTable.load,
    ".ark": _archives.read,
    ".scp": _archives.read_index,
    ".parquet": _parquet.read,
}
WRITERS = {".npz": save_parts, ".ark": _archives.write, ".parquet": _parquet.write}


def read_table(path: str | Path) -> EmbeddingTable:
    """Return the table in an `.npz`, `.ark`, `.scp` or `.parquet` file; other endings are read as `.npz`.

    Raises:
        InputError: unreadable, damaged, another format; vectors of different lengths, numbers that aren't finite,
            a repeated id.
    """
    path = Path(path)
    return READERS.get(path.suffix, EmbeddingTable.load)(path)


def write_table(table: EmbeddingTable, path: str | Path) -> None:
    """Write a table, as `write_tables`."""
    write_tables([table], path)


def write_tables(parts: Sequence[EmbeddingTable], path: str | Path) -> None:
    """Write consecutive parts of a table as `.npz`, `.ark` (with its `.scp`) or `.parquet`, by the name's ending.

    An archive contains only ids and vectors.

    Args:
        parts: at least one; iterated several times, so they may be read from disk each time.
        path: the file.

    Raises:
        InputError: another ending, an id that an archive can't represent, no pyarrow, or the file can't be written.
    """
    path = Path(path)
    check_ending(path)
    WRITERS[path.suffix](parts, path)


def check_ending(path: Path) -> None:
    """Raise `InputError` unless a table can be written under a name."""
    if path.suffix == ".scp":
        raise InputError(
            f"{path}: name the archive, {path.with_suffix('.ark').name}; its .scp is written along with it"
        )
    if path.suffix not in WRITERS:
        raise InputError(
            f"{path}: a table's name ends in {', '.join(WRITERS)}; found {path.suffix or 'no ending'!r}"
        )
