"""Reading of text lists: checked UTF-8, in bounded memory, with line numbers."""

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from speakerverif._util.files import open_input, unpacked_limit
from speakerverif.errors import InputError

# Large enough to benefit from NumPy, small enough for the processor's cache.
BLOCK_BYTES = 1 << 23
LONGEST_LINE = 1 << 20  # bytes
BLANKS = " \t\r\n"
_BOM = b"\xef\xbb\xbf"
# Every C0 control character except tab, line feed and carriage return; and DEL.
_CONTROL = bytes([*range(9), 11, 12, *range(14, 32), 127])
# Characters that make two names differ unseen: zero-width space, separators of lines and of paragraphs, word joiner,
# byte-order mark.
INVISIBLE = frozenset("\u200b\u2028\u2029\u2060\ufeff")
_INVISIBLE = b"|".join(character.encode() for character in sorted(INVISIBLE))
# A non-breaking or an ideographic space next to a separator of fields or lines.
_EDGE = rb"(?:\xc2\xa0|\xe3\x80\x80)(?=[ \t\r\n])|(?:(?<=[ \t\n])|\A)(?:\xc2\xa0|\xe3\x80\x80)"
# A C0 control character, a C1 one in UTF-8, a carriage return within a line, or one of the above.
_FORBIDDEN = re.compile(rb"[%b]|\xc2[\x80-\x9f]|\r(?!\n)|%b|%b" % (re.escape(_CONTROL), _INVISIBLE, _EDGE))
# First bytes of the characters above in UTF-8.
_SUSPICIOUS = (b"\xc2", b"\xe2\x80", b"\xe2\x81\xa0", b"\xe3\x80\x80", b"\xef\xbb\xbf")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
# First bytes of other kinds of files, and their names.
_MAGIC = {
    b"\xff\xfe\0\0": "UTF-32 text; save it as UTF-8",
    b"\0\0\xfe\xff": "UTF-32 text; save it as UTF-8",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"\x1f\x8b": "gzip data; a gzipped list's name ends in .gz",
    b"PK\x03\x04": "a zip archive (.npz, .xlsx); expected a text list",
    b"PAR1": "a Parquet file; expected a text list",
    b"RIFF": "a WAV file; expected a text list",
    b"fLaC": "a FLAC file; expected a text list",
    b"OggS": "an Ogg file; expected a text list",
}


class Block(NamedTuple):
    """Whole lines of a file.

    Attributes:
        first_line: number of the first line, from 1.
        text: the lines, each with its line feed.
        utf8: whether the text is UTF-8; if not, some path in it has another encoding.
    """

    first_line: int
    text: bytes
    utf8: bool


class Line(NamedTuple):
    """A line that is not blank.

    Attributes:
        number: from 1.
        text: stripped of blanks.
        whole: with blanks, without the line's end.
    """

    number: int
    text: str
    whole: str

    @property
    def fields(self) -> list[str]:
        """The fields separated by spaces and tabs; other Unicode blanks are part of names."""
        return re.split(r"[ \t]+", self.text)

    @property
    def columns(self) -> list[str]:
        """The columns separated by tabs, stripped of blanks; they may be empty and contain spaces."""
        return [column.strip(BLANKS) for column in self.whole.split("\t")]

    @property
    def raw(self) -> bytes:
        """The text as bytes, for messages."""
        return self.text.encode("utf-8", "surrogateescape")


def blocks(path: str | Path, digest: Any = None, raw_paths: bool = False) -> Iterator[Block]:
    """Yield a text file in blocks of bounded size; `.gz` files are unpacked.

    Args:
        path: the file. A UTF-8 byte-order mark and carriage returns at line ends are allowed.
        digest: a hashlib object, updated with every byte.
        raw_paths: the file contains paths, which may have any encoding.

    Raises:
        InputError: unreadable; an encoding other than UTF-8 (named, with the line); a control character; a line of
            more than `LONGEST_LINE` bytes; a gzip file that is damaged or unpacks to more than the limit.
    """
    line = 1
    for block in _raw_blocks(Path(path)):
        if digest is not None:
            digest.update(block)
        if line == 1:
            _check_magic(block, path)
            block = block.removeprefix(_BOM)
        block = block if block.endswith(b"\n") else block + b"\n"
        returns = block.count(b"\r") - block.count(b"\r\n")
        if (
            returns
            or any(part in block for part in _SUSPICIOUS)
            or len(block.translate(None, _CONTROL)) < len(block)
        ):
            _check_characters(block, line, path)
        utf8 = _is_utf8(block)
        if not (utf8 or raw_paths):
            _refuse_encoding(block, line, path)
        yield Block(line, block, utf8)
        line += block.count(b"\n")


