"""NeMo's features, which TitaNet takes."""

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.models.features.filterbank import Filterbank, check_bands
from speakerverif.models.features.mel import slaney_mel


class NemoFilterbank(Filterbank):
    """Pre-emphasis of the whole waveform, frames centred on multiples of the shift, zeros around; log.

    Every band has mean 0 and deviation 1 over the utterance, whatever `mean_norm` says. The last frame, which begins
    in the final shift, is left out.

    Source: NeMo's `AudioToMelSpectrogramPreprocessor` with `normalize: per_feature` and no dither, as it is since its
    version 2: before, it mirrored the ends of the waveform and kept the last frame. Departure: an utterance shorter
    than the FFT has no frames.
    """

    PREEMPHASIS = 0.97
    OFFSET = 2.0**-24  # added to energies
    DEVIATION_OFFSET = 1e-5

    def __init__(self, config: FeatureConfig) -> None:
        length = int(config.sample_rate * config.frame_length_ms * 0.001)
        shift = int(config.sample_rate * config.frame_shift_ms * 0.001)
        low_hz, high_hz = check_bands(config, length, shift)
        windows = {"hanning": torch.hann_window, "hamming": torch.hamming_window}
        if config.window not in windows:
            raise InputError(
                f"features.window: 'nemo' features take hanning or hamming, found {config.window!r}"
            )
        window = windows[config.window](length, periodic=False)
        fft_length = 1 << (length - 1).bit_length()
        before = (fft_length - length) // 2
        window = F.pad(window, (before, fft_length - length - before))
        mel = slaney_mel(config.num_mels, fft_length, config.sample_rate, low_hz, high_hz)
        super().__init__(config, fft_length, shift, fft_length, window, mel)

    def place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        emphasised = torch.sub(waveform[:, 1:], waveform[:, :-1], alpha=self.PREEMPHASIS)
        # A frame's second half reaches over the end, but no frame begins in the final shift.
        margin = self.fft_length // 2
        padded = F.pad(torch.cat((waveform[:, :1], emphasised), 1), (margin, margin - self.frame_shift))
        num_frames = num_samples // self.frame_shift * (num_samples >= self.fft_length)
        return self.fill(padded, num_samples + margin), num_frames

    def prepare(self, frames: Tensor) -> Tensor:
        return frames * self.window

    def log(self, energies: Tensor) -> Tensor:
        return energies.add_(self.OFFSET).log_()

    def finish(self, features: Tensor, num_frames: Tensor) -> Tensor:
        count = num_frames.clamp(min=1)[:, None, None]
        centred: Tensor = self.fill(features - features.sum(1, keepdim=True) / count, num_frames)
        variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
        return centred / (variance.sqrt() + self.DEVIATION_OFFSET)
