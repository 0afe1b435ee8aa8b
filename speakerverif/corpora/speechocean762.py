"""speechocean762: read English of 250 Mandarin speakers, children and adults.

Source: Zhang et al. 2021, arXiv 2104.01378; OpenSLR 101. Two layouts are taken: the original one (`train/`
and `test/`), and one with `train/` and `dev/` that comes with its trial lists. `dev` is every second test
speaker in sorted order, from the first. On the original the trial lists are made here, by the rule of the
given ones: half target trials between any two utterances of a speaker; non-targets at random, or
(`trials_hard`) of the same gender and within 5 years of age.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakerverif._util.files import write_json
from speakerverif.corpora._prepared import Prepared, balanced_trials, counts, durations, kaldi_table
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

EXPECTED = {"train": {"speakers": 125, "utterances": 2500}, "dev": {"speakers": 63, "utterances": 1260}}
NUM_TRIALS = 20000
LISTS = ("trials", "trials_hard")
SHAPE = "WAVE/SPEAKER0001/..., train/{wav.scp,utt2spk,spk2gender,spk2age} and the same in test/ (or dev/)"


@dataclass(frozen=True)
class _Split:
    """The utterances of one split, in the order of its `wav.scp`."""

    paths: list[str]  # relative to the corpus root: the ids of manifests and trials
    speakers: list[str]
    folder: Path


def prepare(root: Path, out: Path, seed: int = 0) -> Prepared:
    """Return the corpus's lists: `train.tsv`, `dev.tsv`, `trials/*.txt` and the counts in `prepare.json`.

    Args:
        root: the corpus's folder, in either layout.
        out: where the lists go; its manifests hold absolute paths.
        seed: of the trial lists, where they are made here.

    Raises:
        InputError: not the corpus's root; audio missing, empty or unreadable; a table without an utterance or
            a speaker that another one names; a given trial list that names other files than `dev`.
    """
    root = root.resolve()
    given = (root / "dev" / "wav.scp").is_file()
    _check_shape(root, "dev" if given else "test")
    splits = {"train": _read_split(root / "train"), "dev": _read_split(root / ("dev" if given else "test"))}
    if not given:
        splits["dev"] = _every_second_speaker(splits["dev"])

    (out / "trials").mkdir(parents=True, exist_ok=True)
    paths = [root / path for split in splits.values() for path in split.paths]
    lengths = iter(durations(paths))
    for name, split in splits.items():
        # Speakers are called as their folders are, because that is what a trial's path tells: only so can the
        # record of a scoring count the training speakers among the trials.
        utterances = [
            Utterance(path, str(root / path), f"SPEAKER{speaker}", 0.0, next(lengths))
            for path, speaker in zip(split.paths, split.speakers, strict=True)
        ]
        Manifest.from_utterances(utterances).write(out / f"{name}.tsv")

    lists = {name: out / "trials" / f"{name}.txt" for name in LISTS}
    notes = []
    if given:
        for name, path in lists.items():
            _copy_trials(root / "dev" / f"{name}.txt", path, splits["dev"])
    else:
        made = _make_trials(splits["dev"], seed)
        for name, path in lists.items():
            made[name].write(path)
        sizes = ", ".join(f"{len(made[name])} in {name}" for name in LISTS)
        notes.append(
            f"trial lists made here with seed {seed} ({sizes}): figures don't compare with other lists'"
        )
    found = {name: counts(split.speakers) for name, split in splits.items()}
    for name, count in found.items():
        if count != EXPECTED[name]:
            notes.append(f"{name}: found {_worded(count)}, the corpus has {_worded(EXPECTED[name])}")
    write_json(out / "prepare.json", {"found": found, "expected": EXPECTED, "notes": notes})
    return Prepared(out / "train.tsv", lists, root, notes)


def _check_shape(root: Path, test: str) -> None:
    lacking = [f for f in ("WAVE", "train/wav.scp", f"{test}/wav.scp") if not (root / f).exists()]
    if not lacking:
        return
    better = [root.parent, *(p for p in root.iterdir() if p.is_dir())] if root.is_dir() else []
    hint = next((f"; {p} looks like it" for p in better if (p / "train" / "wav.scp").is_file()), "")
    raise InputError(f"{root}: not speechocean762: no {', '.join(lacking)}; expected {SHAPE}{hint}")


def _read_split(folder: Path) -> _Split:
    paths, speakers = kaldi_table(folder / "wav.scp", SHAPE), kaldi_table(folder / "utt2spk", SHAPE)
    if paths.keys() != speakers.keys():
        odd = sorted(paths.keys() ^ speakers.keys())
        raise InputError(
            f"{folder}: {len(odd)} utterances in only one of wav.scp and utt2spk, first: {odd[:5]}"
        )
    return _Split(list(paths.values()), [speakers[utterance] for utterance in paths], folder)


def _every_second_speaker(split: _Split) -> _Split:
    kept = set(sorted(set(split.speakers))[::2])
    rows = [i for i, speaker in enumerate(split.speakers) if speaker in kept]
    return _Split([split.paths[i] for i in rows], [split.speakers[i] for i in rows], split.folder)


def _copy_trials(source: Path, target: Path, dev: _Split) -> None:
    """Copy a list unchanged, so that its hash is the one that others report."""
    trials = TrialList.read(source)
    strange = sorted(set(trials.ids) - set(dev.paths))
    if strange:
        raise InputError(
            f"{source}: {len(strange)} files that dev/wav.scp doesn't have, first: {strange[:5]}"
        )
    shutil.copyfile(source, target)


def _make_trials(dev: _Split, seed: int) -> dict[str, TrialList]:
    """Return both lists by the rule of the given ones; no pair stands twice, mirrored or not."""
    gender_of, age_of = (kaldi_table(dev.folder / name, SHAPE) for name in ("spk2gender", "spk2age"))
    lacking = sorted(set(dev.speakers) - (gender_of.keys() & age_of.keys()))
    if lacking:
        raise InputError(f"{dev.folder}: spk2gender or spk2age lacks the speakers {', '.join(lacking[:5])}")
    speaker = np.array(dev.speakers)
    gender = np.array([gender_of[s] for s in dev.speakers])
    wrong = sorted(
        {f"{s} {age_of[s]}" for s in dev.speakers if not age_of[s].isdecimal() or len(age_of[s]) > 3}
    )
    if wrong:
        raise InputError(
            f"{dev.folder / 'spk2age'}: ages that are no numbers of years: {', '.join(wrong[:5])}"
        )
    age = np.array([int(age_of[s]) for s in dev.speakers])
    same = speaker[:, None] == speaker
    alike = (gender[:, None] == gender) & (np.abs(age[:, None] - age) <= 5)
    nontargets = {"trials": ~same, "trials_hard": ~same & alike}
    return {
        name: balanced_trials(dev.paths, same, mask, NUM_TRIALS, np.random.default_rng((seed, i)), name)
        for i, (name, mask) in enumerate(nontargets.items(), 1)
    }


def _worded(count: dict[str, int]) -> str:
    return f"{count['speakers']} speakers, {count['utterances']} utterances"
