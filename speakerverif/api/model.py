"""The library for a notebook: `load_model`, then `embed` and `verify` of files or of samples in memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from speakerverif.audio import reading
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError
from speakerverif.inference import engines
from speakerverif.inference.embed import embed_all
from speakerverif.inference.verify import Verification, compare
from speakerverif.models import folder

Recording = str | Path | np.ndarray | Tensor


def load_model(
    model: str | Path | None = None, device: str = "cpu", engine: engines.Engine = "auto"
) -> "Model":
    """Return a model ready for use.

    Args:
        model: a model folder, an exported `.onnx` file, or `org/name` on the Hugging Face hub; None: the starter
            model that comes with the package.
        device: "cpu", or "cuda" for a GPU.
        engine: "torch" or "onnx" (onnxruntime, on an export that is kept); "auto": see `engines.py`.

    Raises:
        InputError: no such model, damaged, no such device or engine.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"device {device!r}: no CUDA device is there; leave it out to use the CPU")
    return Model(engines.load_for_inference(model, device, engine), device)


class Model:
    """A loaded model: recordings to embeddings and comparisons.

    A recording is the path of an audio file, or samples: a NumPy array or a tensor of one channel, floats in
    [-1, 1] or integers of their full range, with `sample_rate`. Samples give what the same samples in a file give.

    Attributes:
        folder: the loader's record: recipe, what training wrote down, speakers, calibration.
    """

    def __init__(self, folder: folder.ModelFolder, device: str = "cpu") -> None:
        self.folder = folder
        self._device = device

    def __repr__(self) -> str:
        return f"<speakerverif model {self.name}, {self.embedding_dim} dimensions, {self.sample_rate} Hz>"

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.folder.name

    @property
    def sample_rate(self) -> int:
        """Hz at which the model works; recordings of any rate are taken and resampled."""
        return self.folder.model.sample_rate

    @property
    def embedding_dim(self) -> int:
        """Width of an embedding."""
        return self.folder.model.embedding_dim

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name features, encoder and weights."""
        return self.folder.fingerprint

    def embed(
        self, recordings: Recording | Sequence[Recording], sample_rate: int | None = None
    ) -> np.ndarray:
        """Return the embedding of one recording, float32 (dim,), or of a list of them, (N, dim).

        Args:
            recordings: see the class.
            sample_rate: Hz, of samples; files know their own.

        Raises:
            InputError: a recording can't be embedded (unreadable, silent, too short, ...): it is named.
        """
        if isinstance(recordings, str | Path | np.ndarray | Tensor):
            return self._table([recordings], sample_rate).embeddings[0]
        return self._table(list(recordings), sample_rate).embeddings

    def verify(
        self,
        enroll: Recording,
        test: Recording,
        *,
        sample_rate: int | None = None,
        threshold: float | None = None,
        llr_threshold: float | None = None,
    ) -> Verification:
        """Return how alike the speakers of two recordings are; thresholds as `speakerverif.inference.verify.verify`'s.

        Raises:
            InputError: as `embed`.
        """
        table = self._table([enroll, test], sample_rate)
        return compare(self.folder, table, table.embeddings[:1], threshold, llr_threshold)

    def encode_batch(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Return float32 (batch, 1, dim), as SpeechBrain's `encode_batch`; every row as if it were alone.

        Nothing is resampled or checked for speech.

        Args:
            wavs: (batch, samples) or (samples,) in [-1, 1], at `sample_rate`.
            wav_lens: (batch,), lengths relative to the longest; None where all rows are full.
        """
        wavs = wavs.unsqueeze(0) if wavs.ndim == 1 else wavs
        lengths = None
        if wav_lens is not None:
            lengths = (wav_lens * wavs.shape[1]).round().long().to(self._device)
        with torch.inference_mode():
            return self.folder.model(wavs.float().to(self._device), lengths).unsqueeze(1)

    def _table(self, recordings: list[Recording], sample_rate: int | None) -> EmbeddingTable:
        names, arrays = [], {}
        for i, recording in enumerate(recordings):
            if isinstance(recording, str | Path):
                names.append(str(recording))
            else:
                names.append(f"recording {i}")
                arrays[names[-1]] = _samples(recording, sample_rate, self.sample_rate, names[-1])
        return embed_all(self.folder, names, self._device, _InMemory(arrays, self.sample_rate))


class _InMemory:
    """Reads arrays by name, mono and at the model's rate, and everything else from files."""

    def __init__(self, arrays: dict[str, np.ndarray], sample_rate: int) -> None:
        self._arrays, self._rate = arrays, sample_rate

    def info(self, path: str, /) -> reading.AudioInfo:
        if path not in self._arrays:
            return reading.info(path)
        return reading.AudioInfo(self._rate, 1, len(self._arrays[path]) / self._rate)

    def read(self, path: str, start_s: float, duration_s: float | None, sample_rate: int, /) -> np.ndarray:
        if path not in self._arrays:
            return reading.read(path, start_s, duration_s, sample_rate)
        first = round(start_s * sample_rate)
        last = None if duration_s is None else first + round(duration_s * sample_rate)
        return self._arrays[path][first:last]

    def blocks(self, path: str, block_s: float, sample_rate: int, /) -> Iterator[np.ndarray]:
        if path not in self._arrays:
            return reading.blocks(path, block_s, sample_rate)
        samples, size = self._arrays[path], round(block_s * sample_rate)
        return (samples[first : first + size] for first in range(0, len(samples), size))


def _samples(recording: np.ndarray | Tensor, rate: int | None, wanted: int, name: str) -> np.ndarray:
    """Return samples as float32 (samples,) at the rate wanted."""
    if rate is None:
        raise InputError(f"{name}: samples need their sample_rate in Hz")
    array = recording.detach().cpu().numpy() if isinstance(recording, Tensor) else recording
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
    array = array.astype(np.float32, copy=False)
    return array if rate == wanted else soxr.resample(array, rate, wanted, quality=reading.QUALITY)
