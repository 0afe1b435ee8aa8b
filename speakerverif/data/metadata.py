"""Metadata of recordings: gender, age, duration, language, channel or any other attribute."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speakerverif._util.messages import named
from speakerverif.data import _text
from speakerverif.data._pairs import read_pairs
from speakerverif.data._rows import WrongRows
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.speakers import read_speakers, speakers_by_path
from speakerverif.errors import InputError


@dataclass(frozen=True)
class Column:
    """One attribute of the recordings.

    Attributes:
        name: of the attribute, such as `gender`.
        values: id of a file -> value as text; files without a known value are absent.
    """

    name: str
    values: Mapping[str, str]


def read_columns(
    sources: Sequence[str], files: Sequence[str], speakers: Mapping[str, str] | None = None
) -> list[Column]:
    """Return the columns of text files, by the ids of the recordings.

    A file is tab-separated with a header that begins with `id`, or has two columns `key value` without a
    header, like Kaldi's `spk2gender` and `utt2dur`. Keys may be recordings, utterances that a `wav.scp` in the
    same folder maps to recordings, or speakers; the kind of key that matches most recordings is used.

    Args:
        sources: paths; `NAME=PATH` names the column of a two-column file, whose default name comes from the
            file's: `gender` for `spk2gender`.
        files: ids of the recordings.
        speakers: id of a recording -> speaker; None: taken from the paths. An `utt2spk` in a file's folder is
            used too.

    Raises:
        InputError: unreadable files, wrong rows, two columns with one name, keys that match no recording.
    """
    if speakers is None:
        speakers = dict(zip(files, speakers_by_path(files), strict=True))
    all_columns: list[Column] = []
    for source in sources:
        path, name = _path_and_name(source)
        for title, by_key in _tables(path, name).items():
            all_columns.append(Column(title, _by_file(path, by_key, files, speakers)))
    names = [column.name for column in all_columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"columns given twice: {named(twice)}; name one of them with NAME=FILE")
    return all_columns


def durations_of(table: EmbeddingTable) -> list[Column]:
    """Return the durations in a table, in seconds, as a column; an empty list where it has none."""
    seconds = {
        name: f"{s:.3f}" for name, s in zip(table.ids, table.durations, strict=True) if math.isfinite(s)
    }
    return [Column("duration (s)", seconds)] if seconds else []


def _path_and_name(source: str) -> tuple[Path, str]:
    name, equals, path = source.partition("=")
    if equals and not Path(source).exists():
        return Path(path), name
    stem = Path(source).stem
    return Path(source), stem.partition("2")[2] or stem


def _tables(path: Path, name: str) -> dict[str, dict[str, str]]:
    """Return column -> key -> value."""
    lines = _text.lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path}: the file is empty")
    titles = first.columns
    if titles[0] != "id":
        if len(titles) > 2:
            raise InputError(
                f"{path}:{first.number}: expected a header that begins with id<tab>, found {first.text!r}"
            )
        return {name: read_pairs(path)}
    if len(titles) < 2 or len(set(titles)) < len(titles) or not all(titles):
        raise InputError(f"{path}:{first.number}: expected distinct columns after id, found {first.text!r}")
    wrong = WrongRows()
    seen: dict[str, int] = {}
    tables: dict[str, dict[str, str]] = {title: {} for title in titles[1:]}
    for line in lines:
        key, *values = line.columns
        if len(values) != len(titles) - 1:
            wrong.add(line.number, line.raw, f"{len(values) + 1} columns, expected {len(titles)}")
        elif key in seen:
            wrong.add(line.number, line.raw, f"an id that is repeated, as in line {seen[key]}")
        else:
            seen[key] = line.number
            for title, value in zip(titles[1:], values, strict=True):
                if value:
                    tables[title][key] = value
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    return tables


def _by_file(
    path: Path, by_key: Mapping[str, str], files: Sequence[str], speakers: Mapping[str, str]
) -> dict[str, str]:
    """Return id of a recording -> value, by the kind of key that matches most recordings."""
    scp, utt2spk = path.parent / "wav.scp", path.parent / "utt2spk"
    keys = [{name: name for name in files}, speakers]
    if scp.is_file():
        keys.append({audio: key for key, audio in read_pairs(scp, values_hold_blanks=True).items()})
    if utt2spk.is_file():
        keys.append(read_speakers(utt2spk, files))
    joined = [{name: by_key[of[name]] for name in files if name in of and of[name] in by_key} for of in keys]
    best = max(joined, key=len)
    if not best:
        raise InputError(
            f"{path}: none of its keys ({named(list(by_key))}) is a recording of the trials, an utterance of a "
            f"wav.scp in its folder or a known speaker; expected ids like {files[0]}; "
            "--speakers utt2spk names the speakers"
        )
    return best
