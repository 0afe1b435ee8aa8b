"""Embedding tables as Parquet files: id, embedding, duration_s, speech_s, status; the fingerprint is metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import open_input, replacing, unpacked_limit
from speakerverif._util.messages import one_line
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError

COLUMNS = {
    "id": "ids",
    "embedding": "embeddings",
    "duration_s": "durations",
    "speech_s": "speech",
    "status": "status",
}
# Greatest count of embedding values read at once.
BATCH_NUMBERS = 1 << 22


def read(path: Path) -> EmbeddingTable:
    """Return the table in a file; only `id` and `embedding` are required.

    Raises:
        InputError: unreadable, damaged, missing columns, wrong types, more bytes than the limit.
    """
    arrow, parquet = _pyarrow(path)
    with open_input(path) as file:
        try:
            return _read(arrow, parquet.ParquetFile(file), path)
        except InputError:
            raise
        except (arrow.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise InputError(
                f"{path}: damaged or not a Parquet file of embeddings: {one_line(error)}"
            ) from error


def write(parts: Sequence[EmbeddingTable], path: Path) -> None:
    """Write consecutive parts of a table, one row group per part."""
    arrow, parquet = _pyarrow(path)
    width = parts[0].embeddings.shape[1]
    schema = arrow.schema(
        [
            ("id", arrow.string()),
            ("embedding", arrow.list_(arrow.float32(), width)),
            ("duration_s", arrow.float32()),
            ("speech_s", arrow.float32()),
            ("status", arrow.string()),
        ],
        metadata={"fingerprint": parts[0].fingerprint},
    )
    with replacing(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            flat = arrow.array(np.asarray(part.embeddings, np.float32).ravel())
            columns = [
                arrow.array(list(part.ids), arrow.string()),
                arrow.FixedSizeListArray.from_arrays(flat, width),
                arrow.array(np.asarray(part.durations, np.float32)),
                arrow.array(np.asarray(part.speech, np.float32)),
                arrow.array(list(part.status), arrow.string()),
            ]
            writer.write_table(arrow.table(columns, schema=schema))


def _read(arrow: Any, file: Any, path: Path) -> EmbeddingTable:
    schema = file.schema_arrow
    missing = [name for name in ("id", "embedding") if name not in schema.names]
    repeated = [name for name in COLUMNS if schema.names.count(name) > 1]
    if missing or repeated:
        what = f"no column {' or '.join(missing)}" if missing else f"several columns {repeated[0]}"
        raise InputError(f"{path}: {what}; found {', '.join(schema.names)}")
    names = [name for name in COLUMNS if name in schema.names]
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    limit, unpacked = unpacked_limit(path.stat().st_size), 0
    # The facts about a damaged column end the process where they are asked for first (pyarrow 26).
    file.scan_contents(names)
    announced = _numbers(file)
    rows = max(1, min(1 << 16, BATCH_NUMBERS * max(1, file.metadata.num_rows) // max(1, announced)))
    if 4 * announced > limit:
        raise _too_large(path, limit)
    for batch in file.iter_batches(rows, columns=names):
        unpacked += batch.nbytes
        if unpacked > limit:
            raise _too_large(path, limit)
        for name in names:
            parts[name].append(_numpy(arrow, batch.column(name), name, path))
    if not parts["id"]:
        raise InputError(f"{path}: no embeddings in it")
    widths = {part.shape[1] for part in parts["embedding"]}
    if len(widths) > 1:
        raise InputError(f"{path}: the embeddings are not vectors of one length")
    arrays = {COLUMNS[name]: np.concatenate(some) for name, some in parts.items()}
    fingerprint = (schema.metadata or {}).get(b"fingerprint", b"")
    arrays["fingerprint"] = np.array([fingerprint.decode("utf-8", "replace")], np.str_)
    return EmbeddingTable.checked(str(path), arrays)


def _numbers(file: Any) -> int:
    """Return the total count of embedding values that the file announces."""
    paths = [file.schema.column(i).path for i in range(len(file.schema))]
    embedding = [i for i, path in enumerate(paths) if path.split(".")[0] == "embedding"]
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    return sum(int(group.column(i).num_values) for group in groups for i in embedding)


def _too_large(path: Path, limit: int) -> InputError:
    return InputError(
        f"{path}: unpacks to more than {limit >> 20:,} MB; allow more with SPEAKERVERIF_MAX_UNPACKED_MB"
    )


def _numpy(arrow: Any, column: Any, name: str, path: Path) -> NDArray[Any]:
    """Return a batch's column: texts (N,), seconds (N,), or embeddings (N, dim)."""
    kind = column.type
    if arrow.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if column.null_count and name not in ("duration_s", "speech_s"):
        raise InputError(f"{path}: {column.null_count} rows have no {name}")
    if name in ("id", "status"):
        if not (
            arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_integer(kind)
        ):
            raise InputError(f"{path}: the column {name} is of type {kind}; expected texts")
        return np.array([str(text) for text in column.to_pylist()], np.str_)
    if name != "embedding":
        if not (arrow.types.is_floating(kind) or arrow.types.is_integer(kind)):
            raise InputError(f"{path}: the column {name} is of type {kind}; expected numbers")
        seconds: NDArray[Any] = column.cast(arrow.float64()).to_numpy(zero_copy_only=False)
        return seconds
    lists = (arrow.types.is_list, arrow.types.is_large_list, arrow.types.is_fixed_size_list)
    if not any(is_list(kind) for is_list in lists) or not (
        arrow.types.is_floating(kind.value_type) or arrow.types.is_integer(kind.value_type)
    ):
        raise InputError(f"{path}: the column embedding is of type {kind}; expected lists of numbers")
    flat = column.flatten()
    if flat.null_count:
        raise InputError(f"{path}: embeddings with numbers left out")
    lengths = np.unique(arrow.compute.list_value_length(column).to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise InputError(f"{path}: the embeddings are not vectors of one length")
    numbers: NDArray[Any] = flat.to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), -1)


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{path}: install pyarrow (the extra 'parquet' brings it)") from error
    return pyarrow, pyarrow.parquet
