"""Utterances, and manifests of them."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import replacing
from speakerverif._util.messages import refuse_repeated
from speakerverif.data._manifest_files import (
    FIELDS,
    Columns,
    Utterance,
    columns_of_utterances,
    fault_of,
    joined,
    manifest_blocks,
    refuse_unreadable_paths,
    root_of,
)
from speakerverif.data._rows import Texts, distinct
from speakerverif.errors import InputError

__all__ = ["Manifest", "Utterance"]


class Manifest:
    """Utterances as NumPy columns, which take little memory and are cheap to share between processes."""

    def __init__(
        self,
        ids: Texts,
        paths: Texts,
        speakers: Texts,
        start_s: NDArray[np.float64],
        duration_s: NDArray[np.float64],
        root: str = "",
        channel: NDArray[np.int16] | None = None,
    ) -> None:
        """Store the columns.

        Args:
            ids: UTF-8 bytes, dtype S, (N,).
            paths: bytes of the files' paths, dtype S, (N,); relative ones start from `root`.
            speakers: UTF-8 bytes, dtype S, (N,).
            start_s: float64 (N,), seconds.
            duration_s: float64 (N,), seconds; nan means to the end of the file.
            root: the folder of relative paths; empty means the current one.
            channel: int16 (N,), counted from 1; 0 where the list gives none; None: 0 for all.
        """
        self.ids, self.paths, self.start_s, self.duration_s, self.root = ids, paths, start_s, duration_s, root
        self.channel = np.zeros(len(ids), np.int16) if channel is None else channel
        names, which = distinct(speakers.astype(f"S{-(-speakers.itemsize // 8) * 8}"))
        order = np.argsort(names)
        self._vocabulary = names[order]
        # Indices into `speakers`, int64 (N,).
        self.speaker_index: NDArray[np.int64] = np.argsort(order)[which]

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
            # Path is slow, a million times.
            os.path.join(self.root, self.paths[i].decode("utf-8", "surrogateescape")),  # noqa: PTH118
            self._vocabulary[self.speaker_index[i]].decode(),
            float(self.start_s[i]),
            None if math.isnan(duration) else duration,
            int(self.channel[i]) or None,
        )

    def __iter__(self) -> Iterator[Utterance]:
        return (self[i] for i in range(len(self)))

    def select(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> "Manifest":
        """Return the utterances selected by a boolean mask (N,) or an array of indices, in that order."""
        speakers = self._vocabulary[self.speaker_index[which]]
        times = self.start_s[which], self.duration_s[which]
        return Manifest(self.ids[which], self.paths[which], speakers, *times, self.root, self.channel[which])

    @classmethod
    def join(cls, manifests: Sequence["Manifest"]) -> "Manifest":
        """Return the utterances of several corpora, in their order.

        Raises:
            InputError: an id or a speaker is in two of them: the same name need not be the same person.
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
        """Return a manifest of utterances.

        Raises:
            InputError: a repeated id.
        """
        rows = list(utterances)
        refuse_repeated([u.id for u in rows], "utterances", range(1, len(rows) + 1))
        return cls.of_columns(columns_of_utterances(rows), "")

    @classmethod
    def of_columns(cls, columns: Columns, root: str) -> "Manifest":
        """Return a manifest of columns whose relative paths start from `root`."""
        ids, paths, speakers, start_s, duration_s, channel = columns
        return cls(ids, paths, speakers, start_s, duration_s, root, channel)

    @classmethod
    def read(cls, path: str | Path, audio_root: str | Path | None = None) -> "Manifest":
        """Return the manifest in a TSV file with the header `id path speaker [start_s duration_s channel]`.

        An empty duration means to the end of the file, an empty channel means none is chosen.

        Args:
            path: the file.
            audio_root: folder that relative paths start from; None: the manifest's folder, see `root_of`.

        Raises:
            InputError: unreadable or empty file, unknown header, wrong rows (reported together), a repeated id.
        """
        columns, line = joined(manifest_blocks(path), path)
        root = root_of(Path(path), None if audio_root is None else Path(audio_root), columns.paths)
        refuse_unreadable_paths(columns, line, root, Path(path))
        return cls.of_columns(columns, root)

    def write(self, path: str | Path) -> None:
        """Write the TSV file; paths inside its folder are written relative to it, others absolute."""
        # Links are not resolved.
        folder = os.path.abspath(Path(path).parent)  # noqa: PTH100
        names = FIELDS if self.channel.any() else FIELDS[:-1]
        with replacing(path) as file:
            file.write(("\t".join(names) + "\n").encode())
            for u in self:
                if why := fault_of(u):
                    raise InputError(f"{path}: {u.id!r}: {why}; it can't be written to a manifest")
                audio = os.path.abspath(u.path)  # noqa: PTH100
                inside = audio.startswith(folder + os.sep)
                audio = audio[len(folder) + 1 :] if inside else audio
                duration = "" if u.duration_s is None else repr(u.duration_s)
                texts = [u.id, audio, u.speaker, repr(u.start_s), duration, str(u.channel or "")]
                line = "\t".join(texts[: len(names)]) + "\n"
                file.write(line.encode("utf-8", "surrogateescape"))
