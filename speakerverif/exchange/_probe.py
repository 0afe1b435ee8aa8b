"""Synthetic voices to compare a model and its export on: networks react to noise unlike to speech."""

import math

import torch
from torch import Tensor

PITCH_HZ = (110.0, 210.0)  # of the two voices
FORMANTS_HZ = (500.0, 1500.0, 2500.0)
SYLLABLES_HZ = 4.0


def voice(duration_s: float, sample_rate: int, pitch_hz: float, seed: int) -> Tensor:
    """Return float32 (samples,): a voice of moving pitch and vowels, in syllables, with a little breath."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(duration_s * sample_rate), dtype=torch.float64) / sample_rate
    drift = 0.08 * torch.sin(2 * math.pi * 0.7 * time + seed) + 0.03 * torch.sin(2 * math.pi * 5.3 * time)
    phase = 2 * math.pi * torch.cumsum(pitch_hz * (1 + drift), 0) / sample_rate
    vowel = 1 + 0.25 * torch.sin(2 * math.pi * 1.9 * time + seed)
    sound = torch.zeros_like(time)
    for harmonic in range(1, int(0.45 * sample_rate / (1.1 * pitch_hz))):
        hz = harmonic * pitch_hz
        loudness = sum(1 / (1 + ((hz - formant * vowel) / 120) ** 2) for formant in FORMANTS_HZ)
        sound += (0.02 + loudness) / harmonic * torch.sin(harmonic * phase)
    syllables = (0.5 + 0.5 * torch.sin(2 * math.pi * SYLLABLES_HZ * time)).clamp(min=0.02)
    sound = sound * syllables / sound.abs().max().clamp(min=1e-9)
    breath = torch.randn(len(time), generator=generator, dtype=torch.float64)
    return (0.3 * sound + 0.002 * breath).float()


def voices(durations_s: tuple[float, float], sample_rate: int) -> tuple[Tensor, Tensor]:
    """Return two voices, float32 (2, samples), padded with zeros, and how many samples each has, int64 (2,)."""
    sounds = [
        voice(duration_s, sample_rate, pitch_hz, seed)
        for seed, (duration_s, pitch_hz) in enumerate(zip(durations_s, PITCH_HZ, strict=True))
    ]
    return torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True), torch.tensor([len(s) for s in sounds])
