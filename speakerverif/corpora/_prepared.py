"""Records of a prepared corpus, and functions shared by the corpus modules."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import write_json
from speakerverif._util.json_files import read_json
from speakerverif._util.messages import named
from speakerverif.audio import reading
from speakerverif.data import _text
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

# Folders and files left by systems: an unpacked Mac archive, a Synology NAS, Windows, a file system.
JUNK = frozenset(("__MACOSX", "@eaDir", "#recycle", "Thumbs.db", "desktop.ini", "lost+found"))

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Prepared:
    """A corpus ready for use, as returned by every `prepare(root, out)`."""

    train: Path  # manifest of the training utterances
    trials: dict[str, Path]  # name -> trial list, whose ids are paths relative to `audio_root`
    audio_root: Path
    notes: list[str] = field(default_factory=list)  # facts needed to interpret the results
    # Manifest of the trials' utterances, where their ids are not paths below `audio_root`.
    test: Path | None = None

    def utterances(self, ids: Iterable[str]) -> list[Utterance]:
        """Return whole files as utterances, for the ids in a trial list.

        Raises:
            InputError: ids that are not in the manifest `test`.
        """
        if self.test is None:
            return [Utterance(i, str(self.audio_root / i), "") for i in ids]
        manifest = Manifest.read(self.test)
        row = {name.decode(): i for i, name in enumerate(manifest.ids.tolist())}
        wanted = list(ids)
        missing = [i for i in wanted if i not in row]
        if missing:
            raise InputError(
                f"{self.test}: {len(missing)} files of the trials are not in it: {named(missing)}"
            )
        return [Utterance(i, manifest[row[i]].path, "") for i in wanted]

    def save(self, path: Path) -> None:
        """Write the record as JSON, for later stages of a recipe."""
        trials = {name: str(where) for name, where in self.trials.items()}
        fields = {
            "train": str(self.train),
            "trials": trials,
            "audio_root": str(self.audio_root),
            "notes": self.notes,
            "test": None if self.test is None else str(self.test),
        }
        write_json(path, fields)

    @staticmethod
    def load(path: Path) -> "Prepared":
        """Return the record in a file that `save` wrote.

        Raises:
            InputError: there is no such file, or it is damaged.
        """
        if not path.is_file():
            raise InputError(
                f"{path}: no such file: the corpus has not been prepared; run the stage `prepare`"
            )
        again = "run the stage `prepare` again"
        fields = read_json(path, again)
        try:
            trials = {name: Path(where) for name, where in fields["trials"].items()}
            test = fields.get("test")
            return Prepared(
                Path(fields["train"]),
                trials,
                Path(fields["audio_root"]),
                list(map(str, fields["notes"])),
                Path(test) if test else None,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: damaged ({type(error).__name__}: {error}); {again}") from error


@dataclass(frozen=True)
class PreparedRecordings:
    """Lists of the recordings of a corpus of noise, music or room responses, which has no speakers to train on."""

    lists: dict[str, Path]  # name -> list file that `augment.noise_dir`, `music_dir` or `rir_dir` may name
    audio_root: Path
    notes: list[str] = field(default_factory=list)


def durations(paths: Sequence[Path]) -> list[float]:
    """Return the duration in seconds of every file, from its header.

    Raises:
        InputError: files that are missing, empty or unreadable, with their number and the first few.
    """

    def examine(path: Path) -> tuple[float, str]:
        try:
            if path.stat().st_size == 0:
                return 0.0, "empty"
            duration_s = reading.info(path).duration_s
            return duration_s, "" if duration_s > 0 else "without samples"
        except FileNotFoundError:
            return 0.0, "missing"
        except (InputError, OSError):
            return 0.0, "unreadable"

    with ThreadPoolExecutor(max_workers=min(16, 4 * (os.cpu_count() or 1))) as pool:
        examined = list(pool.map(examine, paths))
    bad = [(path, problem) for path, (_, problem) in zip(paths, examined, strict=True) if problem]
    if bad:
        counts = ", ".join(
            f"{n} {problem}" for problem, n in Counter(problem for _, problem in bad).most_common()
        )
        first = "; ".join(f"{path} ({problem})" for path, problem in bad[:5])
        raise InputError(
            f"{len(bad)} of {len(paths)} audio files can't be used ({counts}), first: {first}. "
            "Restore them, or take them out of the corpus's lists"
        )
    return [duration_s for duration_s, _ in examined]


def kaldi_table(path: Path, shape: str) -> dict[str, str]:
    """Return a Kaldi table: key, white space, value.

    Args:
        path: the file.
        shape: expected contents of the corpus's folder, for the error.

    Raises:
        InputError: no such file, a row that is not a pair, a repeated key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {shape}")
    table: dict[str, str] = {}
    for line in _text.lines(path):
        fields = line.fields
        if len(fields) != 2 or fields[0] in table:
            raise InputError(
                f"{path}:{line.number}: found {line.text[:80]!r}; expected a key not yet used and its value"
            )
        table[fields[0]] = fields[1]
    return table


