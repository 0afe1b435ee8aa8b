"""Recordings cut into the pieces that an encoder takes at once, in batches of like length, read ahead of it."""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np

from speakerverif._util.resources import cores
from speakerverif.audio import reading
from speakerverif.audio.channels import Channel
from speakerverif.audio.speech_check import assess
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError

# A recording up to this long is embedded whole, as other toolkits do.
WHOLE_S = 120.0
# A longer one is embedded in equal pieces of at most this: no slower per second, in a sixth of the memory.
LONGEST_PIECE_S = 20.0

Utterances = Sequence[Utterance] | Manifest


class Source(Protocol):
    """Reader of recordings: the module `audio`, or an object with the same functions."""

    def info(self, path: str, /) -> reading.AudioInfo:
        """Return rate, channels and length."""

    def read(
        self, path: str, start_s: float, duration_s: float | None, sample_rate: int, channel: Channel, /
    ) -> np.ndarray:
        """Return the part as mono samples at `sample_rate`."""

    def blocks(
        self, path: str, block_s: float, sample_rate: int, channel: Channel, /
    ) -> Iterator[np.ndarray]:
        """Yield the whole in blocks of `block_s` seconds."""


@dataclass(frozen=True)
class Pieces:
    """Stretches of recordings that go through the encoder at once, as columns: a million of them are cheap.

    Attributes:
        row: int64 (P,), the recording's place in the list.
        number: int64 (P,), the piece's place in its recording.
        start_s: float64 (P,), within the file.
        duration_s: float64 (P,).
        to_end: bool (P,): the recording is read whole, to where it ends, which a header may have rounded.
        in_turn: bool (P,): the recording is read in one pass, a piece after the other.
        parts: int64 (N,), how many pieces each recording has.
    """

    row: np.ndarray
    number: np.ndarray
    start_s: np.ndarray
    duration_s: np.ndarray
    to_end: np.ndarray
    in_turn: np.ndarray
    parts: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True)
class Reading:
    """A piece as it was read.

    Attributes:
        row: the recording's place in the list.
        waveform: float32 (samples,).
        speech_s: seconds of active speech.
        status: `ok`, or what is wrong.
        whole_s: seconds of the whole recording, where the piece is all of it; None where it isn't.
    """

    row: int
    waveform: np.ndarray
    speech_s: float
    status: str
    whole_s: float | None = None


def cut(start_s: np.ndarray, duration_s: np.ndarray, told: np.ndarray, crops: int, crop_s: float) -> Pieces:
    """Return the pieces of recordings: themselves, equal parts of the long ones, or evenly spaced crops.

    Args:
        start_s: float64 (N,), where each begins in its file.
        duration_s: float64 (N,); nan (unknown) makes no piece.
        told: bool (N,): the duration is from the list, not from the file's header.
        crops: 0 for whole recordings; else the number of crops of each recording that is longer than one.
        crop_s: length of a crop, seconds.
    """
    if crops:
        several = duration_s > crop_s
        parts, length = np.where(several, crops, 1), np.where(several, crop_s, duration_s)
        step = (duration_s - length) / max(1, crops - 1)
        start_s = start_s + (step / 2 if crops == 1 else 0)
    else:
        several = duration_s > WHOLE_S
        parts = np.where(several, np.ceil(duration_s / LONGEST_PIECE_S), 1)
        step = length = duration_s / parts
    parts = np.where(np.isnan(duration_s), 0, parts).astype(np.int64)
    row = np.repeat(np.arange(len(parts)), parts)
    number = np.arange(len(row)) - np.repeat(np.cumsum(parts) - parts, parts)
    in_turn = several & (start_s == 0) & (crops == 0)
    starts = start_s[row] + number * step[row]
    return Pieces(row, number, starts, length[row], ~(several | told)[row], in_turn[row], parts)


