"""Embedding tables in files of several formats; the name's ending says which."""

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
    """Return the table of an `.npz`, `.ark`, `.scp` or `.parquet` file; any other is taken for an `.npz`.

    Raises:
        InputError: unreadable, damaged, another format; vectors of different lengths, numbers that aren't finite,
            an id twice.
    """
    path = Path(path)
    return READERS.get(path.suffix, EmbeddingTable.load)(path)


def write_table(table: EmbeddingTable, path: str | Path) -> None:
    """Write a table; as `write_tables`."""
    write_tables([table], path)


def write_tables(parts: Sequence[EmbeddingTable], path: str | Path) -> None:
    """Write tables that follow each other as one, as the name says: `.npz`, `.ark` (and its `.scp`) or `.parquet`.

    An archive holds ids and vectors only.

    Args:
        parts: at least one; gone through several times, so that they may be read from disk each time.
        path: the file.

    Raises:
        InputError: another ending, an id that an archive can't hold, no pyarrow, or the file can't be written.
    """
    path = Path(path)
    check_ending(path)
    WRITERS[path.suffix](parts, path)


def check_ending(path: Path) -> None:
    """Raise `InputError` unless a table can be written under this name."""
    if path.suffix == ".scp":
        raise InputError(
            f"{path}: name the archive, {path.with_suffix('.ark').name}; its .scp is written along with it"
        )
    if path.suffix not in WRITERS:
        raise InputError(
            f"{path}: a table's name ends in {', '.join(WRITERS)}; found {path.suffix or 'no ending'!r}"
        )
