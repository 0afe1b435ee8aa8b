"""Recordings given as files, as the bytes of files, or as samples in memory, read alike."""

import hashlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, Union

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speakerverif.audio import reading
from speakerverif.audio.channels import Channel
from speakerverif.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# A name in quotation marks can stand in `Union` alone.
Samples = Union[NDArray[Any], "Tensor", Sequence[float]]
Recording = str | Path | bytes | bytearray | memoryview | IO[bytes] | Samples
RATES = range(1000, 1_000_000)  # Hz, of samples in memory
_HASHED_BLOCK_S, _HASHED_RATE = 10.0, 16000

Result = TypeVar("Result")


class Recordings:
    """Recordings by name; reads them as the module `audio.reading` reads files.

    Attributes:
        names: of the recordings: a file's path, "recording 3" for what came from memory.
    """

    def __init__(
        self,
        given: Sequence[Recording],
        sample_rate: int | None,
        model_rate: int,
        channel: Channel = None,
    ) -> None:
        """Take recordings.

        Args:
            given: paths of audio files; an audio file's bytes, or a binary file object of them; or samples of one
                channel: an array, a tensor or a list of floats in [-1, 1] or of signed integers of their full range,
                shape (samples,), (1, samples) or (samples, 1).
            sample_rate: Hz, of samples; files know their own.
            model_rate: Hz at which samples are kept.
            channel: of files that have several, where their names give none; as for `reading.read`.

        Raises:
            InputError: samples without a rate, of several channels, or of a type that isn't sound.
        """
        self.names: list[str] = []
        self._rate, self._files = model_rate, reading.Files(channel)
        self._samples: dict[str, NDArray[np.float32]] = {}
        self._copies: dict[str, Path] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        for number, recording in enumerate(given):
            if isinstance(recording, str | Path):
                self.names.append(str(recording))
                continue
            name = f"recording {number}"
            self.names.append(name)
            if isinstance(recording, bytes | bytearray | memoryview):
                self._copies[name] = self._written(bytes(recording))
            elif hasattr(recording, "read"):
                self._copies[name] = self._written(_content(recording, name))
            else:
                self._samples[name] = as_samples(recording, sample_rate, model_rate, name)

    def path(self, name: str) -> str:
        """Return the path of a recording that was given as one; empty for what came from memory."""
        return "" if name in self._samples or name in self._copies else str(Path(name).resolve())

    def content(self, name: str) -> bytes:
        """Return the bytes of an audio file that holds a recording; samples as 32-bit WAV."""
        if name not in self._samples:
            return Path(self._copies.get(name, name)).read_bytes()
        file = io.BytesIO()
        soundfile.write(file, self._samples[name], self._rate, format="WAV", subtype="FLOAT")
        return file.getvalue()

    def sha256(self, name: str) -> str:
        """Return 64 hex digits that name the sound of a recording: of its samples at 16 kHz, in 16 bits.

        The same samples in another lossless file, or under another name, have the same.
        """
        digest = hashlib.sha256()
        blocks = self.blocks(name, _HASHED_BLOCK_S, _HASHED_RATE)
        if name in self._samples and self._rate != _HASHED_RATE:
            samples = self._samples[name]
            blocks = iter([soxr.resample(samples, self._rate, _HASHED_RATE, quality=reading.QUALITY)])
        for block in blocks:
            digest.update(np.rint(np.clip(np.nan_to_num(block), -1, 1) * 32767).astype("<i2").tobytes())
        return digest.hexdigest()

    def info(self, path: str, /) -> reading.AudioInfo:
        """Return rate, channels and length of a recording."""
        if path in self._samples:
            return reading.AudioInfo(self._rate, 1, len(self._samples[path]) / self._rate)
        return self._file(path, reading.info)

    def read(
        self,
        path: str,
        start_s: float,
        duration_s: float | None,
        sample_rate: int,
        channel: Channel = None,
        /,
    ) -> NDArray[np.float32]:
        """Return a part of a recording, float32 (samples,)."""
        if path not in self._samples:
            return self._file(
                path, lambda file: self._files.read(file, start_s, duration_s, sample_rate, channel)
            )
        first = round(start_s * sample_rate)
        last = None if duration_s is None else first + round(duration_s * sample_rate)
        return self._samples[path][first:last]

    def blocks(
        self, path: str, block_s: float, sample_rate: int, channel: Channel = None, /
    ) -> Iterator[NDArray[np.float32]]:
        """Yield a recording in blocks of `block_s` seconds, float32 (samples,) each."""
        if path not in self._samples:
            yield from self._file(path, lambda file: self._files.blocks(file, block_s, sample_rate, channel))
            return
        samples, size = self._samples[path], round(block_s * sample_rate)
        yield from (samples[first : first + size] for first in range(0, len(samples), size))

    def _file(self, name: str, use: Callable[[str], Result]) -> Result:
        """Return the result of a function of a file's path; its errors state the name, not that of a scratch file."""
        path = str(self._copies.get(name, name))
        try:
            return use(path)
        except InputError as error:
            raise InputError(str(error).replace(path, name)) from error

    def _written(self, content: bytes) -> Path:
        """Return a scratch file of the bytes: some decoders take nothing else. It is deleted with this object."""
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="speakerverif-")
        path = Path(self._scratch.name) / f"{len(self._copies)}"
        path.write_bytes(content)
        return path


