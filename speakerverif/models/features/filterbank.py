"""Log mel filterbanks of a whole batch: frames, real FFT, power, mel bands, logarithm, mean subtraction.

Steps that other runtimes or processors compute in another way are separate modules without weights (`Frames`,
`PowerSpectrum`, `Fill`), so that they can be replaced by type.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError

MEL_GROUPS = 4


class Frames(nn.Module):
    """Overlapping frames of a waveform, `(batch, samples)` to `(batch, frames, length)`: whole ones only."""

    def __init__(self, length: int, shift: int) -> None:
        super().__init__()
        self.length, self.shift = length, shift

    def forward(self, waveform: Tensor) -> Tensor:
        return waveform.unfold(1, self.length, self.shift)


class PowerSpectrum(nn.Module):
    """Squared magnitude of the Fourier transform of frames, padded at their ends, `(..., fft_length // 2 + 1)`."""

    def __init__(self, fft_length: int) -> None:
        super().__init__()
        self.fft_length = fft_length

    def forward(self, frames: Tensor) -> Tensor:
        squares = torch.view_as_real(torch.fft.rfft(frames, self.fft_length)).square_()
        return squares[..., 0] + squares[..., 1]


class Fill(nn.Module):
    """Values `(batch, steps, ...)` overwritten with one value in every row from its own count `(batch,)` on."""

    def forward(self, values: Tensor, count: Tensor, value: float = 0.0) -> Tensor:
        beyond = torch.arange(values.shape[1], device=values.device) >= count[:, None]
        return values.masked_fill_(beyond if values.ndim == 2 else beyond[:, :, None], value)


class Filterbank(nn.Module):
    """Base of all kinds; each defines how frames are cut and prepared, and how energies are scaled.

    The window and the mel matrix are buffers, so they move with the module, but not saved ones: the
    configuration in the model folder determines them, and a stored copy could only contradict it.

    Args:
        config: checked by `check_bands`; see `FeatureConfig`.
        frame_length, frame_shift: samples.
        fft_length: samples, at least `frame_length`.
        window: (frame_length,).
        mel: (fft_length // 2 + 1, num_mels), the weight of every FFT bin in every band.

    Attributes:
        block_frames: how many frames of a batch are worked on at a time; None: all, as a GPU and a graph want it.
    """

    window: Tensor
    mel: Tensor

    def __init__(
        self,
        config: FeatureConfig,
        frame_length: int,
        frame_shift: int,
        fft_length: int,
        window: Tensor,
        mel: Tensor,
    ) -> None:
        super().__init__()
        self.num_mels = config.num_mels
        self.sample_rate = config.sample_rate
        self.frame_shift_ms = config.frame_shift_ms
        self.mean_norm = config.mean_norm
        self.frame_length, self.frame_shift, self.fft_length = frame_length, frame_shift, fft_length
        self.block_frames: int | None = None
        self.frames = Frames(frame_length, frame_shift)
        self.power = PowerSpectrum(fft_length)
        self.fill = Fill()
        # Every step up to the power is linear, so the waveform's scale may as well be part of the window.
        self.register_buffer("window", window * config.waveform_scale, persistent=False)
        self.register_buffer("mel", mel.contiguous(), persistent=False)
        # Neighbouring bands share few FFT bins: four products over those cost a quarter of one over all.
        self.groups = []
        for first in range(0, config.num_mels, -(-config.num_mels // MEL_GROUPS)):
            bands = slice(first, first - (-config.num_mels // MEL_GROUPS))
            used = mel[:, bands].sum(1).nonzero().flatten().tolist() or [0]  # narrow bands may miss every bin
            self.groups.append((slice(used[0], used[-1] + 1), bands))

    def forward(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of every utterance, as if each were alone.

        Args:
            waveform: (batch, samples), in [-1, 1]; what lies beyond `num_samples` is ignored, NaN included.
            num_samples: int64 (batch,), at most `samples`.

        Returns:
            features: (batch, frames, num_mels), natural log, or dB (SpeechBrain), 0 past `num_frames`; float32
                under autocast too, float64 after `.double()`.
            num_frames: int64 (batch,); 0 where the utterance is shorter than one frame.
        """
        device = waveform.device.type
        # Only where autocast is on: an exported graph keeps the context as a node that runtimes don't know.
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            waveform = waveform.to(self.mel.dtype)
            if waveform.shape[1] < self.frame_length:
                return waveform.new_zeros(len(waveform), 0, self.num_mels), torch.zeros_like(num_samples)
            waveform, num_frames = self.place(waveform, num_samples)
            blocks = [self._log_mel(block) for block in self._blocks(waveform)]
            features = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)
            features = self.finish(self.fill(features, num_frames), num_frames)
            if self.mean_norm:
                features -= features.sum(1, keepdim=True) / num_frames.clamp(min=1)[:, None, None]
                self.fill(features, num_frames)
            return features, num_frames

    def _log_mel(self, waveform: Tensor) -> Tensor:
        """Return the log energy in every mel band of every whole frame, (batch, frames, num_mels)."""
        power = self.powers(self.prepare(self.frames(waveform)))
        energies = [power[..., bins] @ self.mel[bins, bands] for bins, bands in self.groups]
        return self.log(torch.cat(energies, -1))

    def _blocks(self, waveform: Tensor) -> Iterator[Tensor]:
        """Yield the waveform cut, with overlap, so that the frames of all pieces together are its frames."""
        if self.block_frames is None:
            yield waveform
            return
        total = 1 + (waveform.shape[1] - self.frame_length) // self.frame_shift
        step = max(1, self.block_frames // len(waveform))
        for start in range(0, total, step):
            end = min(start + step, total)
            yield waveform[:, start * self.frame_shift : (end - 1) * self.frame_shift + self.frame_length]

    def place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the waveform that frames are cut from, and the number of frames of each utterance."""
        raise NotImplementedError

    def prepare(self, frames: Tensor) -> Tensor:
        """Return frames (batch, frames, frame_length) ready for the FFT, which takes them as padded with zeros."""
        raise NotImplementedError

    def powers(self, frames: Tensor) -> Tensor:
        """Return the power of every FFT bin of prepared frames, (batch, frames, fft_length // 2 + 1)."""
        powers: Tensor = self.power(frames)
        return powers

    def log(self, energies: Tensor) -> Tensor:
        """Return energies on a log scale; they may be overwritten."""
        raise NotImplementedError

    def finish(self, features: Tensor, num_frames: Tensor) -> Tensor:
        """Return features after the steps over whole utterances; input and result are 0 past `num_frames`."""
        return features


def periodic_window(config: FeatureConfig, length: int) -> Tensor:
    """Return the window, Hamming or Hann, of `length` samples.

    Raises:
        InputError: another one is configured.
    """
    windows = {"hamming": torch.hamming_window, "hanning": torch.hann_window}
    if config.window not in windows:
        raise InputError(
            f"features.window: {config.kind!r} features take hamming or hanning, found {config.window!r}"
        )
    return windows[config.window](length)


def check_bands(config: FeatureConfig, length: int, shift: int) -> tuple[float, float]:
    """Return the lowest and highest frequency in Hz, after checking what every kind needs.

    Raises:
        InputError: lengths, bands or frequencies that make no filterbank."""
    nyquist = config.sample_rate / 2
    high_hz = config.high_hz if config.high_hz > 0 else nyquist + config.high_hz
    if length < 2 or shift < 1:
        raise InputError(
            f"features: {config.frame_length_ms:g} ms frames every {config.frame_shift_ms:g} ms are "
            f"{length} samples every {shift} at {config.sample_rate} Hz; expected at least 2 every 1"
        )
    if not 0 <= config.low_hz < high_hz <= nyquist:
        raise InputError(
            f"features: bands from low_hz {config.low_hz:g} to high_hz {high_hz:g} Hz; "
            f"expected 0 <= low_hz < high_hz <= {nyquist:g}"
        )
    if config.num_mels < 1:
        raise InputError(f"features.num_mels: expected at least 1, found {config.num_mels}")
    return config.low_hz, high_hz