def lines(path: str | Path, raw_paths: bool = False) -> Iterator[Line]:
    """Yield the lines that are not blank; arguments and errors as for `blocks`.

    Bytes of paths that are not UTF-8 become surrogates, as in Python's file names.
    """
    for block in blocks(path, raw_paths=raw_paths):
        text = block.text.decode("utf-8", "surrogateescape")
        for number, line in enumerate(text.split("\n"), block.first_line):
            if stripped := line.strip(BLANKS):
                yield Line(number, stripped, line)


def csv_rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number of the first line and fields of every row of a CSV file, except blank lines.

    Raises:
        InputError: as `blocks`; an unclosed quote or other invalid CSV.
    """
    texts = (
        line + "\n" for block in blocks(path) for line in block.text.decode().removesuffix("\n").split("\n")
    )
    reader = csv.reader(texts, skipinitialspace=True, strict=True)
    number = 1
    try:
        for row in reader:
            if any(field.strip(BLANKS) for field in row):
                yield number, row
            number = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{number}: not a CSV row: {error}") from None


def number(text: str) -> float:
    """Return a decimal number.

    Raises:
        ValueError: not a number, nan, infinity, or a number beyond the range of float64.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]!r} is too large a number")
    return value


def wrong_encoding(text: bytes) -> str:
    """Return a description of bytes that are not UTF-8, with their likely encoding."""
    start = next((i for i, byte in enumerate(text) if byte > 127), 0)
    shown = text[max(0, start - 20) : start + 20].decode("latin-1")
    return f"not UTF-8; as Latin-1 it would read {shown!r}: convert it, `iconv -f latin1 -t utf-8`"


def _raw_blocks(path: Path) -> Iterator[bytes]:
    """Yield whole lines, about `BLOCK_BYTES` at a time; the last may lack its line feed."""
    with open_input(path) as file:
        packed = path.suffix == ".gz"
        text = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
        limit = unpacked_limit(path.stat().st_size) if packed else 0
        total = 0
        try:
            while block := text.read(BLOCK_BYTES):
                if not block.endswith(b"\n"):
                    rest = text.readline(LONGEST_LINE)
                    if len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                        raise InputError(
                            f"{path}: a line of more than {LONGEST_LINE:,} bytes: is it a text list?"
                        )
                    block += rest
                total += len(block)
                if packed and total > limit:
                    raise InputError(
                        f"{path}: unpacks to more than {limit >> 20:,} MB; unpack it, "
                        "or allow more with SPEAKERVERIF_MAX_UNPACKED_MB"
                    )
                yield block
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path}: damaged: {error}") from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error


def _check_magic(block: bytes, path: str | Path) -> None:
    for magic, kind in _MAGIC.items():
        if block.startswith(magic):
            raise InputError(f"{path}: {kind}")


def _check_characters(block: bytes, first_line: int, path: str | Path) -> None:
    for found in _FORBIDDEN.finditer(block):
        if found[0][0] > 127 and not _is_utf8(block):
            continue  # in another encoding that byte may be a letter
        line = first_line + block.count(b"\n", 0, found.start())
        if found[0] == b"\0":
            what = "a NUL byte; expected UTF-8 text: is it UTF-16, or no text at all?"
        elif found[0] == _BOM:
            what = "a byte-order mark within the text; were several lists joined?"
        elif found[0] == b"\r":
            what = "a carriage return within a line; expected lines that end in a line feed"
        else:
            code = f"U+{ord(found[0].decode()):04X}"
            kind = "control" if ord(found[0].decode()) < 160 else "invisible"
            what = f"the {kind} character {code}; expected printable text, and plain spaces around names"
        raise InputError(f"{path}:{line}: {what}")


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse_encoding(block: bytes, first_line: int, path: str | Path) -> None:
    for number, line in enumerate(block.split(b"\n"), first_line):
        if not _is_utf8(line):
            raise InputError(f"{path}:{number}: {wrong_encoding(line)}")
