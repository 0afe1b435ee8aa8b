"""VoxCeleb1 and VoxCeleb2: celebrities in videos. Train on the dev part of the second, test on the first.

Source: Nagrani, Chung, Zisserman 2017, arXiv 1706.08612; Chung, Nagrani, Zisserman 2018, arXiv 1806.05622. The audio
is not distributed with this package: `prepare` checks the user's copy. VoxCeleb1's 40 test speakers are id10270 to
id10309. VoxCeleb2's test speakers are recognised only by a folder named dev or test above them; a tree without such
folders is taken for dev if it has exactly the number of speakers of dev.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speakerverif._util.files import write_json
from speakerverif._util.messages import named
from speakerverif.corpora import _m4a
from speakerverif.corpora._prepared import Prepared
from speakerverif.corpora._voxtree import VOX1, VOX2, Corpus, find_speakers, scan, split_of
from speakerverif.data.manifest import Manifest
from speakerverif.data.trial_audit import known_list
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

EXPECTED = {
    "VoxCeleb1 dev": {"speakers": 1211, "utterances": 148642},
    "VoxCeleb1 test": {"speakers": 40, "utterances": 4874},
    "VoxCeleb2 dev": {"speakers": 5994, "utterances": 1092009},
    "VoxCeleb2 test": {"speakers": 118, "utterances": 36237},
}
ALL1, TEST1 = ({f"id{n}" for n in numbers} for numbers in (range(10001, 11252), range(10270, 10310)))
NEEDED = ("VoxCeleb1 test", "VoxCeleb2 dev")  # the other parts may be complete or missing
LIST_FILES = (
    "veri_test.txt",
    "veri_test2.txt",
    "list_test_all.txt",
    "list_test_all2.txt",
    "list_test_hard.txt",
    "list_test_hard2.txt",
)
LIST_NAMES = {
    "VoxCeleb1-O (original)": "vox1_o",
    "VoxCeleb1-O (cleaned)": "vox1_o_cleaned",
    "VoxCeleb1-E (original)": "vox1_e",
    "VoxCeleb1-E (cleaned)": "vox1_e_cleaned",
    "VoxCeleb1-H (original)": "vox1_h",
    "VoxCeleb1-H (cleaned)": "vox1_h_cleaned",
}
PARTIAL = "--partial (of a recipe: --set data.partial=true)"
Counts = dict[str, dict[str, int]]


def prepare(
    root: Path | None,
    out: Path,
    *,
    vox1: Path | None = None,
    vox2: Path | None = None,
    trials: Sequence[Path] = (),
    partial: bool = False,
) -> Prepared:
    """Return the corpora's lists: `voxceleb2_dev.tsv` to train on, `voxceleb1.tsv` and `trials/` to test on.

    If VoxCeleb2 is m4a, it is decoded into `out`/wav and listed in `train.tsv`. Finished scans and decoded files are
    kept from earlier runs. `prepare.json` has counts and notes, `problems.txt` lists every file that can't be used.

    Args:
        root: contains `voxceleb1/` and `voxceleb2/`; required unless `vox1` and `vox2` are given.
        out: folder for the lists.
        vox1: VoxCeleb1's folder, which is also searched for trial lists.
        vox2: VoxCeleb2's folder.
        trials: trial lists in other folders.
        partial: accept an incomplete tree, and leave out files that can't be used.

    Raises:
        InputError: not the corpora's folders; files missing, empty or damaged, or a wrong number of them (unless
            `partial`); no ffmpeg for m4a; a trial list without its audio, or no list.
    """
    places = {VOX1: _place(root, vox1, VOX1), VOX2: _place(root, vox2, VOX2)}
    trees = {corpus: find_speakers(corpus, place) for corpus, place in places.items()}
    lists = _find_lists(places[VOX1], trials)
    training = {s: f for s, f in trees[VOX2].items() if split_of(f[0]) != "test"}
    spare = {s: f for s, f in trees[VOX2].items() if s not in training}
    out.mkdir(parents=True, exist_ok=True)

    test_list, train_list = out / "voxceleb1.tsv", out / "voxceleb2_dev.tsv"
    evaluated = scan(VOX1, trees[VOX1], test_list)
    trained = scan(VOX2, training, train_list)
    spared = scan(VOX2, spare, out / "voxceleb2_test.tsv")
    splits: dict[str, dict[str, tuple[int, float]]] = {
        "VoxCeleb1 dev": {},
        "VoxCeleb1 test": {},
        "VoxCeleb2 dev": trained.speakers,
        "VoxCeleb2 test": spared.speakers,
    }
    for speaker, one in evaluated.speakers.items():
        splits["VoxCeleb1 test" if speaker in TEST1 else "VoxCeleb1 dev"][speaker] = one
    counted = {
        name: {"speakers": len(s), "utterances": sum(n for n, _ in s.values())} for name, s in splits.items()
    }
    hours = {name: sum(seconds for _, seconds in s.values()) / 3600 for name, s in splits.items()}
    notes = _ignored(evaluated.ignored + trained.ignored + spared.ignored)
    problems = evaluated.problems + trained.problems + spared.problems
    _report_problems(problems, out, partial, notes)
    notes += _check_counts(counted, trees, partial)
    kept, records = _check_lists(lists, test_list, out / "trials", notes)
    _m4a.require_ffmpeg(evaluated.compressed + trained.compressed)
    if trained.compressed:
        source, train_list = train_list, out / "train.tsv"
        if failed := _m4a.convert(source, train_list, out / "wav"):
            _report_problems(problems + failed, out, partial, notes)
        notes.append(
            f"VoxCeleb2: {trained.compressed - len(failed):,} recordings decoded from m4a into {out / 'wav'}"
        )

    shared = sorted(set(training) & {i.split("/")[0] for r in records.values() for i in r.pop("ids")})
    notes.append(
        f"{len(shared)} speakers are both in training and in the trials{': ' if shared else ''}{named(shared)}"
    )
    record = {
        "found": counted,
        "expected": EXPECTED,
        "hours": hours,
        "trials": records,
        "shared_speakers": shared,
        "partial": partial,
        "notes": notes,
    }
    write_json(out / "prepare.json", record)
    parts = {folder.parent for folders in trees[VOX1].values() for folder in folders}
    return Prepared(train_list, kept, parts.pop() if len(parts) == 1 else places[VOX1], notes, test_list)


def _place(root: Path | None, given: Path | None, corpus: Corpus) -> Path:
    if given is not None:
        return given.absolute()
    if root is None:
        raise InputError(f"where is {corpus.name}? name its folder with {corpus.option} DIR")
    place = root.absolute() / corpus.name.lower()
    if not place.is_dir():
        raise InputError(
            f"{root}: no folder {place.name} in it; name {corpus.name}'s with {corpus.option} DIR. "
            f"It looks like{corpus.shape}"
        )
    return place


def _find_lists(vox1: Path, given: Sequence[Path]) -> list[TrialList]:
    paths = list(given) or [vox1 / name for name in LIST_FILES if (vox1 / name).is_file()]
    if not paths:
        raise InputError(
            f"{vox1}: no trial list; expected {', '.join(LIST_FILES)} or some of them there, or --trials FILE"
        )
    return [TrialList.read(path) for path in paths]


def _ignored(counts: Counter[str]) -> list[str]:
    return [f"{count:,} files ignored: {kind}" for kind, count in sorted(counts.items())]


def _report_problems(problems: list[tuple[str, str]], out: Path, partial: bool, notes: list[str]) -> None:
    """Write unusable files to `problems.txt` and add a note; raise `InputError` unless `partial`."""
    where = out / "problems.txt"
    if not problems:
        where.unlink(missing_ok=True)
        return
    where.write_text("".join(f"{path}\t{reason}\n" for reason, path in problems), "utf-8", "surrogateescape")
    kinds = Counter(reason.partition(":")[0] for reason, _ in problems)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(8))
    first = "; ".join(f"{path} ({reason})" for reason, path in problems[:5])
    text = f"{len(problems):,} files or folders can't be used ({counts}), all in {where}, first: {first}"
    if not partial:
        raise InputError(f"{text}. Restore them, or go on without them: {PARTIAL}")
    notes.append(f"left out: {text}")


def _check_counts(found: Counts, trees: dict[Corpus, dict[str, list[Path]]], partial: bool) -> list[str]:
    """Return notes on wrong numbers of speakers or utterances.

    Raises:
        InputError: a number is wrong without `partial`; or a required part is missing.
    """
    wrong = []
    for name, count in found.items():
        if count == EXPECTED[name] or (name not in NEEDED and not count["speakers"]):
            continue
        text = f"{name}: found {_worded(count)}, expected {_worded(EXPECTED[name])}"
        wanted = {"VoxCeleb1 test": TEST1, "VoxCeleb1 dev": ALL1 - TEST1}.get(name, set())
        if absent := sorted(wanted - trees[VOX1].keys()):
            text += f", missing {named(absent)}"
        if name == "VoxCeleb2 dev" and any(not split_of(f[0]) for f in trees[VOX2].values()):
            text += " (no folder called dev or test tells which speakers are which: all were taken for dev)"
        wrong.append(text)
    nothing = any(not found[name]["utterances"] for name in NEEDED)
    if wrong and (nothing or not partial):
        hint = "" if nothing else f". Complete them, or take what is there: {PARTIAL}"
        raise InputError(f"the corpora are not whole: {'; '.join(wrong)}{hint}")
    return [f"not whole: {text}" for text in wrong]


def _worded(count: dict[str, int]) -> str:
    return f"{count['speakers']:,} speakers, {count['utterances']:,} utterances"


def _check_lists(
    lists: list[TrialList], manifest: Path, out: Path, notes: list[str]
) -> tuple[dict[str, Path], dict[str, dict[str, Any]]]:
    """Copy the lists whose audio is there; return their paths and descriptions, by name.

    Raises:
        InputError: a list names missing files of speakers that are there; no list is left.
    """
    there = {name.decode() for name in Manifest.read(manifest).ids.tolist()}
    speakers = {name.split("/")[0] for name in there}
    out.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Path] = {}
    records: dict[str, dict[str, Any]] = {}
    for trials in lists:
        list_name = known_list(trials)
        source = Path(trials.name)
        name = LIST_NAMES.get((list_name or "").removesuffix(", by its counts"), source.stem)
        missing = [i for i in trials.ids if i not in there]
        absent = {i.split("/")[0] for i in missing} - speakers
        title = list_name or f"{source.name}, not a published list"
        what = f"{title}: {len(trials):,} trials of {len(trials.ids):,} files"
        if missing and (len(missing) == len(trials.ids) or not absent):
            raise InputError(
                f"{source}: {len(missing):,} of the {len(trials.ids):,} files in this list are not among "
                f"VoxCeleb1's {len(there):,}: {named(missing)}. Is it the list for this audio, written as "
                "id10270/5r0dWxy17C8/00001.wav?"
            )
        if missing:
            notes.append(
                f"{source.name}: left out, for {len(absent):,} of its speakers are not there ({what})"
            )
            continue
        if name in kept:
            raise InputError(f"{source}: this is {name}, as {records[name]['source']} is; give one of them")
        kept[name] = out / f"{name}.txt"
        shutil.copyfile(source, kept[name])
        records[name] = {
            "known_as": list_name,
            "trials": len(trials),
            "files": len(trials.ids),
            "sha256": trials.sha256,
            "source": str(source),
            "ids": trials.ids,
        }
        notes.append(f"{name}: {what}")
    if not kept:
        raise InputError(
            f"no trial list can be scored: {'; '.join(note for note in notes if 'left out' in note)}"
        )
    return kept, records
