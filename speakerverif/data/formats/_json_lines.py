"""Files of one JSON object per line: Lhotse's cuts, and WeSpeaker's raw lists."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speakerverif.data import _text
from speakerverif.data._manifest_files import Listed, Utterance
from speakerverif.data._rows import WrongRows
from speakerverif.data.formats._lhotse import lhotse_cut
from speakerverif.errors import InputError

_EXPECTED = 'expected a JSON object with "key" and "wav" (WeSpeaker), or a cut with its "recording" (Lhotse)'


def read(path: Path, root: Path | None, wrong: WrongRows) -> Iterator[Listed]:
    """Yield the utterances; invalid rows go to `wrong`."""
    for line in _text.lines(path):
        try:
            row = _object(line.text)
            yield Listed(line.number, lhotse_cut(row) if "recording" in row else _raw(row))
        except InputError as error:
            wrong.add(line.number, line.raw, str(error))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
            wrong.add(line.number, line.raw, _EXPECTED)
        except RecursionError:
            wrong.add(line.number, line.raw, "objects nested too deeply")


def _raw(row: dict[str, Any]) -> Utterance:
    """Return the utterance of WeSpeaker's {"key", "wav", "spk"}."""
    texts = row["key"], row["wav"], row.get("spk", "")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not texts")
    return Utterance(*texts)


def _object(text: str) -> dict[str, Any]:
    row = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    if not isinstance(row, dict):
        raise TypeError("not an object")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"{next(n for n in names if names.count(n) > 1)!r} is given twice in one object")
    return row


def _refuse_constant(name: str) -> None:
    raise InputError(f"{name} is no number")
