"""Safe reading of NumPy archives (`.npz`), and writing them piece by piece.

Nothing is unpickled, and announced sizes are checked before memory is allocated.
"""

import io
import lzma
import math
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from speakerverif._util.files import open_input, unpacked_limit
from speakerverif._util.messages import one_line
from speakerverif.errors import InputError

# Allowed dtypes: booleans, integers, floats, bytes and text; no objects, structures, dates or complex numbers.
KINDS = "biufSU"
# What zipfile and NumPy raise on damaged archives.
_DAMAGE = (
    *(ValueError, TypeError, SyntaxError, EOFError, OSError, OverflowError, AttributeError, LookupError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, RecursionError),
    tokenize.TokenError,
)


def read_arrays(path: str | Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the named arrays that an archive contains; other arrays are ignored.

    Raises:
        InputError: unreadable, damaged or not an archive, two arrays of one name, an array of objects or structures,
            or arrays that unpack to more than the limit (`unpacked_limit`).
    """
    try:
        with open_input(path) as file, zipfile.ZipFile(file) as archive:
            return _read(archive, path, names)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: expected an .npz file of plain arrays: {one_line(error)}") from error


def write_arrays(
    file: IO[bytes], arrays: Mapping[str, tuple[np.dtype[Any], tuple[int, ...], Iterable[NDArray[Any]]]]
) -> None:
    """Write an uncompressed archive, as `numpy.savez` does, of arrays given piece by piece.

    Args:
        file: open for binary writing.
        arrays: name -> dtype, shape, and pieces to concatenate along the first axis.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, (dtype, shape, pieces) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(member, header)
                for piece in pieces:
                    member.write(np.ascontiguousarray(piece, dtype).tobytes())


def _read(archive: zipfile.ZipFile, path: str | Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    members = archive.namelist()
    if len(set(members)) < len(members):
        name, _ = Counter(members).most_common(1)[0]
        raise InputError(f"{path}: several arrays are named {name.removesuffix('.npy')[:80]!r}")
    wanted = {name: archive.getinfo(f"{name}.npy") for name in names if f"{name}.npy" in members}
    limit = unpacked_limit(Path(path).stat().st_size)
    total = sum(info.file_size for info in wanted.values())
    if total > limit:
        raise InputError(
            f"{path}: unpacks to {total >> 20:,} MB, expected at most {limit >> 20:,} MB; "
            "allow more with SPEAKERVERIF_MAX_UNPACKED_MB"
        )
    return {name: _array(archive, info, f"{path}: the array {name!r}") for name, info in wanted.items()}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    with archive.open(info) as member:
        version = npy.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise InputError(f"{where}: version {version} of the format; expected 1.0 or 2.0")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran_order, dtype = cast("Callable[[Any], tuple[Any, bool, Any]]", read_header)(member)
        if dtype.kind not in KINDS or dtype.itemsize == 0:
            raise InputError(f"{where} is of type {dtype}; expected plain arrays of numbers or texts")
        if any(size < 0 for size in shape):
            raise InputError(f"{where}: shape {shape}")
        announced = math.prod(shape) * dtype.itemsize
        # Member sizes were checked against the limit before; an array can't be larger than its member.
        if announced > info.file_size:
            raise InputError(
                f"{where}: {shape} of {dtype} are {announced:,} bytes, {info.file_size:,} are there"
            )
        data = bytearray(announced)
        filled = 0
        stream = cast(io.BufferedIOBase, member)
        while filled < announced and (count := stream.readinto(memoryview(data)[filled:])):
            filled += count
        if filled < announced or member.read(1):
            raise InputError(f"{where}: damaged: expected {announced:,} bytes of data")
    array: NDArray[Any] = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")
