"""The library for a notebook or a service: `load_model`, then embed, verify, compare, enroll and identify."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.inference import engines
from speakerverif.inference.embed import embed_all
from speakerverif.inference.enroll import Enrolment, enroll
from speakerverif.inference.enrollment import Store
from speakerverif.inference.identify import Identification, identify_all
from speakerverif.inference.recordings import Recording, Recordings, as_list
from speakerverif.inference.scale import Scale
from speakerverif.inference.verify import Verification, compare, compare_embeddings, compare_recordings
from speakerverif.models import folder
from speakerverif.models.precision import Precision

if TYPE_CHECKING:
    from torch import Tensor


def load_model(
    model: str | Path | None = None,
    device: str = "cpu",
    engine: engines.Engine = "auto",
    precision: Precision = "auto",
) -> "Model":
    """Return a model ready for use.

    Args:
        model: a model folder, an `.onnx` file, or `org/name` on the Hugging Face hub; None: the starter
            model that comes with the package.
        device: "cpu", or "cuda" for a GPU.
        engine: "torch" or "onnx" (onnxruntime, on an export that is kept); "auto": see `engines.py`.
        precision: "float32" or "bfloat16" (faster on processors made for it); "auto": see `models/precision.py`.

    Raises:
        InputError: no such model, damaged, no such device or engine.
    """
    return Model(engines.load_for_inference(model, device, engine, precision), device)


class Model:
    """A loaded model: recordings to embeddings, comparisons, enrolments and identifications.

    A recording is the path of an audio file; an audio file's bytes, or a binary file object of them; or samples of one
    channel with `sample_rate`: an array, a tensor or a list of floats in [-1, 1], or integers of their full range.
    Samples give what the same samples in a file give. A store is a `Store` or the path of its folder.

    Attributes:
        folder: the loader's record: recipe, training facts, speakers, calibration.
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
    ) -> NDArray[np.float32]:
        """Return the embedding of one recording, float32 (dim,), or of a list of them, (N, dim).

        Args:
            recordings: see the class; a list of numbers is one recording, any other list several.
            sample_rate: Hz, of samples; files know their own.

        Raises:
            InputError: a recording can't be embedded (unreadable, silent, too short, ...): it is named.
        """
        listed, single = as_list(recordings)
        embeddings: NDArray[np.float32] = self._table(listed, sample_rate).embeddings
        return embeddings[0] if single else embeddings

    def verify(
        self,
        enroll: Recording,
        test: Recording,
        *,
        sample_rate: int | None = None,
        threshold: float | None = None,
        llr_threshold: float | None = None,
        calibration: str | Path | None = None,
    ) -> Verification:
        """Return the comparison of the speakers of two recordings; thresholds as for `inference.verify.verify`.

        Raises:
            InputError: as `embed`.
        """
        scale = Scale.of(self.folder, calibration)
        scale.check(threshold, llr_threshold)
        return compare_recordings(scale, self._table([enroll, test], sample_rate), threshold, llr_threshold)

    def compare(
        self,
        enroll: NDArray[np.floating],
        test: NDArray[np.floating],
        *,
        threshold: float | None = None,
        llr_threshold: float | None = None,
        calibration: str | Path | None = None,
    ) -> Verification:
        """Return the comparison of the speakers of ready embeddings, as `verify` does for their recordings.

        Args:
            enroll: (dim,), or (N, dim) of several recordings of one speaker.
            test: (dim,).
            threshold: as for `verify`.
            llr_threshold: as for `verify`.
            calibration: as for `verify`.

        Raises:
            InputError: another shape; values that aren't finite.
        """
        scale = Scale.of(self.folder, calibration)
        return compare_embeddings(scale, enroll, test, self.fingerprint, threshold, llr_threshold)

    def verify_enrolled(
        self,
        store: Store | str | Path,
        name: str,
        test: Recording,
        *,
        sample_rate: int | None = None,
        threshold: float | None = None,
        llr_threshold: float | None = None,
        calibration: str | Path | None = None,
    ) -> Verification:
        """Return the comparison of an enrolled speaker with the speaker of a recording; as `verify`.

        Raises:
            InputError: as `embed`; no such store, one of another model, no speaker of that name.
        """
        opened = self._store(store)
        scale = Scale.of(self.folder, calibration, opened.folder)
        scale.check(threshold, llr_threshold)
        samples = opened.samples(name)
        return compare(scale, samples, self._table([test], sample_rate), threshold, llr_threshold)

    def enroll(
        self,
        store: Store | str | Path,
        name: str,
        recordings: Recording | Sequence[Recording],
        *,
        sample_rate: int | None = None,
        force: bool = False,
        keep_audio: bool = False,
    ) -> Enrolment:
        """Add recordings of a speaker to a store, all of them or none; they are on disk when this returns.

        Args:
            store: made where there is none.
            name: the speaker's.
            recordings: one or several; what the speaker has already is not counted twice.
            sample_rate: Hz, of samples.
            force: enrol what the checks object to.
            keep_audio: keep the recordings in the store, so that it can be moved to another model.

        Raises:
            InputError: as `embed`; the checks of `inference.enroll` object.
        """
        given, _ = as_list(recordings)
        source = Recordings(given, sample_rate, self.sample_rate)

        def opened() -> Store:
            return self._store(store, create=True)

        return enroll(
            self.folder, opened, name, source, force=force, keep_audio=keep_audio, device=self._device
        )

    def identify(
        self,
        store: Store | str | Path,
        recording: Recording,
        *,
        sample_rate: int | None = None,
        top: int = 5,
        threshold: float | None = None,
        llr_threshold: float | None = None,
        calibration: str | Path | None = None,
        use_index: bool = False,
    ) -> Identification:
        """Return the enrolled speakers most similar to a recording, as `inference.identify.identify` does.

        Raises:
            InputError: as `embed`; no such store, one of another model, nobody enrolled.
        """
        opened = self._store(store)
        scale = Scale.of(self.folder, calibration, opened.folder)
        scale.check(threshold, llr_threshold)
        table = self._table([recording], sample_rate)
        return identify_all(scale, opened, table, top, threshold, llr_threshold, use_index)[0]

    def encode_batch(self, wavs: "Tensor", wav_lens: "Tensor | None" = None) -> "Tensor":
        """Return float32 (batch, 1, dim), as SpeechBrain's `encode_batch`; every row as if it were alone.

        Nothing is resampled or checked for speech.

        Args:
            wavs: (batch, samples) or (samples,) in [-1, 1], at `sample_rate`.
            wav_lens: (batch,), lengths relative to the longest; None where all rows are full.
        """
        import torch

        wavs = wavs.unsqueeze(0) if wavs.ndim == 1 else wavs
        lengths = None
        if wav_lens is not None:
            lengths = (wav_lens * wavs.shape[1]).round().long().to(self._device)
        with torch.inference_mode():
            embeddings: Tensor = self.folder.model(wavs.float().to(self._device), lengths)
        return embeddings.unsqueeze(1)

    def _store(self, store: Store | str | Path, create: bool = False) -> Store:
        return store if isinstance(store, Store) else Store(store, self.fingerprint, create)

    def _table(self, recordings: Sequence[Recording], sample_rate: int | None) -> EmbeddingTable:
        source = Recordings(recordings, sample_rate, self.sample_rate)
        return embed_all(self.folder, source.names, self._device, source)
