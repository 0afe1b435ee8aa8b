"""torchaudio's features after pre-emphasis, which models of TaoRuijie's code and of voxceleb_trainer take."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speakerverif.config import FeatureConfig
from speakerverif.models.features.filterbank import Filterbank, check_bands, periodic_window
from speakerverif.models.features.mel import htk_mel


class ReflectEnds(nn.Module):
    """Waveforms `(batch, samples)`, longer by `margin` samples on either side, which mirror each utterance's ends."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        position = torch.arange(-self.margin, waveform.shape[1] + self.margin, device=waveform.device).abs()
        last = (num_samples - 1)[:, None]
        mirrored = torch.where(position > last, 2 * last - position, position).clamp(min=0)
        return waveform.gather(1, mirrored)


class TorchaudioFilterbank(Filterbank):
    """Pre-emphasis of the whole waveform, frames centred on multiples of the shift, reflection around; log.

    The window is in the middle of frames as long as the FFT. Energies have 1e-6 added before the logarithm.

    Source: `torchaudio.transforms.MelSpectrogram` as TaoRuijie/ECAPA-TDNN calls it, after its pre-emphasis.
    Departure: an utterance shorter than the FFT has no frames.
    """

    PREEMPHASIS = 0.97
    OFFSET = 1e-6

    def __init__(self, config: FeatureConfig) -> None:
        length = round(config.sample_rate / 1000 * config.frame_length_ms)
        shift = round(config.sample_rate / 1000 * config.frame_shift_ms)
        low_hz, high_hz = check_bands(config, length, shift)
        window = periodic_window(config, length)
        fft_length = 1 << (length - 1).bit_length()
        before = (fft_length - length) // 2
        window = F.pad(window, (before, fft_length - length - before))
        mel = htk_mel(config.num_mels, fft_length, config.sample_rate, low_hz, high_hz)
        super().__init__(config, fft_length, shift, fft_length, window, mel)
        self.reflect = ReflectEnds(fft_length // 2)

    def place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        num_frames = (1 + num_samples // self.frame_shift) * (num_samples >= self.fft_length)
        first = torch.sub(waveform[:, :1], waveform[:, 1:2], alpha=self.PREEMPHASIS)
        rest = torch.sub(waveform[:, 1:], waveform[:, :-1], alpha=self.PREEMPHASIS)
        emphasised = torch.cat((first, rest), 1)
        return self.reflect(emphasised, num_samples), num_frames

    def prepare(self, frames: Tensor) -> Tensor:
        return frames * self.window

    def log(self, energies: Tensor) -> Tensor:
        return energies.add_(self.OFFSET).log_()


class VoxcelebTrainerFilterbank(TorchaudioFilterbank):
    """The same features, every band with mean 0 and deviation 1 over the utterance, whatever `mean_norm` says.

    Source: voxceleb_trainer's ResNetSE34V2 with `--log_input`, where an instance norm follows the logarithm.
    """

    VARIANCE_OFFSET = 1e-5

    def finish(self, features: Tensor, num_frames: Tensor) -> Tensor:
        count = num_frames.clamp(min=1)[:, None, None]
        centred: Tensor = self.fill(features - features.sum(1, keepdim=True) / count, num_frames)
        variance: Tensor = centred.square().sum(1, keepdim=True) / count
        return centred / (variance + self.VARIANCE_OFFSET).sqrt()


class VoxcelebTrainerLinearFilterbank(VoxcelebTrainerFilterbank):
    """The same without the logarithm: voxceleb_trainer's ResNetSE34V2 without `--log_input`."""

    def log(self, energies: Tensor) -> Tensor:
        return energies.add_(self.OFFSET)


class VoxcelebTrainerLiteFilterbank(VoxcelebTrainerFilterbank):
    """The same without pre-emphasis: voxceleb_trainer's ResNetSE34L with `--log_input`."""

    PREEMPHASIS = 0.0


class VoxcelebTrainerLiteLinearFilterbank(VoxcelebTrainerLinearFilterbank):
    """The same without pre-emphasis and logarithm: voxceleb_trainer's ResNetSE34L without `--log_input`."""

    PREEMPHASIS = 0.0
