"""The columns of an embedding table from any file format, checked before the table is built."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.messages import refuse_repeated
from speakerverif.data import _text
from speakerverif.errors import InputError

NAMES = ("ids", "embeddings", "durations", "speech", "status", "fingerprint")
LONGEST_ID = 4096  # characters
MOST_DIMENSIONS = 1 << 20
_HIGHEST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)


class TableColumns(NamedTuple):
    """The columns of a table with N rows.

    Attributes:
        ids: distinct, not empty, without control characters.
        embeddings: float32 (N, dim), finite.
        durations: float32 (N,), seconds; nan where unknown.
        speech: float32 (N,), seconds of active speech; nan where unknown.
        status: one string per row.
        fingerprint: of the model; empty where unknown.
    """

    ids: list[str]
    embeddings: NDArray[np.float32]
    durations: NDArray[np.float32]
    speech: NDArray[np.float32]
    status: list[str]
    fingerprint: str


def checked(where: str, arrays: dict[str, NDArray[Any]]) -> TableColumns:
    """Return the columns of a table, checked.

    Args:
        where: the file, for messages.
        arrays: by the names in `NAMES`; only `ids` and `embeddings` are required.

    Raises:
        InputError: a column is missing, has another type or shape, or an invalid value: a repeated id, a number that
            isn't finite, text that isn't Unicode.
    """
    missing = [name for name in ("ids", "embeddings") if name not in arrays]
    if missing:
        raise InputError(
            f"{where}: no array named {' or '.join(missing)}; found {', '.join(arrays) or 'none'}"
        )
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    rows = shapes["ids"][0] if len(shapes["ids"]) == 1 else -1
    if (
        rows < 0
        or len(shapes["embeddings"]) != 2
        or any(shape[:1] != (rows,) for name, shape in shapes.items() if name != "fingerprint")
        or any(len(shapes.get(name, (1,))) != 1 for name in ("durations", "speech", "status"))
    ):
        shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"{where}: expected embeddings (N, dim) and N of everything else, found {shown}")
    if not rows or not 0 < shapes["embeddings"][1] <= MOST_DIMENSIONS:
        raise InputError(
            f"{where}: embeddings {shapes['embeddings']}: expected one row and one dimension or more"
        )
    ids = _texts(where, "ids", arrays["ids"], "iuSU")
    _check_ids(where, ids)
    unknown = np.full(rows, np.nan, np.float32)
    return TableColumns(
        ids,
        _embeddings(where, arrays["embeddings"], ids),
        _seconds(where, "durations", arrays["durations"], ids) if "durations" in arrays else unknown,
        _seconds(where, "speech", arrays["speech"], ids) if "speech" in arrays else unknown,
        _texts(where, "status", arrays["status"], "SU") if "status" in arrays else ["ok"] * rows,
        _fingerprint(where, arrays["fingerprint"]) if "fingerprint" in arrays else "",
    )


def _texts(where: str, name: str, array: NDArray[Any], kinds: str) -> list[str]:
    if array.dtype.kind not in kinds:
        raise InputError(f"{where}: {name} of type {array.dtype}; expected texts")
    if array.dtype.kind == "U":
        codes = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).view("<u4")
        if bool(((codes > _HIGHEST) | ((codes >= _SURROGATES[0]) & (codes <= _SURROGATES[1]))).any()):
            raise InputError(f"{where}: {name} that are not Unicode text")
    elif array.dtype.kind == "S":
        try:
            return [text.decode() for text in array.tolist()]
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: {name} that are not UTF-8 text: {error.object[:40]!r}") from None
    return [str(text) for text in array.tolist()]


def _check_ids(where: str, ids: Sequence[str]) -> None:
    for row, name in enumerate(ids):
        if not is_id(name):
            what = f"{len(name):,} characters" if len(name) > LONGEST_ID else repr(name)
            raise InputError(
                f"{where}: the id of row {row}: {what}; expected 1 to {LONGEST_ID} characters, none of control"
            )
    refuse_repeated(ids, where, range(len(ids)))


def is_id(text: str) -> bool:
    """Return whether a text can be an id: 1 to `LONGEST_ID` characters, none of control."""
    return 0 < len(text) <= LONGEST_ID and (
        text.isprintable()
        or not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in _text.INVISIBLE for c in text)
    )


def _embeddings(where: str, array: NDArray[Any], ids: Sequence[str]) -> NDArray[np.float32]:
    if array.dtype.kind not in "iuf":
        raise InputError(f"{where}: embeddings of type {array.dtype}; expected decimal numbers")
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(array, np.float32)
    for start in range(0, len(numbers), 1 << 14):
        bad = np.flatnonzero(~np.isfinite(numbers[start : start + (1 << 14)]).all(1))
        if len(bad):
            raise InputError(
                f"{where}: the embedding of {ids[start + int(bad[0])]!r} holds nan, infinity or a number beyond float32"
            )
    return numbers


def _seconds(where: str, name: str, array: NDArray[Any], ids: Sequence[str]) -> NDArray[np.float32]:
    if array.dtype.kind not in "iuf":
        raise InputError(f"{where}: {name} of type {array.dtype}; expected seconds")
    with np.errstate(over="ignore"):
        seconds = array.astype(np.float32)
    bad = np.flatnonzero((seconds < 0) | np.isinf(seconds))
    if len(bad):
        raise InputError(
            f"{where}: {name} of {ids[int(bad[0])]!r}: {seconds[bad[0]]} is not a number of seconds"
        )
    return seconds


def _fingerprint(where: str, array: NDArray[Any]) -> str:
    if array.dtype.kind not in "SU" or array.size != 1:
        raise InputError(
            f"{where}: a fingerprint of type {array.dtype} and shape {array.shape}; expected one text"
        )
    text = _texts(where, "fingerprint", array.reshape(1), "SU")[0]
    if len(text) > LONGEST_ID or not text.isprintable():
        raise InputError(f"{where}: a fingerprint that is no printable text")
    return text
