"""What is known of the recordings besides their speaker: gender, age, duration, language, channel, anything."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speakerverif._util.files import open_input
from speakerverif._util.messages import named
from speakerverif.data._rows import WrongRows
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.speakers import read_pairs, read_speakers, speakers_by_path
from speakerverif.errors import InputError


@dataclass(frozen=True)
class Column:
    """One thing known of the recordings.

    Attributes:
        name: what it is, `gender`, say.
        values: id of a file -> value as text; files of which it is not known are absent.
    """

    name: str
    values: Mapping[str, str]


def read_columns(
    sources: Sequence[str], files: Sequence[str], speakers: Mapping[str, str] | None = None
) -> list[Column]:
    """Return the columns of text files, by the ids of the recordings.

    A file is tab-separated with a header that begins with `id`, or has two columns `key value` without a
    header, as Kaldi's `spk2gender` and `utt2dur`. Keys may be ids of recordings, utterances that the `wav.scp`
    beside the file leads to recordings, or speakers; what matches most recordings is taken.

    Args:
        sources: paths; `NAME=PATH` names the column of a two-column file, else its own name does: `spk2gender`
            is `gender`.
        files: ids of the recordings.
        speakers: id of a recording -> speaker; None: told from the paths. The `utt2spk` beside a file is looked
            at too.

    Raises:
        InputError: unreadable files, wrong rows, two columns of one name, no recording found under any key.
    """
    if speakers is None:
        speakers = dict(zip(files, speakers_by_path(files), strict=True))
    found: list[Column] = []
    for source in sources:
        path, name = _path_and_name(source)
        for title, by_key in _tables(path, name).items():
            found.append(Column(title, _by_file(path, by_key, files, speakers)))
    names = [column.name for column in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"columns given twice: {named(twice)}; name one of them with NAME=FILE")
    return found


def durations_of(table: EmbeddingTable) -> list[Column]:
    """Return the durations that were measured when a table was embedded, in seconds; none where none were."""
    known = {name: f"{s:.3f}" for name, s in zip(table.ids, table.durations, strict=True) if math.isfinite(s)}
    return [Column("duration (s)", known)] if known else []


def _path_and_name(source: str) -> tuple[Path, str]:
    name, equals, path = source.partition("=")
    if equals and not Path(source).exists():
        return Path(path), name
    stem = Path(source).stem
    return Path(source), stem.partition("2")[2] or stem


def _tables(path: Path, name: str) -> dict[str, dict[str, str]]:
    """Return column -> key -> value."""
    with open_input(path) as file:
        header = file.readline().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").rstrip("\r\n")
        titles = header.split("\t")
        if titles[0] != "id":
            if len(titles) > 2:
                raise InputError(f"{path}:1: expected a header that begins with id<tab>, found {header!r}")
            return {name: read_pairs(path)}
        lines = file.read().replace(b"\r\n", b"\n").split(b"\n")
    if len(titles) < 2 or len(set(titles)) < len(titles):
        raise InputError(f"{path}:1: expected distinct columns after id, found {header!r}")
    wrong, seen = WrongRows(), set()
    tables: dict[str, dict[str, str]] = {title: {} for title in titles[1:]}
    for number, line in enumerate(lines, 2):
        fields = line.decode("utf-8", "replace").split("\t")
        if not line.strip():
            continue
        if len(fields) != len(titles):
            wrong.add(number, line, f"{len(fields)} columns, expected {len(titles)}")
        elif fields[0] in seen:
            wrong.add(number, line, "an id that stood there before")
        else:
            seen.add(fields[0])
            for title, value in zip(titles[1:], fields[1:], strict=True):
                if value:
                    tables[title][fields[0]] = value
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    return tables


def _by_file(
    path: Path, by_key: Mapping[str, str], files: Sequence[str], speakers: Mapping[str, str]
) -> dict[str, str]:
    """Return id of a recording -> value, by the sort of key that matches most recordings."""
    scp, utt2spk = path.parent / "wav.scp", path.parent / "utt2spk"
    keys = [{name: name for name in files}, speakers]
    if scp.is_file():
        keys.append({audio: key for key, audio in read_pairs(scp).items()})
    if utt2spk.is_file():
        keys.append(read_speakers(utt2spk, files))
    joined = [{name: by_key[of[name]] for name in files if name in of and of[name] in by_key} for of in keys]
    best = max(joined, key=len)
    if not best:
        raise InputError(
            f"{path}: none of its keys ({named(list(by_key))}) is a recording of the trials, an utterance of a "
            f"wav.scp beside it or a known speaker; expected ids like {files[0]}; --speakers utt2spk tells speakers"
        )
    return best
