"""Lists of recordings in other toolkits' formats, read as a `Manifest`.

Nothing in a list is executed: a wav.scp entry that is a command is an error, where Kaldi would run it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from speakerverif.data._manifest_files import (
    Columns,
    Listed,
    blocks_of,
    joined,
    manifest_blocks,
    refuse_unreadable_paths,
    root_of,
)
from speakerverif.data._rows import Places, WrongRows
from speakerverif.data.formats import _json_lines, _kaldi, _rttm, _speechbrain, _wespeaker
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError

# Yields a list's utterances with their lines, given its path and `audio_root`; collects wrong rows.
Reader = Callable[[Path, Path | None, WrongRows], Iterator[Listed]]
READERS: dict[str, Reader] = {
    ".csv": _speechbrain.read,
    ".list": _wespeaker.read,
    ".jsonl": _json_lines.read,
    ".json": _json_lines.read,
    ".rttm": _rttm.read,
}


def read_manifest(path: str | Path, audio_root: str | Path | None = None) -> Manifest:
    """Return the utterances of a list; its name determines the format.

    A folder with `wav.scp` (and `segments`, `utt2spk`) is Kaldi's; `.csv` SpeechBrain's; `.list` WeSpeaker's, of
    recordings or of shards; `.jsonl` and `.json` Lhotse's cuts or WeSpeaker's raw list, one object per line;
    `.rttm` a diarization; any other name our TSV. Files may be gzipped (`.gz`).

    Args:
        path: the file or folder.
        audio_root: folder that relative paths start from, and `$data_root` of a CSV. None: the list's folder, or the
            current one where some of the first files are there and none in the list's folder.

    Raises:
        InputError: unreadable, not UTF-8, wrong rows (reported together), a repeated id (with both lines), a
            recording that can't be identified.
    """
    columns, line = joined(_blocks(Path(path), audio_root), path)
    start = root_of(Path(path), None if audio_root is None else Path(audio_root), columns.paths)
    refuse_unreadable_paths(columns, line, start, Path(path))
    return Manifest.of_columns(columns, start)


def iter_manifest(path: str | Path, audio_root: str | Path | None = None) -> Iterator[Listed]:
    """Yield the utterances of a list with their lines, as `read_manifest` returns them; the list isn't in memory.

    A Kaldi folder's `wav.scp` and `utt2spk` are, as is an `.rttm`'s folder.

    Raises:
        InputError: as `read_manifest`, but for a repeated id; wrong rows at the end.
    """
    start: str | None = None
    for columns, lines in _blocks(Path(path), audio_root):
        if start is None:
            start = root_of(Path(path), None if audio_root is None else Path(audio_root), columns.paths)
        refuse_unreadable_paths(columns, lines, start, Path(path))
        yield from map(Listed, lines.tolist(), Manifest.of_columns(columns, start))


def _blocks(path: Path, audio_root: str | Path | None) -> Iterator[tuple[Columns, Places]]:
    if path.is_dir():
        reader: Reader | None = _kaldi.read
    else:
        reader = READERS.get(Path(path.stem).suffix if path.suffix == ".gz" else path.suffix)
    if reader is None:
        return manifest_blocks(path)
    wrong = WrongRows()
    return blocks_of(reader(path, None if audio_root is None else Path(audio_root), wrong), path, wrong)


def read_training_manifest(path: str | Path, audio_root: str | Path | None = None) -> Manifest:
    """Return the utterances of a training list, as `read_manifest`.

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
