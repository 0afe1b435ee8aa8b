"""Records of enrolled recordings and speakers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif.errors import InputError

Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """One enrolled recording of a speaker.

    Attributes:
        embedding: float32 (D,).
        path: of the file; empty where it came from memory or is unknown.
        sha256: of the decoded samples, 64 hex digits; empty where unknown.
        duration_s: of the recording; nan where unknown.
        speech_s: active speech in it; nan where unknown.
        audio: the file's own bytes, where they are kept.
        enrolled_at: UTC, ISO 8601; empty until it is enrolled.
    """

    embedding: Embeddings
    path: str = ""
    sha256: str = ""
    duration_s: float = float("nan")
    speech_s: float = float("nan")
    audio: bytes = b""
    enrolled_at: str = ""


def stored_sample(embedding: Embeddings, facts: dict[str, Any]) -> Sample:
    """Return a sample that was read from a store or its export.

    Raises:
        InputError: an embedding that isn't finite or is zero; a fact of another type than `Sample` has.
    """
    kinds = {"duration_s": (int, float), "speech_s": (int, float), "audio": (bytes,)}
    for name, fact in facts.items():
        if not isinstance(fact, kinds.get(name, (str,))):
            raise InputError(f"store damaged: {name} is {fact!r:.40}; restore a backup")
    if not np.isfinite(embedding).all() or not embedding.any():
        raise InputError("store damaged: an embedding is zero or not finite; restore a backup")
    return Sample(embedding, **facts)


@dataclass(frozen=True)
class EnrolledSpeaker:
    """A row of the list of a store's speakers.

    Attributes:
        name: the speaker's.
        recordings: how many are enrolled.
        speech_s: active speech in them; None where it is unknown for some.
        kept_audio: how many are kept in the store as audio.
        enrolled_at: the first, UTC, ISO 8601; None where unknown.
    """

    name: str
    recordings: int
    speech_s: float | None
    kept_audio: int
    enrolled_at: str | None


def check_name(name: str) -> None:
    """Raise `InputError` for a name that can't be enrolled."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"enroll: the name {name!r} is not valid UTF-8") from error
    if not name.strip():
        raise InputError("enroll: expected a name, found an empty one")
    if not name.isprintable():
        raise InputError(f"enroll: expected a name without control characters, found {name!r}")


def as_samples(given: NDArray[Any] | Sequence[Sample]) -> Sequence[Sample]:
    """Return samples unchanged, and embeddings (N, D) or (D,) as samples without further facts."""
    if isinstance(given, np.ndarray):
        return [Sample(row) for row in np.atleast_2d(given)]
    if not given:
        raise InputError("enroll: expected one recording or more, found none")
    return given
