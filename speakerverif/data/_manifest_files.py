"""The text format of manifests, parsed to NumPy columns; and checks on the utterances of any list."""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.messages import nearest
from speakerverif._util.tar import archive_of
from speakerverif.data import _text
from speakerverif.data._rows import (
    LONGEST_FIELD,
    Mask,
    Places,
    Rows,
    Texts,
    WrongRows,
    floats,
    refuse_repeated_ids,
)
from speakerverif.errors import InputError

FIELDS = ("id", "path", "speaker", "start_s", "duration_s", "channel")
TEXTS, NEEDED = FIELDS[:3], FIELDS[:3]
# Longer than any recording, in seconds (115 days): a start or a duration beyond it is a mistake.
LONGEST_S = 1e7
# Greatest number of channels in a file that libsndfile opens.
MAX_CHANNEL = 1024
# Number of rows whose relative paths are searched for in the list's folder.
LOOKED_FOR = 1000
# Number of utterances of a list in memory at a time, where it is read in blocks.
BLOCK_ROWS = 1 << 16
_CONTROL = frozenset(map(chr, [*range(32), *range(127, 160)]))


@dataclass(frozen=True, slots=True)
class Utterance:
    """A part of a recording with one speaker. Ids are paths, not basenames: VoxCeleb repeats basenames."""

    id: str
    path: str
    speaker: str
    start_s: float = 0.0
    # None: to the end of the file.
    duration_s: float | None = None
    # Counted from 1; None where the list gives none.
    channel: int | None = None


class Listed(NamedTuple):
    """An utterance and its line in the list."""

    line: int
    utterance: Utterance


class Columns(NamedTuple):
    """Utterances as columns, one entry each.

    Attributes:
        ids: UTF-8 bytes, dtype S of a multiple of 8 bytes.
        paths: bytes of the file's path, same dtype.
        speakers: UTF-8 bytes, same dtype; empty where unknown.
        start_s: float64, seconds.
        duration_s: float64, seconds; nan means to the end of the file.
        channel: int16, from 1; 0 where the list gives none.
    """

    ids: Texts
    paths: Texts
    speakers: Texts
    start_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    channel: NDArray[np.int16]


def blocks_of(rows: Iterator[Listed], path: Path, wrong: WrongRows) -> Iterator[tuple[Columns, Places]]:
    """Yield checked utterances as columns, and the line of each, in blocks of bounded size.

    Raises:
        InputError: at the end: wrong rows (reported together with those in `wrong`), or no utterances.
    """
    empty = True
    while some := list(islice(rows, BLOCK_ROWS)):
        good: list[Listed] = []
        for row in some:
            if why := fault_of(row.utterance):
                wrong.add(row.line, repr(row.utterance.id).encode("utf-8", "backslashreplace"), why)
            else:
                good.append(row)
        if good:
            empty = False
            lines = np.array([row.line for row in good], np.int64)
            yield columns_of_utterances([row.utterance for row in good]), lines
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    if empty:
        raise InputError(f"{path}: no utterances in it")


def joined(blocks: Iterable[tuple[Columns, Places]], path: str | Path) -> tuple[Columns, Places]:
    """Return the columns of all blocks of a list, and the line of each row.

    Raises:
        InputError: as the blocks; a repeated id.
    """
    parts, lines = zip(*blocks, strict=True)
    columns, line = _joined(list(parts)), np.concatenate(lines)
    refuse_repeated_ids(columns.ids, line, path)
    return columns, line


def fault_of(utterance: Utterance) -> str:
    """Return a description of the fault of an utterance; empty if there is none."""
    for name, text in (("id", utterance.id), ("speaker", utterance.speaker), ("path", utterance.path)):
        if any(0xD800 <= ord(c) <= 0xDFFF and not 0xDC80 <= ord(c) <= 0xDCFF for c in text):
            return f"half a character (a lone surrogate) in the {name}"
        raw = text.encode("utf-8", "surrogateescape")
        if name != "path" and any(0xDC80 <= ord(c) <= 0xDCFF for c in text):
            return f"the {name} is {_text.wrong_encoding(raw)}"
        if not _CONTROL.isdisjoint(text):
            return f"a tab or another control character in the {name}"
        if not _text.INVISIBLE.isdisjoint(text):
            return f"an invisible character in the {name}"
        if len(raw) > LONGEST_FIELD:
            return f"the {name} has {len(raw):,} bytes; at most {LONGEST_FIELD} were expected"
        if text != text.strip():
            return f"blanks around the {name}"
        if not text and name != "speaker":
            return f"an empty {name}"
    start, duration = utterance.start_s, utterance.duration_s
    if not 0 <= start <= LONGEST_S:
        return f"it starts at {start:g} s; expected 0 to {LONGEST_S:g} s"
    if duration is not None and not 0 < duration <= LONGEST_S:
        return f"{duration:g} s long; expected more than 0 and at most {LONGEST_S:g} s"
    if utterance.channel is not None and not 0 < utterance.channel <= MAX_CHANNEL:
        return f"channel {utterance.channel}; channels are counted from 1"
    return ""


