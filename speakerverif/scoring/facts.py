"""Facts about a scoring that its record states: the back end and the normalisation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BackendFacts:
    """The back end that compared the embeddings.

    Attributes:
        name: as a recipe names it.
        options: its other options.
        trained_on: where its training embeddings came from; None where it needs no training.
    """

    name: str
    options: Mapping[str, Any]
    trained_on: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the back end's part of a record."""
        return {"name": self.name, **self.options, "trained_on": self.trained_on}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "BackendFacts":
        """Return the object from the output of `to_json`."""
        options = {key: value for key, value in data.items() if key not in ("name", "trained_on")}
        return cls(data["name"], options, data["trained_on"])


@dataclass(frozen=True)
class NormFacts:
    """The normalisation of the scores.

    Attributes:
        kind: `znorm`, `tnorm`, `snorm` or `asnorm`.
        cohort: where the cohort's speakers came from.
        cohort_size: number of speakers in the cohort.
        top_n: number of nearest cohort speakers that count; None where all do.
    """

    kind: str
    cohort: str
    cohort_size: int
    top_n: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the normalisation's part of a record."""
        top_n = {} if self.top_n is None else {"top_n": self.top_n}
        return {"kind": self.kind, **top_n, "cohort": self.cohort, "cohort_size": self.cohort_size}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "NormFacts":
        """Return the object from the output of `to_json`."""
        return cls(**data)
