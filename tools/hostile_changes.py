"""Changes that make good files bad, drawn by a random generator: bytes, texts, arrays and TOML values."""

import io
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def truncated(data: bytes, rng: random.Random) -> bytes:
    """Return the beginning."""
    return data[: rng.randrange(len(data))] if data else data


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Return the data with a few bits flipped."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def forged_header(data: bytes, rng: random.Random) -> bytes:
    """Return the data with an integer near its beginning replaced by an extreme one."""
    changed = bytearray(data)
    value = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2_000_000_000, rng.getrandbits(32)))
    at = rng.randrange(min(len(changed) - 4, 128))
    changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", value)
    return bytes(changed)


def zeroed(data: bytes, rng: random.Random) -> bytes:
    """Return the data with a run of zeros."""
    at, length = rng.randrange(len(data)), rng.randrange(1, 4096)
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def doubled(data: bytes, rng: random.Random) -> bytes:
    """Return the data twice, one after the other, or a part of it twice."""
    at = rng.choice((0, rng.randrange(len(data))))
    return data[:at] + data[at:] * 2


def prefixed(data: bytes, rng: random.Random) -> bytes:
    """Return the data behind something else."""
    return rng.choice((b"\xef\xbb\xbf", b"<html><body>", b"\0" * 512, b"ID3\x04\0\0\x7f\x7f\x7f\x7f")) + data


def noise(data: bytes, rng: random.Random) -> bytes:
    """Return random bytes behind the first few of the data."""
    return data[: rng.choice((0, 4, 44))] + rng.randbytes(rng.choice((0, 1, 10, 1000)))


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    truncated, flipped, forged_header, zeroed, doubled, prefixed, noise
)  # fmt: skip
WORDS = (
    "", "nan", "inf", "-inf", "1e400", "-1", "0", "0x10", "1_000", "٣", "--", "NaN", "9" * 400, "\x00", "\ufeff",
    "a" * 5000, "../../etc/passwd", "%s%s%n", "é", "\u202e", "\x1b[31m", "'; DROP TABLE", "C:\\x", " ", "\t", "null",
)  # fmt: skip


def text(data: bytes, rng: random.Random) -> bytes:
    """Return a text with one thing wrong: a field, a line, or the encoding."""
    lines = data.split(b"\n")
    row = rng.randrange(len(lines))
    fields = lines[row].replace(b"\t", b" ").split(b" ")
    word = rng.choice(WORDS).encode("utf-8", "surrogatepass")
    change = rng.randrange(12)
    if change < 4:
        fields[rng.randrange(len(fields))] = word
    elif change == 4:
        fields.insert(rng.randrange(len(fields) + 1), word)
    elif change == 5:
        del fields[rng.randrange(len(fields))]
    elif change == 6:
        lines.insert(rng.randrange(len(lines)), lines[row])
    elif change == 7:
        return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    elif change == 8:
        fields[0] += b"\xe9\xff"
    elif change == 9:
        return data.replace(b"\n", rng.choice((b"\r", b"\r\n", b"\n\n", b"\x0b", b"\xe2\x80\xa8")))
    elif change == 10:
        return rng.choice(BYTES)(data or b"x", rng)
    else:
        return word * rng.choice((1, 100))
    lines[row] = (b"\t" if b"\t" in lines[row] else b" ").join(fields)
    return b"\n".join(lines)


def odd_arrays(arrays: dict[str, NDArray[Any]], rng: random.Random) -> tuple[bytes, str]:
    """Return a table with one array of another type, shape or value."""
    key = rng.choice(sorted(arrays))
    array = arrays[key]
    changes: dict[str, Callable[[], NDArray[Any]]] = {
        "object": lambda: np.array([{"a": 1}] * len(np.atleast_1d(array)), object),
        "structured": lambda: np.zeros(len(np.atleast_1d(array)), [("x", "f4"), ("y", "U3")]),
        "complex": lambda: np.ones(array.shape, complex),
        "two dimensions": lambda: np.stack([np.atleast_1d(array)] * 2),
        "scalar": lambda: np.array(3.5),
        "empty": lambda: np.atleast_1d(array)[:0],
        "shorter": lambda: np.atleast_1d(array)[:-1],
        "text": lambda: np.full(array.shape, "x"),
        "dates": lambda: np.zeros(array.shape, "M8[s]"),
        "nan": lambda: np.full(array.shape, np.nan),
        "infinite": lambda: np.full(array.shape, np.inf),
        "zero": lambda: np.zeros(array.shape),
        "huge": lambda: np.full(array.shape, 1e38, np.float32),
        "repeated": lambda: np.full(array.shape, array.flat[0]) if array.size else array,
        "bytes": lambda: np.full(array.shape, b"\xff\xfe"),
        "wide": lambda: np.zeros((*array.shape, 0)),
    }
    name = rng.choice([*sorted(changes), "missing"])
    changed = {k: v for k, v in arrays.items() if k != key}
    if name != "missing":
        changed[key] = changes[name]()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **changed)
    return buffer.getvalue(), f"{key}: {name}"


def forged_shapes(arrays: dict[str, NDArray[Any]], rng: random.Random) -> tuple[bytes, str]:
    """Return a table whose array announces a shape that its bytes don't hold."""
    key = rng.choice(("ids", "embeddings", "durations"))
    shape = rng.choice(
        ("(1000000000, 192)", "(4611686018427387904, 4)", "(-1, 4)", "(2, 2, 2, 2)", "(1e9,)", "()")
    )
    kind = rng.choice(("<f4", "|O", "<U1000000", "|V8", "<f16", "|S0", "int"))
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (64 - (10 + len(header) + 1) % 64) + "\n"
    forged = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin1") + bytes(64)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", forged if name == key else member.getvalue())
    return buffer.getvalue(), f"{key}: {kind} {shape}"


VALUES = (
    "0", "-1", "nan", "inf", "-inf", "1e300", "1000000000", "9223372036854775808", '""', '"x"', "[]", "[1, 2, 3]", "{}",
    "true", '"../../x"', "1e-300", "[nan]", "[[[[[[1]]]]]]", '"\\u0000"', "2.5", "-0.5", "1979-05-27", "[5.0, 1.0]",
)  # fmt: skip


def changed_toml(source: str, rng: random.Random) -> str:
    """Return a TOML text with another value for one of its keys."""
    lines = source.split("\n")
    rows = [i for i, line in enumerate(lines) if " = " in line]
    row = rng.choice(rows)
    lines[row] = lines[row].split(" = ")[0] + " = " + rng.choice(VALUES)
    return "\n".join(lines)
