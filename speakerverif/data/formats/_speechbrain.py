"""SpeechBrain's CSV files of recordings."""

from collections.abc import Iterator
from pathlib import Path

from speakerverif._util.messages import named
from speakerverif.data import _text
from speakerverif.data._manifest_files import Listed, Utterance, channel_of
from speakerverif.data._rows import WrongRows
from speakerverif.errors import InputError

# SpeechBrain's recipes count `start` and `stop` in samples at this rate, whatever the file's rate.
SAMPLE_RATE = 16000
_PLACEHOLDERS = ("$data_root/", "{data_root}/")


def read(path: Path, root: Path | None, wrong: WrongRows) -> Iterator[Listed]:
    """Yield the rows of a CSV with the columns ID and wav, and optionally start, stop, spk_id and channel (from 1).

    Raises:
        InputError: unreadable, other columns, or `$data_root` without an audio root.
    """
    rows = _text.csv_rows(path)
    first, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not {"ID", "wav"} <= set(names):
        what = (
            f"columns given twice: {named(repeated)}"
            if repeated
            else f"found {', '.join(names) or 'nothing'}"
        )
        raise InputError(f"{path}:{first}: expected the columns ID and wav; {what}")
    for number, fields in rows:
        shown = ",".join(fields).encode()
        if len(fields) != len(names):
            wrong.add(number, shown, f"{len(fields)} columns, expected {len(names)}")
            continue
        row = dict(zip(names, (field.strip(_text.BLANKS) for field in fields), strict=True))
        try:
            start, stop = (_samples(row.get(name, "")) for name in ("start", "stop"))
        except ValueError as error:
            wrong.add(number, shown, f"start and stop are not numbers of samples: {error}")
            continue
        try:
            channel = channel_of(row["channel"]) if row.get("channel") else None
        except ValueError as error:
            wrong.add(number, shown, f"{error}; channels are counted from 1")
            continue
        where = _within(row["wav"], root, f"{path}:{number}")
        duration = None if stop is None else (stop - (start or 0.0)) / SAMPLE_RATE
        speaker = row.get("spk_id", "")
        start_s = (start or 0.0) / SAMPLE_RATE
        yield Listed(number, Utterance(row["ID"], where, speaker, start_s, duration, channel))


def _samples(text: str) -> float | None:
    return _text.number(text) if text else None


def _within(path: str, root: Path | None, where: str) -> str:
    """Return a path with the placeholder of the corpus's folder resolved."""
    for placeholder in _PLACEHOLDERS:
        if path.startswith(placeholder):
            if root is None:
                raise InputError(f"{where}: {path}: say with --audio-root where {placeholder[:-1]} is")
            return path.removeprefix(placeholder)
    return path
