"""Utterances, trials, scores, embeddings, and their files: the nouns that every other module shares."""

import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from speakerverif._util.files import WrongRows, distinct, open_input, replacing
from speakerverif.data._manifest_files import FIELDS, parse_manifest
from speakerverif.data._trial_files import parse_scores, parse_trials
from speakerverif.errors import InputError

ScoreKind = Literal["cosine", "plda", "normalized", "llr"]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One piece of speech. The path, not its basename, is the identity: VoxCeleb repeats basenames."""

    id: str
    path: str
    speaker: str
    start_s: float = 0.0
    duration_s: float | None = None  # None: to the end of the file


class Manifest:
    """Utterances as NumPy columns: a million of them are cheap to hold and to share between processes."""

    def __init__(
        self,
        ids: np.ndarray,
        paths: np.ndarray,
        speakers: np.ndarray,
        start_s: np.ndarray,
        duration_s: np.ndarray,
        root: str = "",
    ) -> None:
        """Hold the columns.

        Args:
            ids: UTF-8 bytes, dtype S, (N,).
            paths: UTF-8 bytes, dtype S, (N,); relative ones are relative to `root`.
            speakers: UTF-8 bytes, dtype S, (N,).
            start_s: float64 (N,), seconds.
            duration_s: float64 (N,), seconds; nan is to the end of the file.
            root: the folder of relative paths; empty is the current one.
        """
        self.ids, self.paths, self.start_s, self.duration_s, self.root = ids, paths, start_s, duration_s, root
        names, which = distinct(speakers.astype(f"S{-(-speakers.itemsize // 8) * 8}"))
        order = np.argsort(names)
        self._vocabulary = names[order]
        self.speaker_index: np.ndarray = np.argsort(order)[which]  # int64 (N,) into `speakers`

    @property
    def speakers(self) -> list[str]:
        """The distinct speakers, sorted."""
        return [s.decode() for s in self._vocabulary.tolist()]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> Utterance:
        duration = float(self.duration_s[i])
        return Utterance(
            self.ids[i].decode(),
            os.path.join(self.root, self.paths[i].decode()),  # noqa: PTH118 (Path is slow, a million times)
            self._vocabulary[self.speaker_index[i]].decode(),
            float(self.start_s[i]),
            None if math.isnan(duration) else duration,
        )

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def select(self, which: np.ndarray) -> "Manifest":
        """Return the utterances that a boolean mask (N,) or an array of indices picks, in that order."""
        speakers = self._vocabulary[self.speaker_index[which]]
        times = self.start_s[which], self.duration_s[which]
        return Manifest(self.ids[which], self.paths[which], speakers, *times, self.root)

    @classmethod
    def join(cls, manifests: Sequence["Manifest"]) -> "Manifest":
        """Return the utterances of several corpora, in their order.

        Raises:
            InputError: an id stands in two of them, or a speaker: the same name need not be the same person.
        """
        named: dict[str, Manifest] = {}
        for manifest in manifests:
            if twice := [
                name for name in manifest.speakers if named.setdefault(name, manifest) is not manifest
            ]:
                raise InputError(
                    f"{len(twice)} speakers have the same name in two corpora, first: {', '.join(twice[:5])}"
                )
        return cls.from_utterances(utterance for manifest in manifests for utterance in manifest)

    @classmethod
    def from_utterances(cls, utterances: Iterable[Utterance]) -> "Manifest":
        """Return the utterances as columns.

        Raises:
            InputError: an id stands twice.
        """
        rows = list(utterances)
        _refuse_repeated([u.id for u in rows], "utterances", range(1, len(rows) + 1))
        return cls(
            np.array([u.id.encode() for u in rows], np.bytes_),
            np.array([u.path.encode() for u in rows], np.bytes_),
            np.array([u.speaker.encode() for u in rows], np.bytes_),
            np.array([u.start_s for u in rows], np.float64),
            np.array([math.nan if u.duration_s is None else u.duration_s for u in rows], np.float64),
        )

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        """Return the manifest of a TSV file with the header `id path speaker [start_s duration_s]`.

        Relative paths are relative to the manifest's folder. An empty duration is to the end of the file.

        Raises:
            InputError: unreadable or empty file, unknown header, wrong rows (reported together), an id twice.
        """
        columns = parse_manifest(path)
        ids, paths, speakers, start_s, duration_s = (columns[name] for name in FIELDS)
        return cls(ids, paths, speakers, start_s, duration_s, str(Path(path).parent))

    def write(self, path: str | Path) -> None:
        """Write the TSV file; paths inside its folder are written relative to it, others absolute."""
        folder = os.path.abspath(Path(path).parent)  # noqa: PTH100 (links stay as they are)
        with replacing(path) as file:
            file.write(("\t".join(FIELDS) + "\n").encode())
            for u in self:
                audio = os.path.abspath(u.path)  # noqa: PTH100
                inside = audio.startswith(folder + os.sep)
                audio = audio[len(folder) + 1 :] if inside else audio
                texts = [
                    u.id,
                    audio,
                    u.speaker,
                    repr(u.start_s),
                    "" if u.duration_s is None else repr(u.duration_s),
                ]
                if any("\t" in text or "\n" in text for text in texts):
                    raise InputError(f"{path}: {u.id!r}: a tab or a line break can't stand in a manifest")
                file.write(("\t".join(texts) + "\n").encode())


@dataclass(frozen=True)
class TrialList:
    """Pairs of ids, as columns, with the answers where they are known.

    Attributes:
        ids: every id that stands in the list, once.
        enroll: int32 (N,) into `ids`.
        test: int32 (N,) into `ids`.
        labels: bool (N,), True is target; None where the list has no labels.
        name: where the list was read.
        sha256: of the file's bytes; empty where it was not read from a file.
    """

    ids: tuple[str, ...]
    enroll: np.ndarray
    test: np.ndarray
    labels: np.ndarray | None
    name: str = ""
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.enroll)

    def enroll_ids(self) -> list[str]:
        """Return the enroll id of every trial."""
        return [self.ids[i] for i in self.enroll.tolist()]

    def test_ids(self) -> list[str]:
        """Return the test id of every trial."""
        return [self.ids[i] for i in self.test.tolist()]

    def pair_keys(self) -> np.ndarray:
        """Return int64 (N,): a number for each (enroll, test) pair, equal where the pairs are equal."""
        return self.enroll.astype(np.int64) * len(self.ids) + self.test

    def pair(self, i: int) -> str:
        """Return trial `i` as `enroll test`, for messages."""
        return f"{self.ids[self.enroll[i]]} {self.ids[self.test[i]]}"

    @classmethod
    def read(cls, path: str | Path, wrong: WrongRows | None = None) -> "TrialList":
        """Return the trials of a text file.

        The format is decided once for the whole file: VoxCeleb's `label enroll test` with labels 0 and 1,
        Kaldi's `enroll test target|nontarget`, or `enroll test` without labels.

        Args:
            path: the file.
            wrong: takes the rows that can't be read, so that a caller can report them together with what
                else is wrong. Without it they raise.

        Raises:
            InputError: unreadable or empty file, wrong rows, no telling which format it is.
        """
        problems = WrongRows() if wrong is None else wrong
        ids, enroll, test, labels, sha256 = parse_trials(path, problems)
        if problems.count and wrong is None:
            raise InputError(f"{path}: {problems}")
        return cls(ids, enroll, test, labels, str(path), sha256)

    def write(self, path: str | Path) -> None:
        """Write `label enroll test` rows, or `enroll test` where there are no labels."""
        labels = repeat("") if self.labels is None else (f"{int(label)} " for label in self.labels)
        rows = zip(labels, self.enroll_ids(), self.test_ids(), strict=False)
        with replacing(path) as file:
            file.write("".join(f"{label}{enroll} {test}\n" for label, enroll, test in rows).encode())


@dataclass(frozen=True)
class ScoreList:
    """A score for every trial; higher means more likely the same speaker.

    Attributes:
        trials: the list scored.
        scores: float64 (N,), finite.
        kind: what the scores are; only `llr` are natural-log likelihood ratios.
        extra: scores that the file held for pairs that are not in the list.
    """

    trials: TrialList
    scores: np.ndarray
    kind: ScoreKind = "cosine"
    extra: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScoreKind):
            raise InputError(f"kind of score {self.kind!r} is not one of {', '.join(get_args(ScoreKind))}")
        if self.scores.shape != (len(self.trials),):
            raise InputError(f"{len(self.trials)} trials but scores of shape {self.scores.shape}")
        bad = np.flatnonzero(~np.isfinite(self.scores))
        if len(bad):
            shown = "; ".join(f"{self.trials.pair(i)}: {self.scores[i]}" for i in bad[:5])
            raise InputError(f"{self.trials.name}: {len(bad)} scores are not finite numbers: {shown}")

    @classmethod
    def read(cls, path: str | Path, trials: TrialList, kind: ScoreKind = "cosine") -> "ScoreList":
        """Return the scores of a file of `enroll test score` or `score enroll test`, in any row order.

        Raises:
            InputError: unreadable or empty file, wrong rows, scores that are not finite, a pair with two
                different scores, trials without a score (all of one sort reported together).
        """
        keys, values = parse_scores(path, trials.ids)
        wanted = trials.pair_keys()
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        clash = (keys[1:] == keys[:-1]) & (values[1:] != values[:-1]) & (keys[1:] >= 0)
        if clash.any():
            twice = np.unique(keys[1:][clash]).tolist()
            pairs = [
                f"{trials.ids[key // len(trials.ids)]} {trials.ids[key % len(trials.ids)]}" for key in twice
            ]
            raise InputError(f"{path}: {len(pairs)} pairs stand there with different scores: {named(pairs)}")
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        missing = np.flatnonzero(keys[at] != wanted)
        if len(missing):
            pairs = [trials.pair(i) for i in missing.tolist()]
            raise InputError(f"{path}: no score for {len(pairs)} trials of {trials.name}: {named(pairs)}")
        extra = np.count_nonzero(keys < 0) + len(np.unique(keys[keys >= 0])) - len(np.unique(wanted))
        return cls(trials, values[at], kind, int(extra))

    def write(self, path: str | Path) -> None:
        """Write `enroll test score` rows; reading them back gives the same numbers exactly."""
        rows = zip(self.trials.enroll_ids(), self.trials.test_ids(), self.scores.tolist(), strict=True)
        with replacing(path) as file:
            file.writelines(f"{enroll} {test} {score!r}\n".encode() for enroll, test, score in rows)


@dataclass(frozen=True)
class EmbeddingTable:
    """Embeddings of utterances, by id, and the fingerprint of the model that made them.

    Attributes:
        ids: N distinct ids.
        embeddings: float32 (N, dim).
        durations: float32 (N,), seconds of audio.
        speech: float32 (N,), seconds of active speech.
        status: N strings, `ok` or a named reason.
        fingerprint: of the model.
        failed: id -> reason, for utterances that could not be embedded; not written to the file.
    """

    ids: Sequence[str]
    embeddings: np.ndarray
    durations: np.ndarray
    speech: np.ndarray
    status: Sequence[str]
    fingerprint: str
    failed: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _row(self) -> dict[str, int]:
        return dict(zip(self.ids, range(len(self.ids)), strict=True))

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return int64 rows of the ids.

        Raises:
            InputError: ids that are not in the table, all counted and the first few named.
        """
        rows = np.fromiter(map(self._row.get, ids, repeat(-1)), np.int64, len(ids))
        missing = list(dict.fromkeys(ids[i] for i in np.flatnonzero(rows < 0).tolist()))
        if missing:
            raise InputError(f"no embedding for {len(missing)} files: {named(missing)}")
        return rows

    def save(self, path: str | Path) -> None:
        """Write an `.npz` of plain arrays, without pickles."""
        arrays = {
            "ids": np.array(self.ids, np.str_),
            "embeddings": np.asarray(self.embeddings, np.float32),
            "durations": np.asarray(self.durations, np.float32),
            "speech": np.asarray(self.speech, np.float32),
            "status": np.array(self.status, np.str_),
            "fingerprint": np.array(self.fingerprint, np.str_),
        }
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> "EmbeddingTable":
        """Return the table of an `.npz` file; only `ids` and `embeddings` must be in it.

        Raises:
            InputError: unreadable, not an `.npz` of plain arrays, columns that don't fit, an id twice.
        """
        with open_input(path) as file:
            try:
                loaded = np.load(file, allow_pickle=False)
                arrays: dict[str, Any] = {name: loaded[name] for name in loaded.files}
            except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
                raise InputError(f"{path}: expected an .npz file of plain arrays: {error}") from error
        lacking = [name for name in ("ids", "embeddings") if name not in arrays]
        if lacking:
            raise InputError(f"{path}: no array named {' or '.join(lacking)}; found {', '.join(arrays)}")
        ids, embeddings = (
            arrays["ids"].astype(np.str_, copy=False).tolist(),
            arrays["embeddings"].astype(np.float32, copy=False),
        )
        unknown = np.full(len(ids), np.nan, np.float32)
        columns = (
            embeddings,
            arrays.get("durations", unknown),
            arrays.get("speech", unknown),
            arrays["status"].tolist() if "status" in arrays else ["ok"] * len(ids),
        )
        if embeddings.ndim != 2 or any(len(column) != len(ids) for column in columns):
            shapes = ", ".join(f"{name} {np.shape(array)}" for name, array in arrays.items())
            raise InputError(f"{path}: expected embeddings (N, dim) and N of everything else, found {shapes}")
        table = cls(ids, *columns, fingerprint=str(arrays.get("fingerprint", "")))
        if len(table._row) < len(ids):
            _refuse_repeated(ids, str(path), range(len(ids)))
        return table


def named(ids: Sequence[str], shown: int = 5) -> str:
    """Return the first few ids and how many more there are, for messages."""
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return ", ".join(ids[:shown]) + more


def _refuse_repeated(ids: Sequence[str], where: str, numbers: Sequence[int]) -> None:
    """Raise `InputError` where an id stands twice, naming both places by their numbers."""
    if len(set(ids)) == len(ids):
        return
    seen: dict[str, int] = {}
    for text, number in zip(ids, numbers, strict=True):
        if text in seen:
            raise InputError(f"{where}: id {text!r} stands twice: rows {seen[text]} and {number}")
        seen[text] = number
