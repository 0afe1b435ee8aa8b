"""Kaldi's features, which WeSpeaker's and 3D-Speaker's models take."""

import torch
from torch import Tensor

from speakerverif.config import FeatureConfig
from speakerverif.models.features.filterbank import Filterbank, check_bands
from speakerverif.models.features.mel import kaldi_mel


class KaldiFilterbank(Filterbank):
    """Kaldi's filterbank: only whole frames, each without its mean, pre-emphasised, windowed; natural log.

    Source: Kaldi `compute-fbank-feats` by way of `torchaudio.compliance.kaldi.fbank`, with dither 0,
    `snip_edges`, no energy band. The order of operations is kept: near silence any other order (a fused
    pre-emphasis is enough) is as far off in float32 as this one, up to 2e-3, but in another direction.
    """

    PREEMPHASIS = 0.97
    # Energies below this count as this: the smallest step of a float32 at 1, in float64 too.
    FLOOR = torch.finfo(torch.float32).eps

    def __init__(self, config: FeatureConfig) -> None:
        length = int(config.sample_rate * config.frame_length_ms * 0.001)  # truncated, as Kaldi does
        shift = int(config.sample_rate * config.frame_shift_ms * 0.001)
        low_hz, high_hz = check_bands(config, length, shift)
        if config.window == "hamming":
            window = torch.hamming_window(length, periodic=False)
        else:
            window = torch.hann_window(length, periodic=False)
            window = window.pow(0.85) if config.window == "povey" else window
        fft_length = 1 << (length - 1).bit_length()
        mel = kaldi_mel(config.num_mels, fft_length, config.sample_rate, low_hz, high_hz)
        super().__init__(config, length, shift, fft_length, window, mel)

    def place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        return waveform, (1 + (num_samples - self.frame_length) // self.frame_shift).clamp(min=0)

    def prepare(self, frames: Tensor) -> Tensor:
        frames = frames - frames.mean(-1, keepdim=True)
        scaled = frames * self.PREEMPHASIS
        frames[..., 1:] -= scaled[..., :-1]
        # The first sample has no predecessor in its frame; Kaldi takes the sample itself.
        frames[..., 0] -= scaled[..., 0]
        frames *= self.window
        return frames

    def log(self, energies: Tensor) -> Tensor:
        return energies.clamp_(min=self.FLOOR).log_()
