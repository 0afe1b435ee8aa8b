"""Export of a store to a file, import into another store, and migration to another model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speakerverif._util.files import replacing
from speakerverif._util.messages import named
from speakerverif.data import _columns
from speakerverif.data._npz import read_arrays
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError
from speakerverif.inference.embed import embed_all
from speakerverif.inference.enrollment import Store
from speakerverif.inference.recordings import Recording, Recordings
from speakerverif.inference.samples import Sample, stored_sample
from speakerverif.models.folder import ModelFolder

_COLUMNS = ("speakers", "paths", "sha256", "enrolled_at")


def export(store: Store, path: str | Path, names: Sequence[str] | None = None, *, plain: bool = False) -> int:
    """Write speakers to a file of plain arrays, and return how many.

    The file is an embedding table too (`EmbeddingTable.load`), its ids "name/0", "name/1", ...; it also has
    `speakers`, `paths`, `sha256`, `enrolled_at` (N,), and kept audio as bytes `audio` in pieces of `audio_bytes` (N,).

    Args:
        store: of any model.
        path: of the file.
        names: who; None: everybody.
        plain: allow an encrypted store, whose values the file holds unencrypted.

    Raises:
        InputError: no speaker of that name; an empty or encrypted store; the file can't be written.
    """
    if store.encrypted and not plain:
        raise InputError(
            f"{store.folder}: is encrypted, and its export would not be: say --plain to write it all the same; "
            "`store backup` makes an encrypted copy"
        )
    people = [(name, store.samples(name)) for name in names or store.names()]
    if not people:
        raise InputError(f"{store.folder}: nobody is enrolled")
    if lacking := [name for name, samples in people if not samples]:
        raise InputError(f"{store.folder}: damaged: no recordings of {named(lacking)}; restore a backup")
    rows = [(name, number, sample) for name, samples in people for number, sample in enumerate(samples)]
    samples = [sample for _, _, sample in rows]
    arrays = {
        "ids": np.array([f"{name}/{number}" for name, number, _ in rows]),
        "embeddings": np.stack([sample.embedding for sample in samples]).astype(np.float32),
        "durations": np.array([sample.duration_s for sample in samples], np.float32),
        "speech": np.array([sample.speech_s for sample in samples], np.float32),
        "status": np.array(["ok"] * len(rows)),
        "fingerprint": np.array(store.fingerprint),
        "speakers": np.array([name for name, _, _ in rows]),
        "paths": np.array([sample.path for sample in samples]),
        "sha256": np.array([sample.sha256 for sample in samples]),
        "enrolled_at": np.array([sample.enrolled_at for sample in samples]),
        "audio": np.frombuffer(b"".join(sample.audio for sample in samples), np.uint8),
        "audio_bytes": np.array([len(sample.audio) for sample in samples], np.int64),
    }
    with replacing(path) as file:
        Path(file.name).chmod(0o600)
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return len(people)


def import_file(path: str | Path, store: str | Path, key_file: str | Path | None = None) -> tuple[int, int]:
    """Add the speakers of a file that `export` wrote to a store, made where there is none.

    Recordings that a speaker has already are left out.

    Args:
        path: of the file.
        store: folder of the store.
        key_file: as `Store` takes it.

    Returns:
        how many speakers, and how many recordings were added.

    Raises:
        InputError: not such a file; a store of another model.
    """
    table, further = _read(path)
    ends = np.cumsum(further["audio_bytes"])
    audio = further["audio"].tobytes()
    people: dict[str, list[Sample]] = {}
    for i, name in enumerate(further["speakers"].tolist()):
        facts = {
            "path": str(further["paths"][i]),
            "sha256": str(further["sha256"][i]),
            "duration_s": float(table.durations[i]),
            "speech_s": float(table.speech[i]),
            "audio": audio[ends[i] - further["audio_bytes"][i] : ends[i]],
            "enrolled_at": str(further["enrolled_at"][i]),
        }
        people.setdefault(name, []).append(stored_sample(table.embeddings[i], facts))
    opened = Store(store, table.fingerprint, create=True, key_file=key_file)
    for name, samples in people.items():
        if opened.has(name):
            own = {sample.embedding.tobytes() for sample in opened.samples(name)}
            people[name] = [sample for sample in samples if sample.embedding.tobytes() not in own]
    repeated = opened.enroll_all((name, samples) for name, samples in people.items() if samples)
    return len(people), sum(map(len, people.values())) - repeated


def migrate(
    store: Store, folder: ModelFolder, audio_root: str | Path | None = None, device: str = "cpu"
) -> int:
    """Embed all of a store's recordings again for another model, and return how many; all of them or none.

    A recording is read from the audio that the store keeps, else from the path that it was enrolled from.

    Args:
        store: of any model.
        folder: the other model, loaded.
        audio_root: folder in which to look for files by their names, where they aren't at their paths.
        device: where the model is.

    Raises:
        InputError: recordings that can't be found (all are named), or that differ from those enrolled; the
            store changed meanwhile.
    """
    changes = store.changes
    new = []
    for name, samples, recordings in stored_recordings(store, folder.model.sample_rate, audio_root):
        table = embed_all(folder, recordings.names, device, recordings)
        new.append(
            (name, [replace(s, embedding=row) for s, row in zip(samples, table.embeddings, strict=True)])
        )
    store.replace_embeddings(folder.fingerprint, new, changes)
    return sum(len(samples) for _, samples in new)


def stored_recordings(
    store: Store, model_rate: int, audio_root: str | Path | None = None
) -> Iterator[tuple[str, list[Sample], Recordings]]:
    """Yield each enrolled speaker's name, samples, and their recordings: the kept audio, else the files.

    Args:
        store: of any model.
        model_rate: Hz.
        audio_root: folder in which to look for files by their names, where they aren't at their paths.

    Raises:
        InputError: nobody is enrolled; recordings that can't be found (all are named), or that differ from those
            enrolled.
    """
    people = [(name, store.samples(name)) for name in store.names()]
    if not people:
        raise InputError(f"{store.folder}: nobody is enrolled")
    root = None if audio_root is None else Path(audio_root)
    missing = [
        f"{name}: {sample.path or 'a recording that was not a file'}"
        for name, samples in people
        for sample in samples
        if _recording(sample, root) is None
    ]
    if missing:
        shown = "; ".join(missing[:5]) + (f"; and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InputError(
            f"{store.folder}: {len(missing)} recordings are neither kept in the store nor where they were: {shown}; "
            "name their folder with --audio-root, or remove these speakers and enrol them again"
        )
    for name, samples in people:
        given = [recording for sample in samples if (recording := _recording(sample, root)) is not None]
        recordings = Recordings(given, None, model_rate)
        for recording, sample in zip(recordings.names, samples, strict=True):
            if sample.sha256 and recordings.sha256(recording) != sample.sha256:
                raise InputError(f"{recording}: is not the recording that was enrolled for {name!r} any more")
        yield name, samples, recordings


def _recording(sample: Sample, root: Path | None) -> Recording | None:
    """Return the source of a sample's audio; None where there is none."""
    if sample.audio:
        return sample.audio
    if sample.path and Path(sample.path).is_file():
        return Path(sample.path)
    if sample.path and root is not None and (root / Path(sample.path).name).is_file():
        return root / Path(sample.path).name
    return None


