"""Checked enrolment: enough speech, one voice, no speaker under two names, no recording twice.

The scale of similarities differs between models. Their limits are therefore part of the model: `enrolment.toml` in its
folder, which `tools/enrolment_limits.py` measures on recordings of known speakers. A model without that file gets only
the checks that need no limits, and the enrolment says so (`checked`).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np

from speakerverif._util import toml
from speakerverif._util.ranges import Range
from speakerverif.errors import InputError
from speakerverif.inference.embed import embed_all
from speakerverif.inference.enrollment import Store
from speakerverif.inference.people import Person
from speakerverif.inference.recordings import Recordings
from speakerverif.inference.samples import Embeddings, Sample, check_name
from speakerverif.inference.voices import similarity_within
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring.normalization import unit

LIMITS = "enrolment.toml"
Cosine = Annotated[float, Range(-1, 1)]
_WHY_FORCE = "; give --force (force=True) to enrol all the same"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnrolmentLimits:
    """Limits of a model's checks, in cosine similarity; `tools/enrolment_limits.py` measures them.

    Attributes:
        fingerprint: of the model.
        measured_on: the recordings.
        min_speech_s: net speech of a speaker, seconds, over all recordings.
        min_voices: similarity of the two groups into which a recording's segments fall; below, two people speak.
        min_sample: similarity of a recording to the speaker's others; below, it is somebody else's.
        max_twin: similarity of a speaker to another one enrolled; above, they are one person.
    """

    fingerprint: str
    measured_on: str
    min_speech_s: Annotated[float, Range(0, 1e6)]
    min_voices: Cosine
    min_sample: Cosine
    max_twin: Cosine

    @classmethod
    def of(cls, folder: ModelFolder) -> "EnrolmentLimits | None":
        """Return the limits of a model; None where it has none.

        Raises:
            InputError: limits of another model; a damaged file.
        """
        path = folder.path / LIMITS
        if not path.is_file():
            return None
        limits: EnrolmentLimits = toml.from_dict(cls, toml.read_toml(path), str(path))
        if limits.fingerprint != folder.fingerprint:
            raise InputError(
                f"{path}: was measured with model {limits.fingerprint}, this is {folder.fingerprint}; "
                "measure it again with tools/enrolment_limits.py, or delete it"
            )
        return limits


@dataclass(frozen=True)
class Enrolment:
    """An enrolment that was done.

    Attributes:
        name: the speaker's.
        added: recordings that were new.
        repeated: recordings that the speaker had already, or that were given twice.
        recordings: how many the speaker now has.
        speech_s: active speech in the new ones.
        objections: of the checks, which `force` overruled.
        checked: whether similarities were checked: the model has limits.
    """

    name: str
    added: int
    repeated: int
    recordings: int
    speech_s: float
    objections: tuple[str, ...]
    checked: bool

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON writes it."""
        return asdict(self)


def enroll(
    folder: ModelFolder,
    store: Store | Callable[[], Store],
    name: str,
    recordings: Recordings,
    *,
    force: bool = False,
    keep_audio: bool = False,
    device: str = "cpu",
) -> Enrolment:
    """Add recordings of a speaker to a store, all of them or none.

    Args:
        folder: the loaded model.
        store: of that model; or a function that opens one, called when all recordings are embedded.
        name: the speaker's.
        recordings: one or more.
        force: enrol what the checks object to.
        keep_audio: keep the recordings in the store, so that it can be moved to another model.
        device: where the model is.

    Raises:
        InputError: a recording can't be embedded; a check objects: too little speech, two voices in a recording, a
            recording of somebody else, somebody enrolled already under another name, a recording that is enrolled for
            somebody else.
    """
    check_name(name)
    table = embed_all(folder, recordings.names, device, recordings)
    samples = [
        Sample(
            embedding=table.embeddings[i],
            path=recordings.path(recording),
            sha256=recordings.sha256(recording),
            duration_s=float(table.durations[i]),
            speech_s=float(table.speech[i]),
            audio=recordings.content(recording) if keep_audio else b"",
        )
        for i, recording in enumerate(recordings.names)
    ]
    store = store if isinstance(store, Store) else store()
    enrolled = store.samples(name) if store.has(name) else []
    known = {sample.sha256 for sample in enrolled}
    new: dict[str, Sample] = {}  # by the recording's name
    for recording, sample in zip(recordings.names, samples, strict=True):
        if sample.sha256 not in known:
            known.add(sample.sha256)
            new[recording] = sample
    limits = EnrolmentLimits.of(folder)
    objections = _somebody_elses(store, name, new)
    if limits is not None and new:
        objections += _too_little_speech([*enrolled, *new.values()], limits)
        objections += _several_voices(folder, recordings, new, limits, device)
        objections += _unlike_the_others(enrolled, new, limits)
        objections += _twins(store, name, [*enrolled, *new.values()], limits)
    if objections and not force:
        raise InputError(f"{name}: {'; '.join(objections)}{_WHY_FORCE}")
    for objection in objections:
        log.warning("%s: %s (enrolled all the same)", name, objection)
    if new:
        store.enroll_all([(name, list(new.values()))])
    return Enrolment(
        name=name,
        added=len(new),
        repeated=len(samples) - len(new),
        recordings=len(store.utterances(name)),
        speech_s=float(sum(sample.speech_s for sample in new.values())),
        objections=tuple(objections),
        checked=limits is not None,
    )


