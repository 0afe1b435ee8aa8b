"""Lists of recordings as other toolkits write them, read as a `Manifest`.

Nothing in a list is executed: a wav.scp entry that is a command is an error, where Kaldi would run it.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from speakerverif._util.files import open_input
from speakerverif._util.tar import members, part_of
from speakerverif.data._rows import WrongRows
from speakerverif.data.formats._lhotse import lhotse_cut
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError

SPEECHBRAIN_RATE = 16000  # its recipes count `start` and `stop` in samples at this rate, whatever the file's
SHARD_NOTES = (".spk", ".vad")  # what stands in a shard beside a recording, under its name


def read_manifest(path: str | Path, audio_root: str | Path | None = None) -> Manifest:
    """Return the utterances of a list; what kind of list it is shows in its name.

    A folder with `wav.scp` (and `segments`, `utt2spk`) is Kaldi's; `.csv` SpeechBrain's; `.list` WeSpeaker's, of
    recordings or of shards; `.jsonl` and `.json` Lhotse's cuts or WeSpeaker's raw list, an object a line, also
    gzipped (`.gz`); `.rttm` a diarization; anything else our own TSV.

    Args:
        path: the file or folder.
        audio_root: folder of relative paths, of `$data_root` in a CSV, and of an RTTM's recordings. By default
            relative paths are looked for beside the list and then, as those toolkits do, from the current folder.

    Raises:
        InputError: unreadable, wrong rows (reported together), an id twice, a recording that can't be told.
    """
    path = Path(path)
    root = None if audio_root is None else Path(audio_root)
    if path.is_dir():
        return _kaldi(path, root)
    readers = {
        ".csv": _speechbrain,
        ".list": _wespeaker,
        ".jsonl": _objects,
        ".json": _objects,
        ".rttm": _rttm,
    }
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind not in readers:
        return Manifest.read(path)
    wrong = WrongRows()
    rows = list(readers[kind](path, root, wrong))
    return _manifest(rows, path, root, wrong)


def read_training_manifest(path: str | Path, audio_root: str | Path | None = None) -> Manifest:
    """Return the utterances of a list to train on; as `read_manifest`.

    Raises:
        InputError: utterances without a speaker.
    """
    manifest = read_manifest(path, audio_root)
    if "" in manifest.speakers:
        nobody = manifest.speaker_index == manifest.speakers.index("")
        first = manifest[int(nobody.argmax())].id
        raise InputError(
            f"{path}: {nobody.sum()} of {len(manifest)} utterances have no speaker, {first!r} the first; "
            "training needs to know them"
        )
    return manifest


def _manifest(rows: list[Utterance], path: Path, root: Path | None, wrong: WrongRows) -> Manifest:
    """Return rows as a manifest, relative paths made whole by one folder for all of them."""
    if wrong.count:
        raise InputError(f"{path}: {wrong}")
    if not rows:
        raise InputError(f"{path}: no utterances in it")
    root = _root(path, root, rows[0].path)
    return Manifest.from_utterances(
        Utterance(u.id, str(root / u.path), u.speaker, u.start_s, u.duration_s) for u in rows
    )


def _root(path: Path, root: Path | None, first: str) -> Path:
    """Return the folder of a list's relative paths: the one given, else the list's or the current one."""
    if root is not None:
        return root
    part = part_of(first)
    beside = path if path.is_dir() else path.parent
    return beside if (beside / (part.archive if part else first)).exists() else Path()


def _kaldi(folder: Path, root: Path | None) -> Manifest:
    wrong = WrongRows()
    recordings, speakers = {}, {}
    for number, line, fields in _lines(folder / "wav.scp", 1):
        if len(fields) < 2:
            wrong.add(number, line.encode(), "expected an id and a path")
        elif line.endswith("|"):
            wrong.add(number, line.encode(), "a command, which is not run; write its output to a file")
        else:
            recordings[fields[0]] = line.split(None, 1)[1]
    if (folder / "utt2spk").is_file():
        speakers = {fields[0]: fields[-1] for _, _, fields in _lines(folder / "utt2spk", 2)}
    rows = []
    if (folder / "segments").is_file():
        for number, line, fields in _lines(folder / "segments", 4):
            try:
                start, end = float(fields[2]), float(fields[3])
                rows.append(
                    Utterance(
                        fields[0],
                        recordings[fields[1]],
                        speakers.get(fields[0], ""),
                        start,
                        None if end < 0 else end - start,
                    )
                )
            except (ValueError, KeyError):
                wrong.add(
                    number, line.encode(), "expected 'utterance recording start end', recording in wav.scp"
                )
    else:
        rows = [Utterance(name, where, speakers.get(name, "")) for name, where in recordings.items()]
    return _manifest(rows, folder, root, wrong)


def _speechbrain(path: Path, root: Path | None, wrong: WrongRows) -> Iterator[Utterance]:
    """Yield the rows of a CSV with the columns ID and wav, and start, stop, spk_id where it has them."""
    with open_input(path) as file:
        table = csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""), skipinitialspace=True)
        if not {"ID", "wav"} <= set(table.fieldnames or ()):
            raise InputError(
                f"{path}:1: expected the columns ID and wav, found {', '.join(table.fieldnames or ())}"
            )
        for row in table:
            shown = ",".join(str(value) for value in row.values()).encode()
            where = row["wav"] or ""
            for placeholder in ("$data_root/", "{data_root}/"):
                if where.startswith(placeholder):
                    if root is None:
                        raise InputError(
                            f"{path}: {where}: say with --audio-root where {placeholder[:-1]} is"
                        )
                    where = where.removeprefix(placeholder)
            try:
                start, stop = (
                    float(row[k]) / SPEECHBRAIN_RATE if row.get(k) else None for k in ("start", "stop")
                )
                length = None if stop is None else stop - (start or 0.0)
                yield Utterance(row["ID"], where, row.get("spk_id") or "", start or 0.0, length)
            except ValueError:
                wrong.add(table.line_num, shown, "start and stop are not numbers of samples")


def _wespeaker(path: Path, root: Path | None, wrong: WrongRows) -> Iterator[Utterance]:
    """Yield the utterances of a raw list, a JSON object a line, or of a list of shards, a path a line."""
    lines = list(_lines(path, 1))
    if lines and lines[0][1].startswith("{"):
        yield from _objects(path, root, wrong)
        return
    for number, line, _ in lines:
        shard = _root(path, root, lines[0][1]) / line
        try:
            found = list(members(shard))
        except InputError as error:
            wrong.add(number, line.encode(), str(error))
            continue
        speakers = {name.removesuffix(".spk"): part for name, part in found if name.endswith(".spk")}
        recordings = [(name, part) for name, part in found if Path(name).suffix not in SHARD_NOTES]
        if not recordings:
            wrong.add(number, line.encode(), "no recordings in this shard")
        for name, part in recordings:
            key = name.removesuffix(Path(name).suffix)
            speaker = (
                speakers[key].open().read().decode("utf-8", "replace").strip() if key in speakers else ""
            )
            # Where the shard lies is settled here: its table of contents had to be read.
            yield Utterance(key, str(part._replace(archive=str(shard.absolute()))), speaker)


def _objects(path: Path, root: Path | None, wrong: WrongRows) -> Iterator[Utterance]:
    """Yield the rows of a file of a JSON object a line: Lhotse's cuts, or WeSpeaker's {"key", "wav", "spk"}."""
    for number, line, _ in _lines(path, 1):
        try:
            row: Any = json.loads(line)
            if "recording" in row:
                yield lhotse_cut(row)
            else:
                yield Utterance(str(row["key"]), str(row["wav"]), str(row.get("spk", "")))
        except InputError as error:
            wrong.add(number, line.encode(), str(error))
        except (ValueError, KeyError, TypeError, AttributeError):
            wrong.add(
                number,
                line.encode(),
                'expected a JSON object with "key" and "wav" (WeSpeaker), or a cut with its "recording" (Lhotse)',
            )


def _rttm(path: Path, root: Path | None, wrong: WrongRows) -> Iterator[Utterance]:
    """Yield the SPEAKER rows of a diarization; ids are `recording-start-end` in milliseconds."""
    folder = path.parent if root is None else root
    found: dict[str, str] = {}
    for number, line, fields in _lines(path, 1):
        if fields[0] != "SPEAKER":
            continue
        try:
            name, start, length, speaker = fields[1], float(fields[3]), float(fields[4]), fields[7]
        except (ValueError, IndexError):
            wrong.add(number, line.encode(), "expected 'SPEAKER file channel start duration ... speaker'")
            continue
        if name not in found:
            files = sorted(p for p in folder.glob(f"{name}.*") if p.suffix not in (".rttm", ".txt", ".lab"))
            if len(files) != 1:
                raise InputError(
                    f"{path}: {len(files)} files named {name}.* in {folder}; say where with --audio-root"
                )
            found[name] = files[0].name
        ident = f"{name}-{round(1000 * start):07d}-{round(1000 * (start + length)):07d}-{speaker}"
        yield Utterance(ident, found[name], speaker, start, length)


def _lines(path: Path, least: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield number, text and fields of every line that is not blank.

    Raises:
        InputError: unreadable, or a line with fewer fields than `least`.
    """
    with open_input(path) as file:
        lines = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
        for number, raw in enumerate(_unzipped(lines, path), 1):
            line = raw.decode("utf-8", "replace").strip()
            fields = line.split()
            if line and len(fields) < least:
                raise InputError(f"{path}:{number}: expected {least} columns or more, found {line[:80]!r}")
            if line:
                yield number, line, fields


def _unzipped(lines: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from lines
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged: {error}") from error
