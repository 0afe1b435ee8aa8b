"""Speakers of the files that trials compare, and the files of enrolled models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

import numpy as np

from speakerverif._util.files import open_input
from speakerverif._util.messages import named
from speakerverif.data import _text
from speakerverif.data._pairs import read_pairs
from speakerverif.data.manifest import Manifest
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

EnrollMap = Mapping[str, Sequence[str]]


Source = Literal["table", "paths", "target trials"]


@dataclass(frozen=True)
class Units:
    """The units that intervals are over: speakers, or files where speakers are unknown.

    Attributes:
        kind: `speaker`, or `file` where speakers are unknown.
        names: the units, sorted.
        enroll: int64 (N,), index into `names` of each trial's enroll side.
        test: int64 (N,), index into `names` of each trial's test side.
        source: where the speakers come from; None where they are unknown. Speakers inferred from target trials have
            the name of one of their files.
    """

    kind: Literal["speaker", "file"]
    names: tuple[str, ...]
    enroll: np.ndarray
    test: np.ndarray
    source: Source | None = None


def units_of(
    trials: TrialList, speakers: Mapping[str, str] | None = None, enroll_map: EnrollMap | None = None
) -> Units:
    """Return the speakers of both sides of all trials, or the files where speakers are unknown.

    Without a table of speakers, the speaker is the first path component that differs between files. If that gives a
    single speaker or as many speakers as files, speakers are the sets of files connected by target trials, directly or
    indirectly. If the list has no labels, or a non-target trial has both files in one such set, speakers are unknown.

    Args:
        trials: the list.
        speakers: id of a file -> speaker, as returned by `read_speakers`.
        enroll_map: enrolled model -> ids of its files.

    Raises:
        InputError: files whose speaker is not in `speakers`, models of several speakers.
    """
    files = files_of(trials, enroll_map)
    owners = _owners(files, speakers, trials.name)
    source: Source | None = "paths" if speakers is None else "table"
    if owners is None:
        owners, source = _linked(trials, files, enroll_map), "target trials"
    if owners is None:
        source = None
    kind: Literal["speaker", "file"] = "file" if owners is None else "speaker"
    owners = owners or files
    if enroll_map is None:  # the files are the trials' ids, in their order
        names = sorted(set(owners))
        enroll = test = _numbers(names, owners)
    else:
        owner = dict(zip(files, owners, strict=True))
        model_owner = _owners_of_models(trials, enroll_map, owner, kind)
        names = sorted({*owners, *model_owner.values()})
        enroll, test = (_numbers(names, map(of.get, trials.ids)) for of in (model_owner, owner))
    return Units(kind, tuple(names), enroll[trials.enroll], test[trials.test], source)


def _linked(trials: TrialList, files: Sequence[str], enroll_map: EnrollMap | None) -> list[str] | None:
    """Return, for every file, the name of its set of files connected by target trials; None: see `units_of`."""
    if trials.labels is None or not trials.labels.any():
        return None
    from scipy import sparse
    from scipy.sparse import csgraph

    if enroll_map is None:
        enroll, test, size = trials.enroll, trials.test, len(files)
        links = np.empty((2, 0), np.int64)
    else:  # a model is a separate node, connected to its files
        place = {name: i for i, name in enumerate(files)}
        models = {model: len(files) + i for i, model in enumerate(enroll_map)}
        enroll = _places(models, trials.ids)[trials.enroll]
        test, size = _places(place, trials.ids)[trials.test], len(files) + len(models)
        pairs = [
            (models[m], place[name]) for m, owned in enroll_map.items() for name in owned if name in place
        ]
        links = np.array(pairs, np.int64).T
    links = np.concatenate((links, np.stack((enroll, test))[:, trials.labels]), axis=1)
    graph = sparse.coo_array((np.ones(links.shape[1]), (links[0], links[1])), (size, size))
    _, member = csgraph.connected_components(graph, directed=False)
    if (member[enroll] == member[test])[~trials.labels].any() or not member.any():
        return None
    names: dict[int, str] = {}
    return [names.setdefault(k, name) for k, name in zip(member[: len(files)].tolist(), files, strict=True)]


def _places(places: Mapping[str, int], names: Sequence[str]) -> np.ndarray:
    """Return the index of every name, int64; -1 where it has none."""
    return np.array([places.get(name, -1) for name in names], np.int64)


def _numbers(names: Sequence[str], owners: Iterable[str | None]) -> np.ndarray:
    """Return the index of every owner in `names`, int64; -1 for None."""
    number: dict[str | None, int] = {name: i for i, name in enumerate(names)} | {None: -1}
    return np.fromiter(map(number.__getitem__, owners), np.int64)


def files_of(trials: TrialList, enroll_map: EnrollMap | None = None) -> list[str]:
    """Return the ids of all files that the trials compare; models missing from the map have none."""
    if enroll_map is None:
        return list(trials.ids)
    tests, models = ([trials.ids[i] for i in used(codes)] for codes in (trials.test, trials.enroll))
    return list(dict.fromkeys([*tests, *(name for model in models for name in enroll_map.get(model, ()))]))


def used(codes: np.ndarray) -> list[int]:
    """Return the distinct codes, ascending."""
    return np.flatnonzero(np.bincount(codes)).tolist()


def speakers_of(
    files: Sequence[str], speakers: Mapping[str, str] | None, where: str
) -> dict[str, str] | None:
    """Return file -> speaker, from a table or else from the paths; None where these don't show speakers.

    Args:
        files: their ids.
        speakers: id of a file -> speaker; None: the first path component that differs between the files, unless
            that gives a single speaker or one speaker per file.
        where: the list that contains the files, for the error.

    Raises:
        InputError: files whose speaker is not in `speakers`.
    """
    owners = _owners(files, speakers, where)
    return None if owners is None else dict(zip(files, owners, strict=True))


def _owners(files: Sequence[str], speakers: Mapping[str, str] | None, where: str) -> list[str] | None:
    """Return the speaker of every file; arguments and errors as for `speakers_of`."""
    if speakers is None:
        owners = speakers_by_path(files)
        return None if len(set(owners)) in (1, len(files)) else owners
    unknown = [name for name in files if name not in speakers]
    if unknown:
        raise InputError(f"{where}: no speaker is known for {len(unknown)} files: {named(unknown)}")
    return [speakers[name] for name in files]


def speakers_by_path(files: Sequence[str]) -> list[str]:
    """Return, for every file, the first path component that differs between the files."""
    # The common prefix of the first and the last name in sorted order is common to all names.
    first, last = min(files).split("/"), max(files).split("/")
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last, strict=False)))
    return [name.split("/", shared + 1)[shared] for name in files]


def _owners_of_models(
    trials: TrialList, enroll_map: EnrollMap, owner: Mapping[str, str], kind: str
) -> dict[str, str]:
    """Return enrolled model -> speaker of its files; where files are the units, the model itself is a unit."""
    models = [trials.ids[i] for i in used(trials.enroll)]
    if kind == "file":
        return {model: model for model in models}
    several = [model for model in models if len({owner[name] for name in enroll_map[model]}) > 1]
    if several:
        raise InputError(f"{trials.name}: {len(several)} models are of several speakers: {named(several)}")
    return {model: owner[enroll_map[model][0]] for model in models}


def read_speakers(path: str | Path, files: Sequence[str]) -> dict[str, str]:
    """Return file -> speaker from Kaldi's `utt2spk`, or from a manifest.

    Where the keys of a `utt2spk` are not the files' ids, the `wav.scp` in its folder maps them (`utt path`).

    Raises:
        InputError: unreadable files, wrong rows, a key with two values.
    """
    with open_input(path) as file:
        if file.read(3 + len(b"id\tpath\t")).removeprefix(b"\xef\xbb\xbf").startswith(b"id\tpath\t"):
            return {utterance.id: utterance.speaker for utterance in Manifest.read(path)}
    speakers = read_pairs(path)
    scp = Path(path).parent / "wav.scp"
    if all(name in speakers for name in files) or not scp.is_file():
        return speakers
    audio_of = read_pairs(scp, values_hold_blanks=True)
    return speakers | {audio: speakers[key] for key, audio in audio_of.items() if key in speakers}


def read_speaker_tables(paths: Sequence[str | Path], files: Sequence[str]) -> dict[str, str] | None:
    """Return file -> speaker from several tables of the formats of `read_speakers`; None for no tables.

    Raises:
        InputError: as `read_speakers`; a file with different speakers in two tables.
    """
    speakers: dict[str, str] = {}
    for path in paths:
        for name, speaker in read_speakers(path, files).items():
            if speakers.setdefault(name, speaker) != speaker:
                raise InputError(
                    f"{path}: {name!r} is of {speaker!r}, in another table of {speakers[name]!r}"
                )
    return speakers if paths else None


def read_enroll_map(path: str | Path) -> dict[str, list[str]]:
    """Return enrolled model -> ids of its files, from lines `model file file ...` (Kaldi's `spk2utt`).

    The separator is blanks, or tabs in a line that contains one.

    Raises:
        InputError: unreadable file, a model without files, a repeated model.
    """
    models: dict[str, list[str]] = {}
    where: dict[str, int] = {}
    for line in _text.lines(path):
        model, *files = line.columns if "\t" in line.text else line.fields
        if not files or not all(files):
            raise InputError(f"{path}:{line.number}: {model!r} has no files; expected 'model file file ...'")
        if model in models:
            raise InputError(f"{path}:{line.number}: model {model!r} is repeated, as in line {where[model]}")
        models[model], where[model] = files, line.number
    if not models:
        raise InputError(f"{path}: the file is empty")
    return models
