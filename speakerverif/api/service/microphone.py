"""Samples of the microphone, and the answers while somebody speaks into it (the extra `listen`)."""

import math
import queue
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from speakerverif.api.service.limits import Refused
from speakerverif.api.service.recognition import Recognition, Record
from speakerverif.api.service.streaming import GrowingRecording, Question, Samples
from speakerverif.errors import InputError

CHUNK_S = 0.1


@dataclass(frozen=True)
class Heard:
    """An answer about what was heard so far.

    Attributes:
        speech_s: active speech so far, seconds.
        answer: as the service's.
        final: nothing more will be heard.
    """

    speech_s: float
    answer: Record
    final: bool


def microphone(sample_rate: int) -> Generator[Samples, None, None]:
    """Yield chunks of one channel from the default microphone, int16 (samples,), without an end.

    Raises:
        InputError: sounddevice or its library is missing; there is no microphone.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise InputError("listening needs sounddevice: pip install 'speakerverif[listen]'") from error
    except OSError as error:  # PortAudio
        raise InputError(f"listening needs the library PortAudio: {error}; install libportaudio2") from error
    chunks: queue.Queue[bytes] = queue.Queue()

    def take(content: object, *_: object) -> None:
        chunks.put(bytes(content))  # type: ignore[call-overload]

    try:
        stream = sounddevice.RawInputStream(
            sample_rate, round(CHUNK_S * sample_rate), channels=1, dtype="int16", callback=take
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise InputError(f"no microphone that can be used: {error}") from error
    with stream:
        while True:
            yield np.frombuffer(chunks.get(), np.int16)


def listen(
    recognition: Recognition, chunks: Iterable[Samples], question: Question, seconds: float
) -> Iterator[Heard]:
    """Yield answers about a growing recording: after each second of new speech (less often later), and at its end.

    Args:
        recognition: model and store.
        chunks: samples of one channel, int16 (samples,) each; interrupting their iteration ends the recording.
        question: sample rate, whom to compare with, thresholds.
        seconds: length of the recording at which it ends.

    Raises:
        InputError: the recording can't be embedded; nobody of that name is enrolled.
    """
    growing = GrowingRecording(question.sample_rate, math.inf)
    try:
        recognition.check_enrolled(question.name)
        try:
            for chunk in chunks:
                growing.add(chunk)
                if growing.duration_s >= seconds:
                    break
                if growing.is_due():
                    yield Heard(growing.speech_s, question.answer(recognition, growing.samples), False)
        except KeyboardInterrupt:
            pass
        yield Heard(growing.measure(), question.answer(recognition, growing.samples), True)
    except Refused as refused:
        raise InputError(refused.reason) from refused
