"""A model, a store and their scale, as the service uses them: recordings in, JSON-ready records out.

Recordings come from outside: their format, length and rate are checked before they are decoded as a whole, and no
message contains a path of this machine.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speakerverif._util.messages import one_line
from speakerverif.api.service.limits import MAX_NAME, MAX_RATE, MAX_RECORDINGS, Limits, Refused
from speakerverif.audio.containers.detect import find_streams
from speakerverif.audio.streams import Damaged
from speakerverif.errors import InputError
from speakerverif.inference.embed import embed_all
from speakerverif.inference.enroll import enroll
from speakerverif.inference.enrollment import Store
from speakerverif.inference.identify import identify_all
from speakerverif.inference.recordings import Recordings, Samples
from speakerverif.inference.samples import check_name
from speakerverif.inference.scale import Scale
from speakerverif.inference.verify import Verification, compare, compare_recordings
from speakerverif.models.folder import ModelFolder

_BLOCK_S = 10.0
Record = dict[str, Any]


@dataclass(frozen=True)
class Thresholds:
    """The threshold of one request: a score, a log likelihood ratio, or the calibration's own (None and None)."""

    threshold: float | None = None
    llr_threshold: float | None = None


class Recognition:
    """What the service can do; every method may be called in many threads at once.

    Attributes:
        store: of the enrolled people.
        limits: of recordings.
    """

    def __init__(
        self, folder: ModelFolder, store: Store, limits: Limits, keep_audio: bool = False, device: str = "cpu"
    ) -> None:
        """Take a loaded model and a store of it.

        Raises:
            InputError: a calibration that does not fit the model.
        """
        self.store, self.limits = store, limits
        self._folder, self._keep_audio, self._device = folder, keep_audio, device
        self._scale = Scale.of(folder, None, store.folder)

    def health(self) -> Record:
        """Return the model's name and whether decisions are possible without a threshold."""
        calibration = self._scale.calibration
        return {
            "status": "ok",
            "model": self._folder.name,
            "fingerprint": self._folder.fingerprint,
            "engine": self._folder.engine,
            "sample_rate": self._folder.model.sample_rate,
            "embedding_dim": self._folder.model.embedding_dim,
            "calibrated": calibration is not None,
            "decides": calibration is not None and calibration.point is not None,
        }

    def recordings(self, contents: Sequence[bytes]) -> Recordings:
        """Return audio files given as bytes, after checking that they can be decoded within the limits.

        Raises:
            Refused: too many, too long, at too high a rate, or in a format that isn't known by its first bytes.
            InputError: damaged.
        """
        if len(contents) > MAX_RECORDINGS:
            raise Refused(413, f"{len(contents)} recordings: expected at most {MAX_RECORDINGS} per request")
        for number, content in enumerate(contents):
            _check_format(content, f"recording {number}")
        rate = self._folder.model.sample_rate
        recordings = Recordings(contents, None, rate)
        for name in recordings.names:
            seconds = 0.0
            for block in recordings.blocks(name, _BLOCK_S, rate):
                seconds += len(block) / rate
                if seconds > self.limits.audio_s:
                    raise Refused(
                        413, f"{name}: longer than {self.limits.audio_s:g} s, the most that is taken"
                    )
            found = recordings.info(name).sample_rate
            if found > MAX_RATE:
                raise Refused(422, f"{name}: {found} Hz: expected a sample rate of at most {MAX_RATE} Hz")
        return recordings

    def spoken(self, samples: Samples, sample_rate: int) -> Recordings:
        """Return samples of one channel as a recording."""
        return Recordings([samples], sample_rate, self._folder.model.sample_rate)

    def embed(self, recordings: Recordings) -> Record:
        """Return the embedding of a recording."""
        table = embed_all(self._folder, recordings.names, self._device, recordings)
        return {
            "embedding": table.embeddings[0].tolist(),
            "duration_s": float(table.durations[0]),
            "speech_s": float(table.speech[0]),
            "fingerprint": table.fingerprint,
        }

    def verify(self, pair: Recordings, given: Thresholds) -> Record:
        """Return the comparison of two recordings."""
        self.check(given)
        table = embed_all(self._folder, pair.names, self._device, pair)
        return self._verification(
            compare_recordings(self._scale, table, given.threshold, given.llr_threshold)
        )

    def verify_person(self, name: str, recording: Recordings, given: Thresholds) -> Record:
        """Return the comparison of an enrolled person with a recording.

        Raises:
            Refused: nobody of that name is enrolled.
        """
        self.check(given)
        self.check_enrolled(name)
        samples = self.store.samples_of([name])[1]
        if not samples:
            raise _nobody(name)
        table = embed_all(self._folder, recording.names, self._device, recording)
        result = compare(self._scale, samples[0], table, given.threshold, given.llr_threshold)
        return self._verification(result)

    def identify(self, recording: Recordings, top: int, given: Thresholds) -> Record:
        """Return the enrolled people most similar to a recording.

        Raises:
            Refused: nobody is enrolled.
        """
        self.check(given)
        self.check_enrolled(None)
        table = embed_all(self._folder, recording.names, self._device, recording)
        (result,) = identify_all(self._scale, self.store, table, top, given.threshold, given.llr_threshold)
        return self._decided(asdict(result), result.llr_threshold)

    def enroll(self, name: str, recordings: Recordings, force: bool) -> Record:
        """Return what was enrolled of a person: all recordings, on disk, or none.

        Raises:
            InputError: a name that can't be; a recording that can't be embedded; the checks object.
        """
        given: dict[str, Any] = {"force": force, "keep_audio": self._keep_audio, "device": self._device}
        return enroll(self._folder, self.store, name, recordings, **given).to_json()

    def people(self) -> Record:
        """Return the enrolled people, sorted by name."""
        return {
            "fingerprint": self._folder.fingerprint,
            "speakers": [asdict(speaker) for speaker in self.store.speakers()],
        }

    def remove(self, name: str) -> Record:
        """Return how many recordings were removed with a person.

        Raises:
            Refused: nobody of that name is enrolled.
        """
        self.check_enrolled(name)
        return {"name": name, "removed": self.store.remove(name)}

    def check(self, given: Thresholds) -> None:
        """Raise `InputError` for thresholds that decide nothing."""
        self._scale.check(given.threshold, given.llr_threshold)

    def check_enrolled(self, name: str | None) -> None:
        """Raise `Refused` where nobody of that name is enrolled; with None, where nobody is."""
        if name is None:
            if not len(self.store):
                raise Refused(409, "nobody is enrolled")
            return
        check_name(name)
        if not self.store.has(name):
            raise _nobody(name)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert an `InputError` to `Refused`, without a path of this machine."""
        try:
            yield
        except InputError as error:
            message = one_line(error)
            folder = self.store.folder
            if message.startswith(str(folder)):
                # Removed by somebody else meanwhile; or the disk is full, the file damaged, locked, of another model.
                missing = message.partition(": ")[2].startswith("nobody")
                status, message = (
                    (404, "nobody of that name is enrolled") if missing else (500, "the store failed")
                )
                raise Refused(status, message) from error
            for path in (folder.resolve(), folder, self._scale.source, self._folder.path):
                message = message.replace(str(path), path.name or "the model")
            raise Refused(422, message.replace("--force (force=True)", "force=true")) from error

    def _verification(self, result: Verification) -> Record:
        return self._decided(asdict(result), result.llr_threshold)

    def _decided(self, record: Record, llr_threshold: float | None) -> Record:
        """Return a record with the engine, and the error rates of its threshold where they were measured."""
        point = self._scale.point_at(llr_threshold)
        files = {
            key: value and Path(value).name for key, value in record.items() if key.startswith("calibrat")
        }
        return {
            **record,
            **files,
            "error_rates": None if point is None else asdict(point),
            "engine": self._folder.engine,
        }


def checked_name(name: str) -> str:
    """Return a name that can be enrolled.

    Raises:
        Refused: it can't be.
    """
    if len(name) > MAX_NAME:
        raise Refused(422, f"a name of {len(name)} characters: expected at most {MAX_NAME}")
    try:
        check_name(name)
    except InputError as error:
        raise Refused(422, str(error)) from error
    return name


def _nobody(name: str) -> Refused:
    return Refused(404, f"nobody named {name[:MAX_NAME]!r} is enrolled")


def _check_format(content: bytes, name: str) -> None:
    """Raise `Refused` for bytes that don't begin as a known audio format does.

    Only for files of unknown format does ffmpeg guess, and a guess may be a playlist, which names other files.
    """
    if not content:
        raise Refused(422, f"{name}: no bytes")
    try:
        streams = find_streams(io.BytesIO(content), len(content))
    except Damaged as error:
        raise Refused(422, f"{name}: {error}") from error
    if any(stream.container == "unknown" for stream in streams):
        raise Refused(
            422, f"{name}: not an audio format that is known: expected WAV, FLAC, Ogg, Opus, MP3, M4A"
        )
