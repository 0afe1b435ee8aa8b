"""Your own recordings: a folder per speaker, or a list of recordings with their speakers.

Some speakers are held out, drawn by a seed, for a trial list of their recordings: `validation`. The others are trained
on.
"""

from pathlib import Path

import numpy as np

from speakerverif._util.files import write_json
from speakerverif.audio.files import SUFFIXES
from speakerverif.corpora._prepared import Prepared, balanced_trials, counts, durations, is_junk
from speakerverif.data.formats.manifests import read_training_manifest
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError

HELD_OUT, MAX_HELD_OUT = 0.2, 100  # share of the speakers, and their largest number
NUM_TRIALS = 20_000


def prepare(root: Path, out: Path, seed: int = 0) -> Prepared:
    """Return the lists of your recordings: `train.tsv`, `validation.tsv` and `trials/validation.txt`.

    Every fifth speaker is held out, 2 at least and 100 at most, of those with two recordings or more. Half of the
    trials are between two recordings of a speaker.

    Args:
        root: a folder that holds one folder of recordings per speaker, or a list in a format that `train --manifest`
            takes.
        out: folder for the lists.
        seed: of the choice of speakers and trials.

    Raises:
        InputError: no recordings; fewer than four speakers, or fewer than two of them with two recordings; a recording
            that is missing, empty or unreadable.
    """
    manifest = read_training_manifest(root) if root.is_file() else _of_folder(root)
    rng = np.random.default_rng(seed)
    held_out = _held_out(manifest, root, rng)
    is_held_out = np.isin(manifest.speaker_index, held_out)
    parts = {"train": manifest.select(~is_held_out), "validation": manifest.select(is_held_out)}
    (out / "trials").mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        part.write(out / f"{name}.tsv")

    validation = parts["validation"]
    same = validation.speaker_index[:, None] == validation.speaker_index
    ids = [utterance.id for utterance in validation]
    trials = balanced_trials(ids, same, ~same, NUM_TRIALS, rng, "validation")
    trials.write(out / "trials" / "validation.txt")
    counted = {name: counts(utterance.speaker for utterance in part) for name, part in parts.items()}
    write_json(out / "prepare.json", {"found": counted, "trials": len(trials), "seed": seed})
    notes = [
        f"{name}: {number['speakers']:,} speakers, {number['utterances']:,} recordings"
        for name, number in counted.items()
    ]
    notes.append(
        f"validation: {len(trials):,} trials, half of them of one speaker, between speakers held out of the training"
    )
    lists = {"validation": out / "trials" / "validation.txt"}
    audio_root = root if root.is_dir() else root.parent
    return Prepared(out / "train.tsv", lists, audio_root, notes, out / "validation.tsv")


def _held_out(manifest: Manifest, root: Path, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of the speakers that are held out."""
    per_speaker = np.bincount(manifest.speaker_index)
    several = np.flatnonzero(per_speaker >= 2)
    if len(per_speaker) < 4 or len(several) < 2:
        raise InputError(
            f"{root}: {len(per_speaker)} speakers, {len(several)} of them with two recordings or more; expected 4 or "
            "more, 2 of them with several recordings: some are held out to validate on"
        )
    number = min(max(2, round(HELD_OUT * len(per_speaker))), MAX_HELD_OUT, len(several))
    return rng.permutation(several)[:number]


def _of_folder(root: Path) -> Manifest:
    """Return the recordings of a folder that holds one folder per speaker; ids are paths in it."""
    if not root.is_dir():
        raise InputError(
            f"{root}: expected a folder that holds one folder of recordings per speaker, or a list"
        )
    paths = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(map(is_junk, path.relative_to(root).parts))
    )
    beside = [path for path in paths if path.parent == root]
    if beside:
        raise InputError(
            f"{root}: {len(beside)} recordings are in no speaker's folder, first: {beside[0].name}; expected one "
            "folder of recordings per speaker"
        )
    if not paths:
        raise InputError(f"{root}: no recordings; expected one folder of recordings per speaker")
    names = [path.relative_to(root) for path in paths]
    return Manifest.from_utterances(
        Utterance(name.as_posix(), str(path), name.parts[0], 0.0, duration_s)
        for name, path, duration_s in zip(names, paths, durations(paths), strict=True)
    )
