"""Named statuses, active speech and bandwidth."""

from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from speakerverif.audio import speech_check
from speakerverif.audio.reading import read


def noise(seconds: float, level: float = 0.1) -> np.ndarray:
    samples = np.random.default_rng(0).standard_normal(round(16000 * seconds))
    return (level * samples).astype(np.float32)


def click() -> np.ndarray:
    """Return two silent seconds but for 20 ms."""
    samples = np.zeros(32000, np.float32)
    samples[16000:16320] = noise(0.02)
    return samples


def spoilt(value: float) -> np.ndarray:
    samples = noise(1.0)
    samples[5000] = value
    return samples


@pytest.mark.parametrize(
    ("status", "samples"),
    [
        ("ok", noise(1.0)),
        ("ok", noise(0.2)),
        ("ok", noise(1.0, 0.001)),
        ("ok", noise(1.0) + np.float32(0.5)),
        ("empty", noise(0.0)),
        ("too_short", noise(0.05)),
        ("too_short", noise(0.19)),
        ("silent", np.zeros(16000)),
        ("silent", noise(1.0, 1e-4)),
        ("constant", np.full(16000, 0.25)),
        ("constant", noise(1.0, 1e-5) + np.float32(0.25)),
        ("clipped", np.clip(noise(1.0, 3.0), -1, 1)),
        ("clipped", np.sign(noise(1.0))),
        ("non_finite", spoilt(np.nan)),
        ("non_finite", spoilt(-np.inf)),
        ("non_finite", np.full(100, np.nan)),
        ("too_little_speech", click()),
    ],
)
def test_status(status: str, samples: np.ndarray) -> None:
    found = speech_check.assess(samples, 16000)
    assert found.status == status
    assert status == "ok" or status in speech_check.REASONS
    assert speech_check.assess(torch.as_tensor(samples), 16000) == found


def test_levels_by_hand() -> None:
    """A square wave of amplitude 0.1 is at -20 dBFS; 100 ms hold 8 frames of 25 ms every 10 ms."""
    samples = np.tile(np.array([0.1, -0.1], np.float32), 800)
    np.testing.assert_allclose(speech_check.frame_levels(samples, 16000), np.full(8, -20.0), atol=1e-3)


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("background", [0.0, 1e-5])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_active_seconds(gain: float, background: float, rate: int) -> None:
    """One second of three is loud; how loud all of it is, and at what rate, makes no difference."""
    samples = np.random.default_rng(0).standard_normal(3 * rate)
    samples *= np.where(abs(np.arange(3 * rate) / rate - 1.5) < 0.5, 0.1, background)
    assert speech_check.assess(gain * samples, rate).speech_s == pytest.approx(1.0, abs=0.04)


def test_assessing_is_deterministic_and_changes_nothing() -> None:
    samples = noise(1.0)
    before = samples.copy()
    assert speech_check.assess(samples, 16000) == speech_check.assess(samples, 16000)
    assert np.array_equal(samples, before)


def test_bandwidth_by_hand() -> None:
    """A tone has its own frequency for bandwidth, to a few of the 31.25 Hz bins; noise has all of it."""
    time = np.arange(16000) / 16000
    assert speech_check.bandwidth_hz(np.sin(2 * np.pi * 3000 * time), 16000) == pytest.approx(3000, abs=200)
    assert speech_check.bandwidth_hz(noise(1.0), 16000) == 8000
    assert speech_check.bandwidth_hz(np.zeros(16000), 16000) == 0
    assert speech_check.bandwidth_hz(noise(0.01), 16000) == 0


@pytest.mark.corpus
def test_real_speech_is_ok_and_wide(shared: Path) -> None:
    """Dev recordings as they are and 30 dB quieter; through an 8 kHz channel each shows as narrow-band."""
    folder = shared / "corpora" / "speechocean762"
    for line in (folder / "dev" / "wav.scp").read_text().splitlines()[::60]:
        waveform = read(folder / line.split()[1])
        found = speech_check.assess(waveform, 16000)
        assert found.status == "ok", line
        assert 0.25 < found.speech_s / (len(waveform) / 16000) < 0.95
        assert speech_check.assess(waveform * 10**-1.5, 16000).status == "ok"
        telephone = soxr.resample(soxr.resample(waveform, 16000, 8000), 8000, 16000)
        assert speech_check.bandwidth_hz(telephone, 16000) < speech_check.NARROW_BAND_HZ
        assert speech_check.bandwidth_hz(waveform, 16000) > speech_check.NARROW_BAND_HZ