def enroll_people(
    folder: ModelFolder,
    store: Callable[[], Store],
    people: Iterable[Person],
    *,
    force: bool = False,
    keep_audio: bool = False,
    device: str = "cpu",
) -> tuple[list[Enrolment], dict[str, str]]:
    """Add many people to a store; one who can't be enrolled does not stop the others.

    Returns:
        the enrolments, and name -> reason of those refused.
    """
    results, refused = [], {}
    for person in people:
        try:
            recordings = person.recordings()
            given: dict[str, Any] = {"force": force, "keep_audio": keep_audio, "device": device}
            results.append(enroll(folder, store, person.name, recordings, **given))
        except InputError as error:
            reason = str(error)
            refused[person.name] = reason if reason.startswith(person.name) else f"{person.name}: {reason}"
    return results, refused


def similarities_to_others(embeddings: Embeddings) -> Embeddings:
    """Return the cosine similarity (N,) of each embedding (N, D) to the mean direction of the others, N > 1."""
    rows = unit(embeddings)
    others: Embeddings = unit(rows.sum(axis=0) - rows)
    similarities: Embeddings = np.einsum("ij,ij->i", rows, others)
    return similarities


def _somebody_elses(store: Store, name: str, new: dict[str, Sample]) -> list[str]:
    owners = store.owners([sample.sha256 for sample in new.values()])
    return [
        f"{recording} is enrolled for {owners[sample.sha256]!r}"
        for recording, sample in new.items()
        if owners.get(sample.sha256, name) != name
    ]


def _too_little_speech(samples: Sequence[Sample], limits: EnrolmentLimits) -> list[str]:
    speech_s = sum(sample.speech_s for sample in samples)
    if not speech_s < limits.min_speech_s:  # nan, where an earlier version enrolled, is not too little
        return []
    return [f"{speech_s:.1f} s of speech; expected {limits.min_speech_s:g} s or more"]


def _several_voices(
    folder: ModelFolder,
    recordings: Recordings,
    new: dict[str, Sample],
    limits: EnrolmentLimits,
    device: str,
) -> list[str]:
    objections = []
    for recording, sample in new.items():
        similarity = similarity_within(folder, recording, sample.duration_s, recordings, device)
        if similarity < limits.min_voices:
            objections.append(
                f"{recording} seems to hold two voices (similarity {similarity:.2f} between its parts; "
                f"expected {limits.min_voices:.2f} or more)"
            )
    return objections


def _unlike_the_others(
    enrolled: Sequence[Sample], new: dict[str, Sample], limits: EnrolmentLimits
) -> list[str]:
    if len(enrolled) + len(new) < 2:
        return []
    similarities = similarities_to_others(
        np.stack([sample.embedding for sample in (*enrolled, *new.values())])
    )
    if len(similarities) == 2 and similarities[0] < limits.min_sample:
        names = " and ".join(new) if len(new) == 2 else f"{next(iter(new))} and what is enrolled"
        return [f"{names} seem to be of two people (similarity {similarities[0]:.2f})"]
    return [
        f"{recording} seems to be of somebody else than the others (similarity {similarity:.2f}; "
        f"expected {limits.min_sample:.2f} or more)"
        for recording, similarity in zip(new, similarities[len(enrolled) :], strict=True)
        if similarity < limits.min_sample
    ]


def _twins(store: Store, name: str, samples: Sequence[Sample], limits: EnrolmentLimits) -> list[str]:
    if not len(store):
        return []
    model = unit(np.stack([sample.embedding for sample in samples])).mean(axis=0)
    return [
        f"seems to be enrolled already, as {other!r} (similarity {similarity:.2f}; "
        f"expected at most {limits.max_twin:.2f})"
        for other, similarity in store.search(model, top=2)
        if other != name and similarity > limits.max_twin
    ]
