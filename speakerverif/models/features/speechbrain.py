"""SpeechBrain's features."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif.config import FeatureConfig
from speakerverif.models.features.filterbank import Filterbank, check_bands, periodic_window
from speakerverif.models.features.mel import speechbrain_mel


class SpeechBrainFilterbank(Filterbank):
    """SpeechBrain's filterbank: frames centred on multiples of the shift, zeros around, no pre-emphasis; dB.

    Energies are floored at 1e-10 and at 80 dB below the utterance's loudest band. SpeechBrain takes that
    maximum over the padding too; here it is the utterance's own, as SpeechBrain gives for a single file.
    The FFT is one frame long (SpeechBrain's default of 400 at 16 kHz).

    Source: SpeechBrain 1.1, `speechbrain.lobes.features.Fbank`. Departure: an utterance shorter than one
    frame has no frames.
    """

    FLOOR = 1e-10
    TOP_DB = 80.0

    def __init__(self, config: FeatureConfig) -> None:
        length = round(config.sample_rate / 1000 * config.frame_length_ms)
        shift = round(config.sample_rate / 1000 * config.frame_shift_ms)
        low_hz, high_hz = check_bands(config, length, shift)
        window = periodic_window(config, length)
        mel = speechbrain_mel(config.num_mels, length, config.sample_rate, low_hz, high_hz)
        super().__init__(config, length, shift, length, window, mel)

    def place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        half = self.frame_length // 2
        num_frames = 1 + (num_samples + 2 * half - self.frame_length) // self.frame_shift
        padded = self.fill(F.pad(waveform, (half, half)), num_samples + half)
        return padded, num_frames * (num_samples >= self.frame_length)

    def prepare(self, frames: Tensor) -> Tensor:
        return frames * self.window

    def log(self, energies: Tensor) -> Tensor:
        return energies.clamp_(min=self.FLOOR).log10_().mul_(10)

    def finish(self, features: Tensor, num_frames: Tensor) -> Tensor:
        loudest = self.fill(features, num_frames, -math.inf).amax((1, 2), keepdim=True)
        floored: Tensor = self.fill(torch.maximum(features, loudest - self.TOP_DB), num_frames)
        return floored
