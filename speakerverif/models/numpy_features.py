"""Kaldi's filterbank in NumPy, for a program without torch; `features/kaldi.py` computes the same in batches."""

import math

import numpy as np
from numpy.typing import NDArray

from speakerverif.config import FeatureConfig

Samples = NDArray[np.float32]
PREEMPHASIS = 0.97
FLOOR = np.finfo(np.float32).eps  # of energies


class NumpyKaldiFilterbank:
    """The features of `KaldiFilterbank`, of one recording at a time, in float32 and in the same order of operations.

    Args:
        config: settings; `kind` is "kaldi".
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self._length = int(config.sample_rate * config.frame_length_ms * 0.001)  # truncated, as Kaldi does
        self._shift = int(config.sample_rate * config.frame_shift_ms * 0.001)
        self._fft_length = 1 << (self._length - 1).bit_length()
        self._window = np.float32(config.waveform_scale) * window(config.window, self._length)
        high_hz = config.high_hz if config.high_hz > 0 else config.sample_rate / 2 + config.high_hz
        self._mel = kaldi_mel(config.num_mels, self._fft_length, config.sample_rate, config.low_hz, high_hz)

    def __call__(self, samples: Samples) -> NDArray[np.float32]:
        """Return features, float32 (frames, num_mels), natural log; no frames where there are too few samples.

        Args:
            samples: float32 (samples,) in [-1, 1], at the configuration's rate.
        """
        if len(samples) < self._length:
            return np.zeros((0, self.config.num_mels), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(samples, self._length)[:: self._shift]
        frames = frames - frames.mean(-1, keepdims=True, dtype=np.float32)
        scaled = frames * np.float32(PREEMPHASIS)
        frames[:, 1:] -= scaled[:, :-1]
        # The first sample has no predecessor in its frame; Kaldi takes the sample itself.
        frames[:, 0] -= scaled[:, 0]
        frames *= self._window
        spectrum = np.fft.rfft(frames, self._fft_length)
        energies = (spectrum.real**2 + spectrum.imag**2) @ self._mel
        features = np.log(np.maximum(energies, FLOOR))
        if self.config.mean_norm:
            features -= features.mean(0, dtype=np.float32)
        return features.astype(np.float32, copy=False)


def window(name: str, length: int) -> NDArray[np.float32]:
    """Return a window, float32 (length,): "hamming", "hanning" or "povey", which is a Hann window to the power 0.85."""
    cosine = np.cos(2 * math.pi * np.arange(length) / (length - 1))
    if name == "hamming":
        return (0.54 - 0.46 * cosine).astype(np.float32)
    hann = 0.5 - 0.5 * cosine
    return (hann**0.85 if name == "povey" else hann).astype(np.float32)


def kaldi_mel(
    num_mels: int, fft_length: int, sample_rate: int, low_hz: float, high_hz: float
) -> NDArray[np.float32]:
    """Return float32 (fft_length // 2 + 1, num_mels): triangles over mel, as `features.mel.kaldi_mel`.

    Mels are rounded to float32 there, so they are here.
    """
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (low_hz, high_hz))
    width = (high - low) / (num_mels + 1)
    band = np.arange(num_mels, dtype=np.float32)
    left, centre, right = (np.float32(low) + (band + np.float32(i)) * np.float32(width) for i in range(3))
    hz = np.float32(sample_rate / fft_length) * np.arange(fft_length // 2, dtype=np.float32)
    mel = np.float32(1127.0) * np.log(np.float32(1.0) + hz / np.float32(700.0))[:, None]
    weights = np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clip(min=0)
    return np.pad(weights, ((0, 1), (0, 0))).astype(np.float32)