def channel_of(text: str, first: int = 1) -> int:
    """Return a channel counted from 1.

    Args:
        text: a whole number.
        first: number of the first channel in the format that the text comes from.

    Raises:
        ValueError: the text is not the number of a channel.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ValueError(f"{text[:40]!r} is no channel's number")
    return int(text) - first + 1


def manifest_blocks(path: str | Path) -> Iterator[tuple[Columns, Places]]:
    """Yield the columns of a manifest, and the line of each row, in blocks of bounded size.

    Raises:
        InputError: unreadable or empty file, unknown header; at the end: wrong rows (reported together).
    """
    wrong = WrongRows()
    empty = True
    names: list[str] = []
    for block in _text.blocks(path, raw_paths=True):
        text, first = block.text, block.first_line
        if not names:
            header, _, text = text.partition(b"\n")
            names, first = _header(header, path), first + 1
        rows = Rows(text, first, "tab", path)
        rows.keep_width(len(names), wrong)
        if len(rows):
            empty = False
            yield _parsed(rows, names, wrong, block.utf8), rows.lines
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    if empty:
        raise InputError(f"{path}: {'no utterances in it' if names else 'the file is empty'}")


def root_of(path: Path, audio_root: Path | None, paths: Texts) -> str:
    """Return the folder that a list's relative paths start from.

    It is `audio_root` if given; else the current folder, if some of the first `LOOKED_FOR` files are there and none in
    the list's folder; else the list's folder.
    """
    if audio_root is not None:
        return str(audio_root)
    beside = path if path.is_dir() else path.parent
    names = list(islice(filter(None, map(_relative, paths[: 100 * LOOKED_FOR].tolist())), LOOKED_FOR))
    if any(is_there(beside / name) for name in names) or not any(map(is_there, names)):
        return str(beside)
    return ""


def refuse_unreadable_paths(columns: Columns, line: Places, root: str, path: Path) -> None:
    """Raise `InputError` where a path is not UTF-8 and no such file exists: then the list's encoding is wrong."""
    for i in np.flatnonzero(_not_utf8(columns.paths)).tolist():
        raw = columns.paths[i]
        name = raw.decode("utf-8", "surrogateescape")
        if not is_there(Path(root, archive_of(name) or name)):
            raise InputError(f"{path}:{line[i]}: no such file, and the path is {_text.wrong_encoding(raw)}")


def is_there(path: str | Path) -> bool:
    """Return whether a file exists; False for an impossible name, such as one that is too long."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises where a name is too long)


def _relative(raw: bytes) -> str:
    """Return a relative path as text; empty for an absolute path."""
    name = raw.decode("utf-8", "surrogateescape")
    name = archive_of(name) or name
    return "" if os.path.isabs(name) else name  # noqa: PTH117 (Path is slow, a million times)


def columns_of_utterances(utterances: list[Utterance]) -> Columns:
    """Return utterances as columns."""
    ids, paths, speakers = (
        _padded([getattr(u, name).encode("utf-8", "surrogateescape") for u in utterances]) for name in TEXTS
    )
    return Columns(
        ids,
        paths,
        speakers,
        np.array([u.start_s for u in utterances], np.float64),
        np.array([math.nan if u.duration_s is None else u.duration_s for u in utterances], np.float64),
        np.array([u.channel or 0 for u in utterances], np.int16),
    )


def _padded(texts: list[bytes]) -> Texts:
    """Return texts as an array whose itemsize is a multiple of 8 bytes."""
    width = max(1, max(map(len, texts), default=1))
    return np.array(texts, f"S{-(-width // 8) * 8}")


def _joined(parts: list[Columns]) -> Columns:
    return Columns._make(np.concatenate(several) for several in zip(*parts, strict=True))


def _header(line: bytes, path: str | Path) -> list[str]:
    names = [name.strip(_text.BLANKS) for name in line.decode("utf-8", "replace").split("\t")]
    strange = [name for name in names if name not in FIELDS]
    if not set(NEEDED) <= set(names) or strange or len(set(names)) < len(names):
        hint = (
            f"; {strange[0]!r}: {nearest(strange[0], list(FIELDS))}"
            if set(NEEDED) <= set(names) and strange
            else ""
        )
        raise InputError(
            f"{path}:1: expected the header {'<tab>'.join(NEEDED)}, and maybe {', '.join(FIELDS[3:])}; "
            f"found {line[:80]!r}{hint}"
        )
    return names


def _parsed(rows: Rows, names: list[str], wrong: WrongRows, utf8: bool) -> Columns:
    """Return the columns of all rows of a block; wrong rows are also added to `wrong`."""
    place = {name: names.index(name) for name in names}
    texts = [rows.column(place[name]) for name in TEXTS]
    rows.refuse((texts[0] == b"") | (texts[1] == b""), "empty id or path", wrong)
    if not utf8:
        for name, column in (("id", texts[0]), ("speaker", texts[2])):
            rows.refuse(_not_utf8(column), f"the {name} is not UTF-8 text, but Latin-1 maybe", wrong)
    times = []
    for name, unknown in (("start_s", 0.0), ("duration_s", math.nan)):
        values = np.full(len(rows), unknown)
        if name in place:
            column = rows.column(place[name])
            given = column != b""
            values[given] = floats(column[given])
            least = values > 0 if name == "duration_s" else values >= 0
            rows.refuse(given & ~(least & (values <= LONGEST_S)), f"{name} is not a number of seconds", wrong)
        times.append(values)
    ids, paths, speakers = texts
    start_s, duration_s = times
    return Columns(ids, paths, speakers, start_s, duration_s, _channels(rows, place.get("channel"), wrong))


def _channels(rows: Rows, place: int | None, wrong: WrongRows) -> NDArray[np.int16]:
    channels = np.zeros(len(rows), np.int16)
    if place is not None:
        column = rows.column(place)
        values = floats(column)
        good = (values >= 1) & (values <= MAX_CHANNEL) & (values == np.floor(values))
        rows.refuse((column != b"") & ~good, f"channel is not a whole number from 1 to {MAX_CHANNEL}", wrong)
        channels[good] = values[good]
    return channels


def _not_utf8(texts: Texts) -> Mask:
    bad = np.zeros(len(texts), np.bool_)
    for i, raw in enumerate(texts.tolist()):
        try:
            raw.decode()
        except UnicodeDecodeError:
            bad[i] = True
    return bad
