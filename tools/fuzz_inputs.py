"""Damaged inputs for `fuzz.py`: good files, the changes that damage them, and how they are written."""

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

# Values that replace numbers in headers.
NUMBERS = (0, 1, 2, 255, 0x7FFF, 0xFFFF, 10**6, 2 * 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
HEADER_BYTES = 128
# Pieces of text and bytes that parsers mishandle most often.
TOKENS = (
    *(
        b"",
        b" ",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b",",
        b'"',
        b"'",
        b"|",
        b":",
        b"/",
        b"\\",
        b"..",
        b"%00",
        b"=",
    ),
    *(b"\0", b"\x1b", b"\x85", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xff\xfe", "é\u2028\u3000".encode()),
    *(b"nan", b"-inf", b"inf", b"1e999", b"-1", b"0", b"1_0", b"9" * 400, b"0x10", "１".encode(), b"true"),
    *(b"1e-300", b"1e300", b"2.5", b"-0.5", b"1000000000", b"9223372036854775808", b"1" + b"0" * 30),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b"{}",
        b"[]",
        b'""',
        b"null",
        b"NaN",
        b"[" * 3000,
        b'{"a":' * 500,
        b"[1, 2, 3]",
    ),
    *(b"w.ark:2", b"w.ark:99999999999999999999", b"w.ark:0[0:99999999999]", b"0.tar:0:99999999999"),
    *(
        b"\xff\xff\xff\x7f",
        b"\xff\xff\xff\xff",
        b"\0BFV \4",
        b"PK\x03\x04",
        b"a" * 5000,
        b"[a.b.c]",
        b"\\u0000",
    ),
)
_WORD = re.compile(rb"[^\s,;=\"'\[\]{}|]+")


@dataclass(frozen=True)
class Seed:
    """A good input of one or several files.

    Attributes:
        path: of the file or folder that the parser is given, relative to the input's folder.
        files: path -> content. Files in a "folder" whose name ends in .npz are packed into an archive of that name, so
            that their damage isn't hidden by the archive's checksums.
        fixed: files that are never damaged.
    """

    path: str
    files: Mapping[str, bytes]
    fixed: frozenset[str] = field(default=frozenset())

    @property
    def open_to_damage(self) -> list[str]:
        """The files that may be damaged."""
        return sorted(set(self.files) - self.fixed)


def mutated(seeds: Sequence[Seed], rng: np.random.Generator) -> Seed:
    """Return one of the seeds with one file changed at one to four places."""
    seed = seeds[int(rng.integers(len(seeds)))]
    names = seed.open_to_damage
    name = names[rng.integers(len(names))]
    other = seeds[int(rng.integers(len(seeds)))]
    others = other.open_to_damage
    donor = other.files[others[rng.integers(len(others))]]
    content = bytearray(seed.files[name])
    for _ in range(rng.integers(1, 5)):
        content = _changed(content, donor, rng)
    return Seed(seed.path, {**seed.files, name: bytes(content)}, seed.fixed)


def _changed(content: bytearray, donor: bytes, rng: np.random.Generator) -> bytearray:
    """Return a content after one random change."""
    if b"\0" not in content[:512] and content and rng.random() < 0.4:
        words = list(_WORD.finditer(content))
        if words:
            word = words[rng.integers(len(words))]
            content[word.start() : word.end()] = _put_in(donor, rng)
            return content
    size = max(1, len(content))
    at = int(rng.integers(min(size, HEADER_BYTES) if rng.random() < 0.6 else size))
    kind = rng.integers(9)
    if kind == 0 and content:
        content[at % size] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        width, order = (1, 2, 4, 8)[rng.integers(4)], ("little", "big")[rng.integers(2)]
        value = NUMBERS[rng.integers(len(NUMBERS))] & ((1 << 8 * width) - 1)
        content[at : at + width] = value.to_bytes(width, "little" if order == "little" else "big")
    elif kind == 2:
        del content[at:]
    elif kind == 3:
        del content[at : at + int(rng.integers(1, 64))]
    elif kind == 4:
        content[at:at] = content[at : at + int(rng.integers(1, 512))] * int(rng.integers(1, 20))
    elif kind == 5:
        content[at : at + 16] = rng.bytes(16)
    elif kind == 6:
        content += donor[int(rng.integers(len(donor) + 1)) if rng.random() < 0.5 else 0 :]
    elif kind == 7:
        content[at:] = donor[at:]
    else:
        content[at : at + int(rng.integers(0, 8))] = _put_in(donor, rng)
    return content


def _put_in(donor: bytes, rng: np.random.Generator) -> bytes:
    """Return a token, or a word of another file."""
    if rng.random() < 0.3 and (words := _WORD.findall(donor[:4096])):
        return bytes(words[rng.integers(len(words))])
    return TOKENS[rng.integers(len(TOKENS))]


def written(seed: Seed, folder: Path) -> Path:
    """Write an input's files to a folder, and return the path that the parser is given."""
    archives: dict[PurePosixPath, dict[str, bytes]] = {}
    for name, content in seed.files.items():
        path = PurePosixPath(name)
        if path.parent.suffix == ".npz":
            archives.setdefault(path.parent, {})[path.name] = content
        else:
            _write(folder / path, content)
    for path, members in archives.items():
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        _write(folder / path, packed.getvalue())
    return folder / seed.path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def unpacked(archive: bytes, name: str) -> dict[str, bytes]:
    """Return the members of an `.npz` archive as files of a `Seed`."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {f"{name}/{member}": file.read(member) for member in file.namelist()}