def batches(duration_s: np.ndarray, batch_size: int, batch_s: float) -> Iterator[np.ndarray]:
    """Yield places of pieces of like length together, longest first: memory peaks at once and padding is short.

    Args:
        duration_s: float64 (P,).
        batch_size: pieces together, at most.
        batch_s: seconds together, padding included, at most; a longer piece is a batch by itself.
    """
    order = np.argsort(-duration_s, kind="stable")
    first = 0
    while first < len(order):
        fitting = int(batch_s / max(duration_s[order[first]], 1e-3) + 1e-6)
        last = first + max(1, min(batch_size, fitting))
        yield order[first:last]
        first = last


def read_ahead(
    source: Source, utterances: Utterances, pieces: Pieces, sample_rate: int, batch_size: int, batch_s: float
) -> Iterator[list[Reading]]:
    """Yield the pieces batch by batch, while the next two batches are being read in threads."""
    read = _Reader(source, utterances, pieces, sample_rate).read
    order = batches(pieces.duration_s, batch_size, batch_s)
    with ThreadPoolExecutor(cores()) as pool:
        ahead = deque(pool.map(read, batch.tolist()) for batch in itertools.islice(order, 2))
        while ahead:
            yield list(ahead.popleft())
            ahead.extend(pool.map(read, batch.tolist()) for batch in itertools.islice(order, 1))


class _Reader:
    """Reads pieces, in any thread."""

    def __init__(self, source: Source, utterances: Utterances, pieces: Pieces, sample_rate: int) -> None:
        self._source, self._utterances, self._pieces, self._rate = source, utterances, pieces, sample_rate
        self._turns: dict[int, _InTurn] = {}
        self._lock = Lock()

    def read(self, i: int) -> Reading:
        """Return the i-th piece."""
        row = int(self._pieces.row[i])
        try:
            waveform = self._samples(i, self._utterances[row])
        except InputError as error:
            return Reading(row, np.empty(0, np.float32), 0.0, str(error))
        quality = assess(waveform, self._rate)
        whole_s = len(waveform) / self._rate if self._pieces.to_end[i] else None
        return Reading(row, waveform, quality.speech_s, quality.status, whole_s)

    def _samples(self, i: int, utterance: Utterance) -> np.ndarray:
        pieces, length = self._pieces, float(self._pieces.duration_s[i])
        if not pieces.in_turn[i]:
            wanted = None if pieces.to_end[i] else length
            start_s = float(pieces.start_s[i])
            return self._source.read(utterance.path, start_s, wanted, self._rate, utterance.channel)
        row, number = int(pieces.row[i]), int(pieces.number[i])
        length = (
            int(length * self._rate) / self._rate
        )  # rounded up, hundreds of pieces would reach past the end
        with self._lock:
            if row not in self._turns:
                blocks = self._source.blocks(utterance.path, length, self._rate, utterance.channel)
                self._turns[row] = _InTurn(blocks, int(pieces.parts[row]))
        samples = self._turns[row].take(number)
        missing_s = length - len(samples) / self._rate
        if missing_s > reading.SLACK_S:
            raise InputError(
                f"{utterance.path}: ends {missing_s:g} s before piece {number + 1} of {length:g} s does"
            )
        return samples


class _InTurn:
    """The pieces of one long recording, read in one pass, whichever thread asks for them."""

    def __init__(self, blocks: Iterator[np.ndarray], parts: int) -> None:
        self._blocks, self._left, self._lock = enumerate(blocks), parts, Lock()
        self._waiting: dict[int, np.ndarray] = {}

    def take(self, number: int) -> np.ndarray:
        """Return a piece, and forget it; past the recording's end there is nothing in it."""
        with self._lock:
            while number not in self._waiting:
                at, samples = next(self._blocks, (number, np.empty(0, np.float32)))
                self._waiting[at] = samples
            self._left -= 1
            if not self._left:
                # Read to the end, where damage may show; that closes the file, too.
                deque(self._blocks, maxlen=0)
            return self._waiting.pop(number)
