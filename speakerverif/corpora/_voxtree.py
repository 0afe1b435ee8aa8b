"""The folder tree of a VoxCeleb corpus: the folders of its speakers and the recordings in them.

A speaker's folder contains folders of videos, which contain the recordings. The arrangement above speakers differs
between users; it is recognised by the names of the folders.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from speakerverif._util.files import replacing, write_json
from speakerverif._util.messages import named
from speakerverif._util.progress import Progress
from speakerverif.corpora._headers import duration_s
from speakerverif.corpora._prepared import is_junk
from speakerverif.errors import InputError

SPEAKER = re.compile(r"id\d{5}")
# In order of preference among files of one recording: a converted file comes before its original.
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")
DEPTH = 3  # folders between the root and the speakers
HEADER = b"id\tpath\tspeaker\tstart_s\tduration_s\n"
# All words in the name of a folder between root and speakers are in the first set, and at least one in the second.
_WORDS = {"vox1", "vox2", "voxceleb", "voxceleb1", "voxceleb2", "dev", "test", "wav", "aac", "m4a", "flac"}
_TELLING = {"dev", "test", "wav", "aac", "m4a", "flac"}
_LOOKED_AT = 200  # folders searched for a better root to suggest in an error

SHAPE = """
  {name}/                  (or {name}/dev/ and {name}/test/, or vox{n}_dev_{kind}/ and so on)
    {kind}/
      {speaker}/           one folder a speaker
        {video}/     one folder a video
          00001.{suffix}"""


@dataclass(frozen=True)
class Corpus:
    """One of the two corpora.

    Attributes:
        name: for messages.
        option: the command-line option for its folder.
        speakers: the pattern of its speakers' names.
        shape: description of its tree, for messages.
    """

    name: str
    option: str
    speakers: re.Pattern[str]
    shape: str


VOX1 = Corpus(
    "VoxCeleb1",
    "--vox1",
    re.compile(r"id1[01]\d{3}"),
    SHAPE.format(name="voxceleb1", n=1, kind="wav", speaker="id10001", video="1zcIwhmdeo4", suffix="wav"),
)
VOX2 = Corpus(
    "VoxCeleb2",
    "--vox2",
    re.compile(r"id0\d{4}"),
    SHAPE.format(name="voxceleb2", n=2, kind="aac", speaker="id00012", video="21Uxsk56VDQ", suffix="m4a"),
)


@dataclass
class Scan:
    """The contents of a tree.

    Attributes:
        speakers: speaker -> (number of recordings, their total seconds).
        compressed: number of m4a recordings, which ffmpeg would have to decode for every crop.
        ignored: kind of other file -> their number.
        problems: recordings that can't be used: (reason, path).
    """

    speakers: dict[str, tuple[int, float]] = field(default_factory=dict)
    compressed: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str]] = field(default_factory=list)


def find_speakers(corpus: Corpus, root: Path) -> dict[str, list[Path]]:
    """Return speaker -> its sorted folders (several where originals and conversions are separate).

    Raises:
        InputError: no such folder, an empty one, one with speakers of another corpus, or one level too high or low.
    """
    where = f"{corpus.option} {root}"
    if not root.is_dir():
        raise InputError(f"{where}: no such folder; expected{corpus.shape}")
    if "\t" in str(root) or "\n" in str(root):
        raise InputError(f"{where}: a tab or a line break in a path can't be written in a manifest")
    if not any(root.iterdir()):
        raise InputError(f"{where}: the folder is empty; expected{corpus.shape}")
    parts = list(_parts(root, DEPTH))
    folders: dict[str, list[Path]] = {}
    for part in parts:
        for name in _folders(part):
            if SPEAKER.fullmatch(name):
                folders.setdefault(name, []).append(part / name)
    if not folders:
        raise InputError(f"{where}: {_why_no_speakers(root)}; expected{corpus.shape}")
    strange = sorted(name for name in folders if not corpus.speakers.fullmatch(name))
    if strange:
        hint = "are --vox1 and --vox2 swapped?" if len(strange) == len(folders) else "is it a level too high?"
        raise InputError(
            f"{where}: {len(strange)} of {len(folders)} speakers are not {corpus.name}'s: {named(strange, 3)}; "
            f"{hint} Expected{corpus.shape}"
        )
    return dict(sorted(folders.items()))


def split_of(folder: Path) -> str:
    """Return `dev` or `test`, whichever is nearest to a speaker's folder in its path; empty if neither is there."""
    for part in reversed(folder.parent.parts[-DEPTH:]):
        words = set(_words(part))
        if words <= _WORDS and len(words & {"dev", "test"}) == 1:
            return (words & {"dev", "test"}).pop()
    return ""


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _words(name: str) -> list[str]:
    return re.split(r"[_\-. ]", name.lower())


