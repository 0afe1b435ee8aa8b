"""Weights of FFT bins in mel bands, as each toolkit computes them."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def kaldi_mel(num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles on Kaldi's mel scale, 1127 ln(1 + f / 700).

    The triangles are straight lines over mel (not over Hz), and the Nyquist bin has no weight.
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    width = (high - low) / (num_mels + 1)
    band = torch.arange(num_mels)
    left, centre, right = low + band * width, low + (band + 1.0) * width, low + (band + 2.0) * width
    hz = sample_rate / fft_length * torch.arange(fft_length / 2)
    mel = 1127.0 * (1.0 + hz / 700.0).log()[:, None]
    weights = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0.0)
    return F.pad(weights, (0, 0, 0, 1))


def speechbrain_mel(
    num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float
) -> Tensor:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles on the mel scale 2595 log10(1 + f / 700).

    Unlike Kaldi's they are straight lines over Hz and symmetric: both flanks are as wide as the lower one.
    """
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    edges = 700 * (10 ** (torch.linspace(low, high, num_mels + 2) / 2595) - 1)
    centre, width = edges[1:-1], (edges[1:] - edges[:-1])[:-1]
    hz = torch.linspace(0, sample_rate // 2, fft_length // 2 + 1)[:, None]
    slope = (hz - centre) / width
    return torch.minimum(slope + 1.0, -slope + 1.0).clamp(min=0.0)


def htk_mel(num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles over Hz between neighbouring centres, HTK's scale."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    edges = 700 * (10 ** (torch.linspace(low, high, num_mels + 2) / 2595) - 1)
    hz = torch.linspace(0, sample_rate // 2, fft_length // 2 + 1)[:, None]
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0)


def redimnet2_mel(num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles over mel, on the scale 2595 log10(1 + f / 700).

    The frequencies of the bins are those of ReDimNet2's code, which spreads the bins below Nyquist's up to Nyquist
    itself; bin 0 and the Nyquist bin have no weight.
    """
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (low_hz, high_hz))
    edges = torch.linspace(low, high, num_mels + 2, dtype=torch.float64)
    hz = torch.linspace(0, sample_rate // 2, fft_length // 2, dtype=torch.float64)[1:, None]
    mel = 2595 * (1 + hz / 700).log10()
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    return F.pad(torch.minimum(rising, falling).clamp(min=0.0), (0, 0, 1, 1)).float()


def slaney_mel(num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float) -> Tensor:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles over Hz of area 1, on Slaney's mel scale.

    The scale is linear below 1 kHz and logarithmic above: librosa's default, which NeMo takes.
    """

    def mel_of(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    mel = torch.linspace(mel_of(low_hz), mel_of(high_hz), num_mels + 2, dtype=torch.float64)
    edges = torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))
    hz = torch.linspace(0, sample_rate / 2, fft_length // 2 + 1, dtype=torch.float64)[:, None]
    rising = (hz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hz) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp(min=0.0) * 2 / (edges[2:] - edges[:-2])
    return weights.float()
