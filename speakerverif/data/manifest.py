"""Utterances, and manifests of them."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakerverif._util.files import replacing
from speakerverif._util.messages import refuse_repeated
from speakerverif.data._manifest_files import FIELDS, parse_manifest
from speakerverif.data._rows import distinct
from speakerverif.errors import InputError


@dataclass(frozen=True, slots=True)
class Utterance:
    """One piece of speech. The path, not its basename, is the identity: VoxCeleb repeats basenames."""

    id: str
    path: str
    speaker: str
    start_s: float = 0.0
    duration_s: float | None = None  # None: to the end of the file
    channel: int | None = None  # counted from 1; None: the file is mono, or its channels are mixed


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
        channel: np.ndarray | None = None,
    ) -> None:
        """Hold the columns.

        Args:
            ids: UTF-8 bytes, dtype S, (N,).
            paths: UTF-8 bytes, dtype S, (N,); relative ones are relative to `root`.
            speakers: UTF-8 bytes, dtype S, (N,).
            start_s: float64 (N,), seconds.
            duration_s: float64 (N,), seconds; nan is to the end of the file.
            root: the folder of relative paths; empty is the current one.
            channel: int16 (N,), counted from 1; 0, or no array at all, where none is named.
        """
        self.ids, self.paths, self.start_s, self.duration_s, self.root = ids, paths, start_s, duration_s, root
        self.channel = np.zeros(len(ids), np.int16) if channel is None else channel
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
            int(self.channel[i]) or None,
        )

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def select(self, which: np.ndarray) -> "Manifest":
        """Return the utterances that a boolean mask (N,) or an array of indices picks, in that order."""
        speakers = self._vocabulary[self.speaker_index[which]]
        times = self.start_s[which], self.duration_s[which]
        return Manifest(self.ids[which], self.paths[which], speakers, *times, self.root, self.channel[which])

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
        refuse_repeated([u.id for u in rows], "utterances", range(1, len(rows) + 1))
        return cls(
            np.array([u.id.encode() for u in rows], np.bytes_),
            np.array([u.path.encode() for u in rows], np.bytes_),
            np.array([u.speaker.encode() for u in rows], np.bytes_),
            np.array([u.start_s for u in rows], np.float64),
            np.array([math.nan if u.duration_s is None else u.duration_s for u in rows], np.float64),
            channel=np.array([u.channel or 0 for u in rows], np.int16),
        )

    @classmethod
    def read(cls, path: str | Path) -> "Manifest":
        """Return the manifest of a TSV file with the header `id path speaker [start_s duration_s channel]`.

        Relative paths are relative to the manifest's folder. An empty duration is to the end of the file. Channels
        count from 1; an empty one names none.

        Raises:
            InputError: unreadable or empty file, unknown header, wrong rows (reported together), an id twice.
        """
        columns = parse_manifest(path)
        ids, paths, speakers, start_s, duration_s, channel = (columns[name] for name in FIELDS)
        return cls(ids, paths, speakers, start_s, duration_s, str(Path(path).parent), channel)

    def write(self, path: str | Path) -> None:
        """Write the TSV file; paths inside its folder are written relative to it, others absolute.

        The column `channel` is written where an utterance names one.
        """
        folder = os.path.abspath(Path(path).parent)  # noqa: PTH100 (links stay as they are)
        fields = FIELDS if self.channel.any() else FIELDS[:-1]
        with replacing(path) as file:
            file.write(("\t".join(fields) + "\n").encode())
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
                    "" if u.channel is None else str(u.channel),
                ][: len(fields)]
                if any("\t" in text or "\n" in text for text in texts):
                    raise InputError(f"{path}: {u.id!r}: a tab or a line break can't stand in a manifest")
                file.write(("\t".join(texts) + "\n").encode())
