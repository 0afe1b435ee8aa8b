"""A model that `export` wrote to an ONNX file, run by onnxruntime and called like the original."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speakerverif._util import environment, resources
from speakerverif._util.messages import one_line
from speakerverif._util.ranges import Range
from speakerverif.errors import InputError

RATES, DIMS = Range(1_000, 384_000), Range(1, 1_000_000)  # samples per second, width of the embedding
METADATA = "speakerverif"  # the key that tells our files from others
INSTALL = "install onnxruntime (the extra 'onnx' brings it): pip install 'speakerverif[onnx]'"


class OnnxModel:
    """Waveform in, embedding out, as `SpeakerModel`; `metadata` is the file's own.

    Args:
        path: an ONNX file with inputs `waveform` and `num_samples`.
        device: "cpu" or "cuda".

    Raises:
        InputError: no onnxruntime, no such file, damaged, not of `export`'s making, no such device.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
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
            raise InputError(f"{path}: damaged or not an ONNX file: {str(error).splitlines()[0]}") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if METADATA not in self.metadata:
            raise InputError(f"{path}: not exported by speakerverif: its metadata has no {METADATA!r}")
        self.sample_rate = self._number("sample_rate", RATES)
        self.embedding_dim = self._number("embedding_dim", DIMS)

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
        options.intra_op_num_threads = min(torch.get_num_threads(), resources.cores())
        options.log_severity_level = 3
        if not environment.threads_spin():
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(self._path, options, providers=[self._provider])
        self._process = os.getpid()

    def __call__(self, waveform: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """Return float32 (batch, embedding_dim); arguments as `SpeakerModel.forward`'s."""
        if os.getpid() != self._process:
            # Forked since: the session's threads stayed with the parent, and its destructor would wait for them.
            self._inherited = self._session
            self._open()
        if num_samples is None:
            num_samples = torch.full((len(waveform),), waveform.shape[1])
        given: dict[str, Any] = {"waveform": waveform.cpu().numpy(), "num_samples": num_samples.cpu().numpy()}
        try:
            embeddings = torch.from_numpy(self._session.run(None, given)[0])
        except Exception as error:  # onnxruntime's own classes; a graph that was changed
            raise InputError(f"{self._path}: can't be run: {one_line(error)}") from error
        if embeddings.shape != (len(waveform), self.embedding_dim):
            expected = (len(waveform), self.embedding_dim)
            raise InputError(
                f"{self._path}: damaged: gives shape {tuple(embeddings.shape)}, expected {expected}"
            )
        return embeddings
