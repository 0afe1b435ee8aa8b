"""A recording that grows while somebody speaks, the question about it, and when a partial answer is due."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speakerverif.api.service.limits import Refused
from speakerverif.api.service.recognition import Recognition, Record, Thresholds
from speakerverif.audio.speech_check import assess

EVERY_S = 1.0  # new speech between partial scores
# Later ones also wait for this share of the speech so far: each takes the whole recording, and all of them together
# then cost about ten times the last one, however long the recording.
EVERY_SHARE = 0.1

Samples = NDArray[np.int16]
NO_THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class Question:
    """What is asked about a growing recording.

    Attributes:
        sample_rate: Hz of its samples.
        name: the enrolled person to compare with; None: identify.
        thresholds: of the decision.
    """

    sample_rate: int
    name: str | None = None
    thresholds: Thresholds = NO_THRESHOLDS

    def answer(self, recognition: Recognition, samples: Samples) -> Record:
        """Return the answer for samples, int16 (samples,): a verification, or an identification (five candidates).

        Raises:
            Refused: they can't be embedded; nobody of that name is enrolled.
        """
        with recognition.errors():
            recording = recognition.spoken(samples, self.sample_rate)
            if self.name is None:
                return recognition.identify(recording, 5, self.thresholds)
            return recognition.verify_person(self.name, recording, self.thresholds)


class GrowingRecording:
    """Samples of one channel, as they come.

    Attributes:
        sample_rate: Hz.
        speech_s: active speech when last measured, seconds.
    """

    def __init__(self, sample_rate: int, limit_s: float) -> None:
        self.sample_rate, self.speech_s = sample_rate, 0.0
        self._limit_s = limit_s
        self._chunks: list[Samples] = []
        self._length, self._measured, self._next_s = 0, 0, EVERY_S

    @property
    def duration_s(self) -> float:
        """Seconds so far."""
        return self._length / self.sample_rate

    @property
    def samples(self) -> Samples:
        """All samples so far, int16 (samples,)."""
        if len(self._chunks) != 1:
            self._chunks = [np.concatenate([np.empty(0, np.int16), *self._chunks])]
        return self._chunks[0]

    def add(self, chunk: Samples) -> None:
        """Append samples, int16 (samples,).

        Raises:
            Refused: longer than the limit.
        """
        self._chunks.append(chunk)
        self._length += len(chunk)
        if self.duration_s > self._limit_s:
            raise Refused(413, f"longer than {self._limit_s:g} s, the most that is taken")

    def is_due(self) -> bool:
        """Return whether there is enough new speech for a partial score; then it is counted as given."""
        # Speech grows no faster than time, so that measuring it earlier would be in vain.
        if self.duration_s - self._measured / self.sample_rate < max(0.25, self._next_s - self.speech_s):
            return False
        self.measure()
        if self.speech_s < self._next_s:
            return False
        self._next_s = self.speech_s + max(EVERY_S, EVERY_SHARE * self.speech_s)
        return True

    def measure(self) -> float:
        """Return the seconds of active speech so far."""
        self._measured = self._length
        self.speech_s = assess(self.samples / np.float32(32768), self.sample_rate).speech_s
        return self.speech_s