def recordings_in(folder: Path, pattern: str = "*.wav") -> list[Path]:
    """Return the recordings anywhere in a folder, sorted, without files that a Mac or a NAS has added."""
    return sorted(
        path for path in folder.rglob(pattern) if not any(map(is_junk, path.relative_to(folder).parts))
    )


def is_junk(name: str) -> bool:
    """Return whether a file or folder is hidden (such as AppleDouble's `._a.wav`) or belongs to a system."""
    return name.startswith(".") or name in JUNK


def balanced_trials(
    ids: Sequence[str], targets: Mask, nontargets: Mask, num_trials: int, rng: np.random.Generator, name: str
) -> TrialList:
    """Return a shuffled list of equally many target and non-target trials, each unordered pair at most once.

    Args:
        ids: of the N utterances.
        targets: bool (N, N), symmetric, pairs allowed as target trials.
        nontargets: bool (N, N), symmetric, pairs allowed as non-target trials.
        num_trials: number of trials in all; fewer if there are not enough pairs.
        rng: draws pairs, sides and order.
        name: of the list.

    Raises:
        InputError: no pair allowed as a target trial, or none as a non-target trial.
    """
    pairs = [np.argwhere(np.triu(mask, 1)) for mask in (targets, nontargets)]
    each = min(num_trials // 2, *(len(p) for p in pairs))
    if each == 0:
        raise InputError(
            f"{name}: {len(ids)} utterances give {len(pairs[0])} target and {len(pairs[1])} non-target "
            "pairs; expected some of both: is the corpus complete?"
        )
    drawn = np.concatenate([rng.permutation(p)[:each] for p in pairs])
    labels = np.repeat([True, False], each)
    order = rng.permutation(2 * each)
    drawn = rng.permuted(drawn, axis=1)[order].astype(np.int32)
    return TrialList(tuple(ids), drawn[:, 0], drawn[:, 1], labels[order], name)


def write_lists(
    files: dict[str, list[Path]], expected: dict[str, int], root: Path, out: Path
) -> PreparedRecordings:
    """Check every file and write `out`/<name>.txt, one absolute path per line, and the counts in `prepare.json`.

    Raises:
        InputError: as `durations`.
    """
    durations([path for paths in files.values() for path in paths])
    out.mkdir(parents=True, exist_ok=True)
    for name, paths in files.items():
        (out / f"{name}.txt").write_text("".join(f"{path}\n" for path in paths), "utf-8")
    counted = {name: len(paths) for name, paths in files.items()}
    notes = [
        f"{name}: found {counted[name]} recordings, the corpus has {count}"
        for name, count in expected.items()
        if counted[name] != count
    ]
    write_json(out / "prepare.json", {"found": counted, "expected": expected, "notes": notes})
    return PreparedRecordings({name: out / f"{name}.txt" for name in files}, root, notes)


def counts(speakers: Iterable[str]) -> dict[str, int]:
    """Return the numbers of speakers and utterances, given the speaker of each utterance."""
    of_each = list(speakers)
    return {"speakers": len(set(of_each)), "utterances": len(of_each)}
