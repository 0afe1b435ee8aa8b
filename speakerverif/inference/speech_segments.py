"""Speech segments of a recording: by its energy, or by the neural detector Silero (the extra `vad`)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from speakerverif.audio import reading
from speakerverif.audio.channels import Channel
from speakerverif.audio.speech_check import active_frames
from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.inference.chunks import Source, Utterances

Detector = Literal["energy", "silero"]
RATE = 16000  # at which speech is looked for
FRAME_S, SHIFT_S = 0.025, 0.01
SHORTEST_SPEECH_S = 0.25  # shorter bursts are clicks
SHORTEST_PAUSE_S = 0.3  # shorter pauses are within a word or between two
MARGIN_S = 0.05  # kept around speech: onsets are soft


@dataclass(frozen=True)
class Segment:
    """A stretch of speech, in seconds from the beginning of the recording."""

    start_s: float
    end_s: float


def find_speech(samples: NDArray[np.float32], detector: Detector = "energy") -> list[Segment]:
    """Return the stretches of speech in a recording, in order, without overlap.

    Args:
        samples: float32 (samples,), at 16 kHz.
        detector: "energy" takes all that is loud enough, noise and music too; "silero" finds voices.

    Raises:
        InputError: an unknown detector; Silero isn't installed.
    """
    if detector not in get_args(Detector):
        raise InputError(f"speech detector {detector!r}: expected {' or '.join(get_args(Detector))}")
    if len(samples) < RATE * FRAME_S:
        return []
    if detector == "silero":
        return _by_silero(samples)
    return _segments(active_frames(samples, RATE), len(samples) / RATE)


def _segments(active: NDArray[np.bool_], duration_s: float) -> list[Segment]:
    """Return stretches of active frames: short pauses filled, short bursts dropped, a margin around the rest."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    runs = [
        (first * SHIFT_S, (last - 1) * SHIFT_S + FRAME_S) for first, last in edges.reshape(-1, 2).tolist()
    ]
    joined: list[tuple[float, float]] = []
    for start_s, end_s in runs:
        if joined and start_s - joined[-1][1] < SHORTEST_PAUSE_S:
            joined[-1] = (joined[-1][0], end_s)
        else:
            joined.append((start_s, end_s))
    return [
        Segment(round(max(0.0, start_s - MARGIN_S), 3), round(min(duration_s, end_s + MARGIN_S), 3))
        for start_s, end_s in joined
        if end_s - start_s >= SHORTEST_SPEECH_S
    ]


def _by_silero(samples: NDArray[np.float32]) -> list[Segment]:
    try:
        import torch
        from silero_vad import get_speech_timestamps
    except ImportError as error:
        raise InputError("the detector silero needs its package: pip install 'speakerverif[vad]'") from error
    stretches = get_speech_timestamps(
        torch.from_numpy(samples),
        _silero(),
        sampling_rate=RATE,
        min_speech_duration_ms=round(1000 * SHORTEST_SPEECH_S),
        min_silence_duration_ms=round(1000 * SHORTEST_PAUSE_S),
        speech_pad_ms=round(1000 * MARGIN_S),
    )
    return [Segment(round(s["start"] / RATE, 3), round(s["end"] / RATE, 3)) for s in stretches]


@lru_cache(maxsize=1)
def _silero() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad()  # its weights are in its package: nothing is fetched


class SpeechOnly:
    """A source of recordings with everything but speech cut out, for `embed`.

    A recording without speech is passed on whole: the checks of `embed` name what is wrong with it.
    """

    def __init__(self, detector: Detector, source: Source = reading) -> None:
        self._detector, self._source = detector, source
        self._spans: dict[str, list[Segment]] = {}

    def info(self, path: str, /) -> reading.AudioInfo:
        """Return rate and channels of a recording, and the length of its speech."""
        samples = self._speech(path, RATE)
        facts = self._source.info(path)
        return reading.AudioInfo(facts.sample_rate, facts.channels, len(samples) / RATE)

    def read(
        self,
        path: str,
        start_s: float,
        duration_s: float | None,
        sample_rate: int,
        channel: Channel = None,
        /,
    ) -> NDArray[np.float32]:
        """Return a part of a recording's speech, float32 (samples,)."""
        samples = self._speech(path, sample_rate)
        first = round(start_s * sample_rate)
        last = None if duration_s is None else first + round(duration_s * sample_rate)
        return samples[first:last]

    def blocks(
        self, path: str, block_s: float, sample_rate: int, channel: Channel = None, /
    ) -> Iterator[NDArray[np.float32]]:
        """Yield a recording's speech in blocks of `block_s` seconds, float32 (samples,) each."""
        samples, size = self._speech(path, sample_rate), round(block_s * sample_rate)
        yield from (samples[first : first + size] for first in range(0, len(samples), size))

    def _speech(self, path: str, sample_rate: int) -> NDArray[np.float32]:
        samples = self._source.read(path, 0.0, None, sample_rate, None)
        if path not in self._spans:
            at_rate = samples if sample_rate == RATE else self._source.read(path, 0.0, None, RATE, None)
            self._spans[path] = find_speech(at_rate, self._detector)
        parts = [
            samples[round(s.start_s * sample_rate) : round(s.end_s * sample_rate)] for s in self._spans[path]
        ]
        return np.concatenate(parts) if parts else samples


def windows_of(
    utterances: Utterances, window_s: float, step_s: float, source: Source = reading
) -> list[Utterance]:
    """Return windows of recordings as utterances, their ids `id:start-end` in seconds.

    A recording shorter than two windows gives one, the whole recording; a remainder at the end, shorter than a step, is
    in no window.

    Args:
        utterances: the recordings or parts of recordings.
        window_s: length of a window.
        step_s: from the beginning of one to that of the next.
        source: reads them.

    Raises:
        InputError: lengths that aren't positive; a recording whose length can't be read.
    """
    from speakerverif.inference.voices import windows

    if not (0 < step_s < float("inf") and 0 < window_s < float("inf")):
        raise InputError(f"windows of {window_s} s every {step_s} s: expected positive lengths")
    cut = []
    for u in utterances:
        duration_s = u.duration_s
        if duration_s is None:
            duration_s = source.info(u.path).duration_s - u.start_s
        for start_s, length_s in windows(duration_s, window_s, step_s):
            begin_s = u.start_s + start_s
            name = f"{u.id}:{begin_s:.3f}-{begin_s + length_s:.3f}"
            cut.append(replace(u, id=name, start_s=begin_s, duration_s=length_s))
    return cut