def _parts(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the folders that contain speakers' folders, descending only into folders with suitable names."""
    names = _folders(folder)
    if any(SPEAKER.fullmatch(name) for name in names):
        yield folder
    elif depth:
        for name in names:
            words = set(_words(name))
            if words <= _WORDS and words & _TELLING:
                yield from _parts(folder / name, depth - 1)


def _why_no_speakers(root: Path) -> str:
    above = [folder for folder in (root, root.parent) if SPEAKER.fullmatch(folder.name)]
    if above:
        what = "a speaker's" if above[0] == root else "a video's"
        return f"a level too low: this is {what} folder; {above[0].parent} looks like it"
    children = [root / name for name in _folders(root)[:_LOOKED_AT]]
    if not children:
        return "there are files here, but no folders"
    for child in children:
        if next(_parts(child, DEPTH), None):
            return f"a level too high: {child} looks like it"
    return "no folders of speakers (id and five digits) in it"


def scan(corpus: Corpus, folders: dict[str, list[Path]], manifest: Path) -> Scan:
    """Write the manifest of all recordings in the speakers' folders and return the scan.

    Reads one header per file, in threads. A scan without problems is not repeated while the speakers' folders and
    their modification times are the same.
    """
    record = manifest.with_suffix(".json")
    signature = _signature(folders)
    former = _former(record, signature) if manifest.is_file() else None
    if former is not None:
        return former
    record.unlink(missing_ok=True)
    total = Scan()
    workers = min(32, 4 * (os.cpu_count() or 1))
    with (
        Progress(len(folders), f"scan {corpus.name}", "speaker") as progress,
        replacing(manifest) as file,
        ThreadPoolExecutor(workers) as pool,
    ):
        file.write(HEADER)
        for rows, one in pool.map(_scan_speaker, folders, folders.values()):
            file.write(rows)
            total.speakers |= one.speakers
            total.compressed += one.compressed
            total.ignored += one.ignored
            total.problems += one.problems
            progress.update(1)
    if not total.problems:
        kept = {"speakers": total.speakers, "compressed": total.compressed, "ignored": total.ignored}
        write_json(record, {"signature": signature, **kept})
    return total


def _former(record: Path, signature: str) -> Scan | None:
    """Return an earlier scan of the same folders; None if there was none, or its record is damaged."""
    try:
        former = json.loads(record.read_text("utf-8"))
        if former["signature"] == signature:
            return Scan(former["speakers"], int(former["compressed"]), Counter(former["ignored"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _signature(folders: dict[str, list[Path]]) -> str:
    changed = [(str(f), f.stat().st_mtime_ns) for several in folders.values() for f in several]
    return hashlib.sha256(repr(changed).encode()).hexdigest()


def _scan_speaker(speaker: str, folders: list[Path]) -> tuple[bytes, Scan]:
    """Return the manifest rows and the scan of one speaker."""
    partial = Scan()
    recordings: dict[str, list[str]] = {}  # id -> its files
    for folder in folders:
        _list_speaker(speaker, folder, recordings, partial)
    rows, total_s = [], 0.0
    for name in sorted(recordings):
        path = _choose(recordings[name], partial)
        try:
            seconds = duration_s(path)
        except InputError as error:
            partial.problems.append((str(error), path))
            continue
        partial.compressed += path.endswith(".m4a")
        total_s += seconds
        rows.append(f"{name}\t{path}\t{speaker}\t0.0\t{seconds!r}\n")
    partial.speakers[speaker] = (len(rows), total_s)
    return os.fsencode("".join(rows)), partial


def _list_speaker(speaker: str, folder: Path, recordings: dict[str, list[str]], found: Scan) -> None:
    """Add the recordings in one folder of a speaker to `recordings`."""
    videos = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_junk(entry.name):
                found.ignored[_kind(entry.name)] += 1
            elif entry.is_dir():
                videos.append((entry.name, entry.path))
            elif entry.name.endswith(SUFFIXES):
                found.problems.append(("outside a video's folder", entry.path))
            else:
                found.ignored[_kind(entry.name)] += 1
    if not videos:
        found.problems.append(("a speaker's folder without videos", str(folder)))
    for video, where in sorted(videos):
        seen = 0
        with os.scandir(where) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.rpartition(".")
                suffix = f".{suffix}"
                if suffix not in SUFFIXES or not stem or is_junk(entry.name):
                    found.ignored[_kind(entry.name)] += 1
                    continue
                if "\t" in entry.name or "\n" in entry.name:
                    found.problems.append(("a tab or a line break in its name", entry.path))
                    continue
                seen += 1
                # The id in the trial lists, whatever format the file was converted to.
                recordings.setdefault(f"{speaker}/{video}/{stem}.wav", []).append(entry.path)
        if not seen:
            found.problems.append(("a video's folder without recordings", where))


def _choose(paths: list[str], found: Scan) -> str:
    """Return the file to use among those of one recording."""
    if len(paths) == 1:
        return paths[0]
    kinds = [SUFFIXES.index(f".{path.rpartition('.')[2]}") for path in paths]
    best = min(kinds)
    chosen, *same = (path for path, kind in zip(paths, kinds, strict=True) if kind == best)
    found.problems += [(f"twice: the same recording as {chosen}", path) for path in same]
    found.ignored.update(f"{SUFFIXES[kind]} beside {SUFFIXES[best]}" for kind in kinds if kind != best)
    return chosen


def _kind(name: str) -> str:
    """Return the kind that an ignored file is counted under."""
    return "hidden" if name.startswith(".") else f"*{Path(name).suffix}"
