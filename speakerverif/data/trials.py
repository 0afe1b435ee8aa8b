"""Trial lists: pairs of an enroll and a test side, with labels where known."""

from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from speakerverif._util.files import replacing
from speakerverif.data._rows import WrongRows
from speakerverif.data._trial_files import parse_trials
from speakerverif.errors import InputError


@dataclass(frozen=True)
class TrialList:
    """Pairs of ids, as columns, with labels where known.

    Attributes:
        ids: the distinct ids in the list.
        enroll: int32 (N,), indices into `ids`.
        test: int32 (N,), indices into `ids`.
        labels: bool (N,), True for targets; None where the list has no labels.
        name: path that the list was read from.
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
        """Return the enroll ids of all trials."""
        return [self.ids[i] for i in self.enroll.tolist()]

    def test_ids(self) -> list[str]:
        """Return the test ids of all trials."""
        return [self.ids[i] for i in self.test.tolist()]

    def pair_keys(self) -> np.ndarray:
        """Return a number for each (enroll, test) pair, int64 (N,), equal where the pairs are equal."""
        keys: np.ndarray = self.enroll.astype(np.int64) * len(self.ids) + self.test
        return keys

    def pair(self, i: int) -> str:
        """Return trial `i` as `enroll test`, for messages."""
        return f"{self.ids[self.enroll[i]]} {self.ids[self.test[i]]}"

    @classmethod
    def read(cls, path: str | Path, wrong: WrongRows | None = None) -> "TrialList":
        """Return the trials in a text file.

        The format is decided once for the whole file: VoxCeleb's `label enroll test` with labels 0 and 1,
        Kaldi's `enroll test target|nontarget`, or `enroll test` without labels.

        Args:
            path: the file.
            wrong: collects the rows that can't be read, so that a caller can report them together with other
                errors. Without it they raise.

        Raises:
            InputError: unreadable or empty file, wrong rows, unrecognised format.
        """
        problems = WrongRows() if wrong is None else wrong
        ids, enroll, test, labels, sha256 = parse_trials(path, problems)
        if problems.count and wrong is None:
            raise InputError(f"{path}: {problems}")
        return cls(ids, enroll, test, labels, str(path), sha256)

    def to_bytes(self) -> bytes:
        """Return `label enroll test` rows, or `enroll test` where there are no labels, as a file holds them."""
        labels = repeat("") if self.labels is None else (f"{int(label)} " for label in self.labels)
        rows = zip(labels, self.enroll_ids(), self.test_ids(), strict=False)
        return "".join(f"{label}{enroll} {test}\n" for label, enroll, test in rows).encode(
            "utf-8", "surrogateescape"
        )

    def write(self, path: str | Path) -> None:
        """Write the rows of `to_bytes` to a file."""
        with replacing(path) as file:
            file.write(self.to_bytes())
