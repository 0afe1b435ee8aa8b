"""Files of a key and a value per line: `utt2spk`, `spk2gender`, `utt2dur`, `wav.scp`."""

import re
from pathlib import Path

from speakerverif.data import _text
from speakerverif.data._rows import WrongRows
from speakerverif.errors import InputError


def read_pairs(path: str | Path, values_hold_blanks: bool = False) -> dict[str, str]:
    """Return the rows of a file of two columns, key -> value.

    Args:
        path: the file.
        values_hold_blanks: the value is the rest of the line, usually a path; else it is one word.

    Raises:
        InputError: unreadable or empty file, wrong rows (reported together), a key with two values.
    """
    wrong = WrongRows()
    values: dict[str, str] = {}
    where: dict[str, int] = {}
    for line in _text.lines(path, raw_paths=values_hold_blanks):
        fields = re.split(r"[ \t]+", line.text, maxsplit=1 if values_hold_blanks else 0)
        if len(fields) != 2:
            wrong.add(line.number, line.raw, f"{len(fields)} columns, expected 2")
            continue
        key, value = fields
        if values.setdefault(key, value) != value:
            raise InputError(
                f"{path}: {key!r} has the values {values[key]!r} (line {where[key]}) and {value!r} "
                f"(line {line.number})"
            )
        where.setdefault(key, line.number)
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    if not values:
        raise InputError(f"{path}: the file is empty")
    return values