def as_list(given: Recording | Sequence[Recording]) -> tuple[list[Recording], bool]:
    """Return recordings as a list, and whether a single one was given.

    A list of numbers is the samples of one recording; any other list is several recordings.
    """
    if isinstance(given, list | tuple):
        if given and isinstance(given[0], Real):
            return [given], True
        return list(given), False
    return [given], True  # type: ignore[list-item]


def as_samples(recording: Any, rate: int | None, wanted_rate: int, name: str) -> NDArray[np.float32]:
    """Return samples as float32 (samples,), contiguous, at the wanted rate.

    Raises:
        InputError: no rate, or one that no recording has; several channels; a type that isn't sound.
    """
    if rate is None:
        raise InputError(f"{name}: samples need their sample_rate in Hz")
    if not isinstance(rate, Real) or int(rate) not in RATES:
        raise InputError(f"{name}: sample_rate {rate!r}: expected Hz, {RATES.start} to {RATES.stop - 1}")
    array = _array(recording, name)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise InputError(
            f"{name}: expected samples of one channel, found shape {array.shape}; average the channels, "
            "and give several recordings as a list"
        )
    if array.dtype.kind == "i":
        array = array / -float(np.iinfo(array.dtype).min)
    elif array.dtype.kind != "f":
        raise InputError(f"{name}: expected floats or signed integers, found {array.dtype}")
    # A copy: models can't take reversed or strided arrays, foreign byte orders or read-only memory.
    samples = np.array(array, np.float32, order="C")
    if rate == wanted_rate:
        return samples
    return np.asarray(soxr.resample(samples, rate, wanted_rate, quality=reading.QUALITY), np.float32)


def _array(recording: Any, name: str) -> NDArray[Any]:
    # A program that gives a tensor has imported torch; this one may do without it.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(recording, torch.Tensor):
        tensor = recording.detach().cpu()
        array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return array
    try:
        array = np.asarray(recording)
    except ValueError as error:
        raise InputError(f"{name}: expected samples of one channel: {error}") from error
    # Python's integers have no full range to be scaled by.
    if not isinstance(recording, np.ndarray) and array.dtype.kind == "i":
        raise InputError(f"{name}: a list of integers: give floats in [-1, 1], or an array of a known type")
    return array


def _content(file: Any, name: str) -> bytes:
    """Return the bytes of a file object, from its beginning where it can be rewound."""
    if getattr(file, "seekable", bool)():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise InputError(f"{name}: expected a file object opened for bytes ('rb'), found one of text")
    return content
