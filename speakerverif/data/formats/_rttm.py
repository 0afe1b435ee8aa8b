"""Diarizations in RTTM files: every SPEAKER row is an utterance."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from speakerverif.data import _text
from speakerverif.data._manifest_files import Listed, Utterance, channel_of
from speakerverif.data._rows import WrongRows
from speakerverif.errors import InputError

# Other row types of the format, which don't describe who speaks when.
OTHER_ROWS = frozenset(
    (
        *("SPKR-INFO", "SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER"),
        *("EDIT", "SU", "CB", "IP", "A/P"),
    )
)
# Endings of other files with a recording's name in the same folder.
NOTES = frozenset(
    (".rttm", ".txt", ".lab", ".json", ".csv", ".uem", ".stm", ".ctm", ".textgrid", ".xml", ".md")
)
_EXPECTED = "expected 'SPEAKER file channel start duration ... speaker'"


def read(path: Path, root: Path | None, wrong: WrongRows) -> Iterator[Listed]:
    """Yield the SPEAKER rows of a diarization; ids are `recording-start-end-speaker`, in milliseconds.

    Recordings are found by their names without the ending, in the audio root or else in the file's folder.

    Raises:
        InputError: unreadable; no recording with a name, or several.
    """
    folder = path.parent if root is None else root
    folders: dict[Path, dict[str, list[str]]] = {}
    recordings: dict[str, str] = {}
    for line in _text.lines(path):
        fields = line.fields
        if fields[0] != "SPEAKER":
            if fields[0] not in OTHER_ROWS and not fields[0].startswith(";;"):
                wrong.add(line.number, line.raw, f"{fields[0][:20]!r} is no kind of row; {_EXPECTED}")
            continue
        try:
            name, speaker = fields[1], fields[7]
            start, length = _text.number(fields[3]), _text.number(fields[4])
            channel = None if fields[2] == "<NA>" else channel_of(fields[2])
        except (ValueError, IndexError):
            wrong.add(line.number, line.raw, _EXPECTED)
            continue
        if not (start >= 0 and length > 0):
            wrong.add(line.number, line.raw, f"{length:g} s from {start:g} s on; expected a positive length")
            continue
        if name not in recordings:
            recordings[name] = _recording(name, folder, folders, f"{path}:{line.number}")
        ident = f"{name}-{round(1000 * start):07d}-{round(1000 * (start + length)):07d}-{speaker}"
        who = "" if speaker == "<NA>" else speaker
        yield Listed(line.number, Utterance(ident, recordings[name], who, start, length, channel))


def _recording(name: str, folder: Path, folders: dict[Path, dict[str, list[str]]], where: str) -> str:
    """Return the absolute path of the only file with a name."""
    place, stem = (folder / name).parent, Path(name).name
    if place not in folders:
        folders[place] = _by_stem(place)
    files = folders[place].get(stem, [])
    if len(files) != 1:
        listed = f" ({', '.join(sorted(files))})" if files else ""
        raise InputError(
            f"{where}: {len(files)} files named {stem}.* in {place}{listed}; say where with --audio-root"
        )
    return str((place / files[0]).absolute())


def _by_stem(folder: Path) -> dict[str, list[str]]:
    """Return name without ending -> names of the recordings in a folder."""
    names: dict[str, list[str]] = defaultdict(list)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, ending = os.path.splitext(entry.name)  # noqa: PTH122
                if (
                    ending
                    and ending.lower() not in NOTES
                    and not entry.name.startswith(".")
                    and entry.is_file()
                ):
                    names[stem].append(entry.name)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error
    return names