def _read(path: str | Path) -> tuple[EmbeddingTable, dict[str, NDArray[Any]]]:
    """Return the table in an exported file, and its further columns; raises as `import_file`."""
    numbers = ("audio", "audio_bytes")
    arrays = read_arrays(path, (*_columns.NAMES, *_COLUMNS, *numbers))
    lacking = [name for name in (*_columns.NAMES, *_COLUMNS, *numbers) if name not in arrays]
    if lacking:
        raise InputError(f"{path}: not a file that `store export` wrote: lacks {', '.join(lacking)}")
    further = {name: arrays.pop(name) for name in (*_COLUMNS, *numbers)}
    table = EmbeddingTable.checked(str(path), arrays)
    for name, array in further.items():
        kind = "integers" if name in numbers else "texts"
        if array.dtype.kind not in ("iu" if name in numbers else "U") or array.ndim != 1:
            raise InputError(f"{path}: damaged: {name} is {array.dtype} {array.shape}, expected {kind} (N,)")
        if name != "audio" and len(array) != len(table):
            raise InputError(f"{path}: damaged: {len(array)} {name}, {len(table)} embeddings")
    sizes = further["audio_bytes"]
    if further["audio"].dtype != np.uint8 or np.any(sizes < 0) or sizes.sum() != len(further["audio"]):
        raise InputError(f"{path}: damaged: its audio has another length than it says")
    return table, further
