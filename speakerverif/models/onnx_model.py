"""A model in an ONNX file, run by onnxruntime: waveform in, embedding out, without torch.

Files of `export` take waveforms. Files that take features, such as those of WeSpeaker and sherpa-onnx, have our
filterbank computed in front of them; `onnx_features.py` finds its settings.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speakerverif._util import environment, resources
from speakerverif._util.messages import one_line
from speakerverif._util.ranges import Range
from speakerverif.errors import InputError
from speakerverif.models import onnx_features
from speakerverif.models.numpy_features import NumpyKaldiFilterbank

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RATES, DIMS = Range(1_000, 384_000), Range(1, 1_000_000)  # samples per second, width of the embedding
METADATA = "speakerverif"  # the key that tells our files from others
INSTALL = "install onnxruntime (the extra 'onnx' brings it): pip install 'speakerverif[onnx]'"


class OnnxModel:
    """Waveform in, embedding out, as `SpeakerModel`.

    Args:
        path: an ONNX file with inputs `waveform` and `num_samples`, or with one input of features.
        device: "cpu" or "cuda".

    Attributes:
        engine: the program that runs it.
        metadata: the file's own.
        features: of the filterbank in front of the file; None where the file takes waveforms.
        sample_rate: samples per second that the waveform must have.
        embedding_dim: width of the embedding.

    Raises:
        InputError: no onnxruntime, no such file, damaged, no such device; features that the file doesn't describe.
    """

    engine = "onnxruntime"

    def __init__(self, path: str | Path, device: "str | torch.device" = "cpu") -> None:
        environment.disable_telemetry()
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"{path}: {INSTALL}") from error
        wanted = "CPUExecutionProvider" if str(device) == "cpu" else "CUDAExecutionProvider"
        if wanted not in onnxruntime.get_available_providers():
            raise InputError(
                f"{path}: this onnxruntime can't run on {device}; install onnxruntime-gpu, or use the CPU"
            )
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        self._path, self._provider = Path(path), wanted
        try:
            self._open()
        except Exception as error:  # onnxruntime's own classes, one for every kind of damage
            raise InputError(f"{path}: damaged or not an ONNX file: {one_line(error)}") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._inputs, self._output = [value.name for value in inputs], outputs[0].name
        self.features = None
        if self._inputs == ["waveform", "num_samples"] and METADATA in self.metadata:
            self.sample_rate = self._number("sample_rate", RATES)
            self.embedding_dim = self._number("embedding_dim", DIMS)
            return
        shapes = onnx_features.Shapes([value.shape for value in inputs], [value.shape for value in outputs])
        self.features = onnx_features.settings(Path(path), self.metadata, shapes)
        self._filterbank = NumpyKaldiFilterbank(self.features)
        self.sample_rate = self.features.sample_rate
        # The shape may leave the width open; a second of silence doesn't.
        self.embedding_dim = 0
        self.embedding_dim = self.run(np.zeros((1, self.sample_rate), np.float32)).shape[1]

    @property
    def precision(self) -> str:
        """The precision of the export: "float32", "float16" (of weights alone) or "int8"."""
        return self.metadata.get("precision", "float32")

    def text(self, name: str) -> str:
        """Return an entry of the metadata.

        Raises:
            InputError: there is none.
        """
        if name not in self.metadata:
            raise InputError(f"{self._path}: damaged: its metadata has no {name!r}")
        return self.metadata[name]

    def _number(self, name: str, allowed: Range) -> int:
        text = self.text(name)
        # `int` would also take spaces, signs, underscores and other scripts' digits.
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) in allowed):
            raise InputError(f"{self._path}: damaged: {name} {text[:40]!r}, expected {allowed}")
        return int(text)

    def _open(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = resources.num_threads()
        options.log_severity_level = 3
        if not environment.threads_spin():
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(self._path, options, providers=[self._provider])
        self._process = os.getpid()

    def run(
        self, waveforms: NDArray[np.float32], num_samples: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """Return embeddings, float32 (batch, embedding_dim), not length-normalised.

        Args:
            waveforms: float32 (batch, samples) in [-1, 1], at `sample_rate`.
            num_samples: int64 (batch,), the true length of each row; None where all rows are full. What lies beyond a
                row's length has no influence on its embedding.
        """
        if os.getpid() != self._process:
            # Forked since: the session's threads stayed with the parent, and its destructor would wait for them.
            self._inherited = self._session
            self._open()
        if num_samples is None:
            num_samples = np.full(len(waveforms), waveforms.shape[1])
        if self.features is None:
            return self._call({"waveform": waveforms, "num_samples": num_samples})
        # One at a time: such a network takes padding for speech.
        rows = zip(waveforms, num_samples.tolist(), strict=True)
        return np.concatenate(
            [self._call({self._inputs[0]: self._filterbank(row[:length])[None]}) for row, length in rows]
        )

    def _call(self, given: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        count = len(next(iter(given.values())))
        try:
            embeddings: NDArray[np.float32] = self._session.run([self._output], given)[0]
        except Exception as error:  # onnxruntime's own classes; a graph that was changed
            raise InputError(f"{self._path}: can't be run: {one_line(error)}") from error
        expected = (count, self.embedding_dim or embeddings.shape[-1])
        if embeddings.shape != expected:
            raise InputError(f"{self._path}: damaged: gives shape {embeddings.shape}, expected {expected}")
        return embeddings

    def __call__(self, waveform: "Tensor", num_samples: "Tensor | None" = None) -> "Tensor":
        """Return what `run` returns, for tensors and as a tensor on the CPU: the call of a `SpeakerModel`."""
        import torch

        lengths = None if num_samples is None else num_samples.cpu().numpy()
        return torch.from_numpy(self.run(waveform.cpu().numpy(), lengths))
