"""Kaldi's data folders: `wav.scp`, and optionally `segments` and `utt2spk`."""

import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from speakerverif._util.tar import archive_of, part_of
from speakerverif.data import _text
from speakerverif.data._manifest_files import Listed, Utterance, channel_of, is_there
from speakerverif.data._pairs import read_pairs
from speakerverif.data._rows import WrongRows
from speakerverif.errors import InputError

SIDES = "reco2file_and_channel"
_RANGE = re.compile(r"(.+\.ark:\d+)\[(\d+):(\d+)\]")


class _Recording(NamedTuple):
    """A row of `wav.scp`: its line, its path, and the part of the file that it refers to."""

    line: int
    path: str
    start_s: float = 0.0
    duration_s: float | None = None
    channel: int | None = None


def read(folder: Path, root: Path | None, wrong: WrongRows) -> Iterator[Listed]:
    """Yield a folder's utterances: those of `segments`, else the recordings of `wav.scp`.

    A path may name a WAV file in an archive, `wav.ark:offset`, or a range of its samples, `wav.ark:offset[first:last]`,
    counted from 0 and including both ends. `segments` may have a column of channels, counted from 0; without it, the
    recordings that share a file are the channels that `reco2file_and_channel` names.

    Raises:
        InputError: unreadable files, and wrong rows of all files, reported together.
    """
    recordings = _recordings(folder, root, wrong)
    if wrong.count:
        return
    speakers = read_pairs(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    if not (folder / "segments").is_file():
        for name, recording in recordings.items():
            utterance = Utterance(
                name,
                recording.path,
                speakers.get(name, ""),
                recording.start_s,
                recording.duration_s,
                recording.channel,
            )
            yield Listed(recording.line, utterance)
        return
    expected = "expected 'utterance recording start end', and maybe a channel from 0"
    for line in _text.lines(folder / "segments"):
        if not 4 <= len(line.fields) <= 5:
            wrong.add(line.number, line.raw, f"segments: {expected}")
            continue
        name, of, *rest = line.fields
        if of not in recordings:
            wrong.add(line.number, line.raw, f"segments: {of!r} is not in wav.scp")
            continue
        try:
            start, end = map(_text.number, rest[:2])
            channel = channel_of(rest[2], 0) if len(rest) > 2 else None
        except ValueError as error:
            wrong.add(line.number, line.raw, f"segments: {error}: {expected}")
            continue
        recording = recordings[of]
        channel = recording.channel if channel is None else channel
        # Kaldi's -1 is the end of the recording.
        duration = None if end == -1 else end - start
        if recording.duration_s is not None:
            left = recording.duration_s - start
            if left <= 0 or (duration is not None and duration > left + 1e-9):
                wrong.add(
                    line.number, line.raw, f"segments: ends after the {recording.duration_s:g} s of {of!r}"
                )
                continue
            duration = left if duration is None else duration
        speaker = speakers.get(name, "")
        utterance = Utterance(name, recording.path, speaker, recording.start_s + start, duration, channel)
        yield Listed(line.number, utterance)


def _recordings(folder: Path, root: Path | None, wrong: WrongRows) -> dict[str, _Recording]:
    recordings: dict[str, _Recording] = {}
    for line in _text.lines(folder / "wav.scp", raw_paths=True):
        name, *rest = re.split(r"[ \t]+", line.text, maxsplit=1)
        if not rest:
            wrong.add(line.number, line.raw, "wav.scp: expected an id and a path")
        elif rest[0].endswith("|"):
            wrong.add(
                line.number, line.raw, "wav.scp: a command, which is not run; write its output to a file"
            )
        elif name in recordings:
            wrong.add(
                line.number, line.raw, f"wav.scp: id {name!r} is repeated, as in line {recordings[name].line}"
            )
        else:
            try:
                recordings[name] = _recording(line.number, rest[0], folder, root)
            except InputError as error:
                wrong.add(line.number, line.raw, f"wav.scp: {error}")
    if (folder / SIDES).is_file():
        _name_channels(folder / SIDES, recordings, wrong)
    return recordings


def _name_channels(path: Path, recordings: dict[str, _Recording], wrong: WrongRows) -> None:
    """Set the channels of recordings that share a file; a file with one recording has a channel of its own."""
    users = Counter(recording.path for recording in recordings.values())
    for line in _text.lines(path):
        name, *rest = line.fields
        side = {"A": "1", "B": "2"}.get(rest[-1] if rest else "", rest[-1] if rest else "")
        try:
            channel = channel_of(side)
        except ValueError:
            channel = 0
        if len(rest) != 2 or not channel:
            wrong.add(
                line.number,
                line.raw,
                f"{SIDES}: expected 'recording file channel', with A, B or a number from 1",
            )
        elif name in recordings and users[recordings[name].path] > 1:
            recordings[name] = recordings[name]._replace(channel=channel)


def _recording(line: int, path: str, folder: Path, root: Path | None) -> _Recording:
    """Return a row of `wav.scp`; the rate in the WAV header converts a range of samples to seconds."""
    match = _RANGE.fullmatch(path)
    if match is None:
        if path.endswith("]") and ".ark:" in path:
            raise InputError(f"{path}: expected a range of samples as [first:last]")
        return _Recording(line, path)
    archive = archive_of(match[1])
    assert archive is not None
    # The archive is located here, because its header has to be read.
    candidates = [folder / archive, Path(archive)] if root is None else [root / archive]
    where = next(filter(is_there, candidates), candidates[0])
    offset = match[1].removeprefix(archive)
    first, last = int(match[2][:18]), int(match[3][:18])
    if last < first:
        raise InputError(f"{path}: expected the first sample before the last")
    rate = _sample_rate(f"{where.absolute()}{offset}")
    return _Recording(line, f"{where.absolute()}{offset}", first / rate, (last - first + 1) / rate)


def _sample_rate(path: str) -> int:
    """Return the sample rate in the header of a WAV file in an archive."""
    part = part_of(path)
    assert part is not None
    head = part._replace(length=min(part.length, 1 << 12)).open().read()
    at = 12
    while at + 8 <= len(head):
        kind, size = head[at : at + 4], struct.unpack("<I", head[at + 4 : at + 8])[0]
        if kind == b"fmt " and at + 16 <= len(head):
            rate = int(struct.unpack("<I", head[at + 12 : at + 16])[0])
            if rate:
                return rate
        at += 8 + size + size % 2
    raise InputError(f"{path}: no sampling rate in the header of the WAV file there")
