"""Embeddings of people's recordings in a folder, a list or a store; each recording once, with its speaker."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speakerverif.audio.channels import Channel
from speakerverif.audio.reading import Files
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.inference.embed import embed, embed_all, explained
from speakerverif.inference.enrollment import Store
from speakerverif.inference.people import people_of_folder, utterances_of_people
from speakerverif.inference.samples import Sample
from speakerverif.inference.score_sources import NotEmbeddedError
from speakerverif.inference.store_export import stored_recordings
from speakerverif.models.folder import ModelFolder
from speakerverif.scoring.normalization import unit

MIN_COSINE = 0.9999  # of two embeddings of the same samples, which differ by rounding alone


@dataclass(frozen=True)
class PeopleFolder:
    """A folder that holds one folder of recordings per person, at any depth."""

    path: Path


@dataclass(frozen=True)
class PeopleManifest:
    """A list of recordings with their speakers; `audio_root` is the folder that relative paths start from."""

    path: Path
    audio_root: Path | None = None


@dataclass(frozen=True)
class PeopleStore:
    """An enrolment store.

    Its embeddings are used where they are of the model. Else the recordings are embedded again, from the kept audio,
    from their paths, or from `audio_root`.
    """

    path: Path
    audio_root: Path | None = None


People = PeopleFolder | PeopleManifest | PeopleStore


@dataclass(frozen=True)
class EmbeddedPeople:
    """Embeddings of people's recordings, each recording once.

    Attributes:
        table: the embeddings.
        speakers: of the table's rows.
        repeated: ids of the recordings that were given again, and are not in the table.
    """

    table: EmbeddingTable
    speakers: Sequence[str]
    repeated: tuple[str, ...]


def embedded_people(
    folder: ModelFolder, people: People, device: str = "cpu", channel: Channel = None
) -> EmbeddedPeople:
    """Return the embeddings of all recordings of people.

    Args:
        folder: the loaded model.
        people: where their recordings are.
        device: where the model is.
        channel: of recordings that have several.

    Raises:
        InputError: wrong input; one recording that is given for two people.
        NotEmbeddedError: recordings that can't be embedded, all named.
    """
    if isinstance(people, PeopleStore):
        return _distinct(*_of_store(folder, people, device))
    if isinstance(people, PeopleManifest):
        utterances = utterances_of_people(people.path, people.audio_root)
    else:
        listed = people_of_folder(people.path, folder.model.sample_rate)
        utterances = [
            Utterance(str(Path(str(path)).relative_to(people.path)), str(path), person.name)
            for person in listed
            for path in person.given
        ]
    table = embed(folder, utterances, device=device, label="calibrate", source=Files(channel))
    if table.failed:
        reasons = "\n".join(f"  {name}: {explained(reason)}" for name, reason in table.failed.items())
        raise NotEmbeddedError(
            f"{len(table.failed)} of {len(utterances)} recordings could not be embedded:\n{reasons}"
        )
    return _distinct(table, [utterance.speaker for utterance in utterances])


def _of_store(folder: ModelFolder, people: PeopleStore, device: str) -> tuple[EmbeddingTable, list[str]]:
    """Return a store's embeddings and their speakers; embedded again where the store is of another model."""
    store = Store(people.path)
    rows: list[tuple[str, str, Sample]] = []
    if store.fingerprint == folder.fingerprint:
        for name, samples in zip(*store.samples_of(store.names()), strict=True):
            rows += [(name, f"{name}/{i}", sample) for i, sample in enumerate(samples)]
    else:
        rate = folder.model.sample_rate
        for name, samples, recordings in stored_recordings(store, rate, people.audio_root):
            embeddings = embed_all(folder, recordings.names, device, recordings).embeddings
            for i, (sample, embedding) in enumerate(zip(samples, embeddings, strict=True)):
                rows.append((name, f"{name}/{i}", dataclasses.replace(sample, embedding=embedding)))
    if not rows:
        raise InputError(f"{store.folder}: nobody is enrolled")
    table = EmbeddingTable(
        ids=[row_id for _, row_id, _ in rows],
        embeddings=np.stack([sample.embedding for _, _, sample in rows]),
        durations=np.array([sample.duration_s for _, _, sample in rows], np.float32),
        speech=np.array([sample.speech_s for _, _, sample in rows], np.float32),
        status=["ok"] * len(rows),
        fingerprint=folder.fingerprint,
    )
    return table, [name for name, _, _ in rows]


def _distinct(table: EmbeddingTable, owner: Sequence[str]) -> EmbeddedPeople:
    """Return each recording once.

    The same samples give the same embedding and duration, whatever their file's name or lossless format.

    Raises:
        InputError: one recording is given for two speakers.
    """
    units = unit(table.embeddings, table.ids)
    same_length: dict[float, list[int]] = {}
    kept, repeated = [], []
    for row, duration in enumerate(table.durations.tolist()):
        earlier = same_length.setdefault(-1.0 if math.isnan(duration) else duration, [])
        alike = [other for other in earlier if float(units[other] @ units[row]) > MIN_COSINE]
        if not alike:
            earlier.append(row)
            kept.append(row)
        elif owner[alike[0]] == owner[row]:
            repeated.append(table.ids[row])
        else:
            raise InputError(
                f"{table.ids[alike[0]]} and {table.ids[row]} are the same recording, given for {owner[alike[0]]!r} and "
                f"{owner[row]!r}: take one of them away"
            )
    columns = table.embeddings[kept], table.durations[kept], table.speech[kept]
    ids = [table.ids[row] for row in kept]
    distinct = EmbeddingTable(ids, *columns, ["ok"] * len(kept), table.fingerprint)
    return EmbeddedPeople(distinct, [owner[row] for row in kept], tuple(repeated))
