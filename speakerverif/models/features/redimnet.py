"""The features of ReDimNet's and ReDimNet2's authors: of waveforms with mean 0 and deviation 1, pre-emphasised."""

import torch
from torch import Tensor
from torch.nn import functional as F

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.models.features.filterbank import Filterbank, check_bands
from speakerverif.models.features.mel import redimnet2_mel
from speakerverif.models.features.torchaudio import TorchaudioFilterbank


def standardised(waveform: Tensor, num_samples: Tensor, offset: float) -> Tensor:
    """Return each waveform with mean 0 and deviation 1 over its own samples, and zeros beyond them.

    Args:
        waveform: (batch, samples); what lies beyond `num_samples` is ignored.
        num_samples: int64 (batch,).
        offset: added to the deviation.
    """
    beyond = torch.arange(waveform.shape[1], device=waveform.device) >= num_samples[:, None]
    count = num_samples.clamp(min=1)[:, None]
    waveform = waveform.masked_fill(beyond, 0)
    centred = (waveform - waveform.sum(1, keepdim=True) / count).masked_fill(beyond, 0)
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / (deviation + offset)


class ReDimNetFilterbank(TorchaudioFilterbank):
    """torchaudio's features after pre-emphasis, of standardised waveforms.

    Source: ReDimNet's `MelBanks` with `norm_signal`.
    """

    DEVIATION_OFFSET = 1e-6

    def place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        return super().place(standardised(waveform, num_samples, self.DEVIATION_OFFSET), num_samples)


class ReDimNet2Filterbank(Filterbank):
    """Standardised and pre-emphasised waveforms, zeros for half a shift around, floored powers, log.

    The bands are triangles over mel; the power of every FFT bin below the Nyquist frequency lies between the floor
    and its inverse, and so does the sum of a band.

    Source: ReDimNet2's `TFMelBanks` with `norm_signal`, which is WeSpeaker's front end `tfmel`. Departure: an
    utterance shorter than one frame has no frames.
    """

    PREEMPHASIS = 0.97
    FLOOR = 1e-8  # of powers and of bands, added to bands and to the waveform's deviation as well

    def __init__(self, config: FeatureConfig) -> None:
        length = round(config.sample_rate / 1000 * config.frame_length_ms)
        shift = round(config.sample_rate / 1000 * config.frame_shift_ms)
        low_hz, high_hz = check_bands(config, length, shift)
        if config.window != "hamming":
            raise InputError(f"features.window: 'redimnet2' features take hamming, found {config.window!r}")
        window = torch.hamming_window(length, periodic=False)
        fft_length = 1 << (length - 1).bit_length()
        mel = redimnet2_mel(config.num_mels, fft_length, config.sample_rate, low_hz, high_hz)
        super().__init__(config, length, shift, fft_length, window, mel)

    def place(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        margin = self.frame_shift // 2
        num_frames = 1 + (num_samples + 2 * margin - self.frame_length) // self.frame_shift
        waveform = standardised(waveform, num_samples, self.FLOOR)
        first = torch.sub(waveform[:, :1], waveform[:, 1:2], alpha=self.PREEMPHASIS)
        rest = torch.sub(waveform[:, 1:], waveform[:, :-1], alpha=self.PREEMPHASIS)
        padded = F.pad(torch.cat((first, rest), 1), (margin, margin))
        return self.fill(padded, num_samples + margin), num_frames * (num_samples >= self.frame_length)

    def prepare(self, frames: Tensor) -> Tensor:
        return frames * self.window

    def powers(self, frames: Tensor) -> Tensor:
        return super().powers(frames).clamp_(self.FLOOR, 1 / self.FLOOR)

    def log(self, energies: Tensor) -> Tensor:
        return energies.clamp_(self.FLOOR, 1 / self.FLOOR).add_(self.FLOOR).log_()
