"""Resampling of crops: length and place, by hand and against soxr, what is folded back, small and large ratios."""

from fractions import Fraction

import numpy as np
import pytest
import soxr
from scipy import signal

from speakerverif.audio.resample import resample

RATIOS = [Fraction(10, 9), Fraction(10, 11), Fraction(20, 21), Fraction(100, 97), Fraction(1, 2), Fraction(2)]


def tone(share: float, samples: int = 20000) -> np.ndarray:
    """Return a sine of amplitude 1 at a share of the Nyquist frequency."""
    values: np.ndarray = np.sin(np.pi * share * np.arange(samples)).astype(np.float32)
    return values


def strongest_db(waveform: np.ndarray, beside: float) -> float:
    """Return the strongest amplitude that is not near a share of the Nyquist frequency."""
    inner = waveform[500:-500].astype(float)
    window = signal.windows.blackmanharris(len(inner))
    spectrum = 2 * np.abs(np.fft.rfft(inner * window)) / window.sum()
    spectrum[np.abs(np.linspace(0, 1, len(spectrum)) - beside) < 0.003] = 0
    return float(20 * np.log10(spectrum.max()))


def test_a_constant_stays_itself_to_the_last_digit() -> None:
    ones = resample(np.ones(3000, np.float32), Fraction(10, 9))
    assert len(ones) == 3333 and ones.dtype == np.float32
    np.testing.assert_allclose(ones[100:-100], 1, atol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
@pytest.mark.parametrize("samples", [1, 37, 5001, 28800])
def test_speech_like_sound_matches_soxr_at_its_best(ratio: Fraction, samples: int) -> None:
    low = signal.butter(12, 0.7 * min(1.0, float(ratio)), output="sos")
    sound = signal.sosfilt(low, np.random.default_rng(0).standard_normal(samples)).astype(np.float32)
    ours = resample(sound, ratio)
    assert len(ours) == round(samples * ratio)
    best = soxr.resample(sound, ratio.denominator, ratio.numerator, quality="VHQ")[: len(ours)]
    inner = slice(
        300, len(best) - 300
    )  # towards the ends the longer filter of soxr has more silence to reach
    np.testing.assert_allclose(ours[inner], best[inner], atol=2e-3)


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_the_band_is_kept_and_what_lies_beyond_is_not_folded_back(ratio: Fraction) -> None:
    limit = min(1.0, float(ratio))  # of the lower rate, as a share of the Nyquist frequency of the input
    for share in (0.05, 0.3, 0.6, 0.87):
        changed = resample(tone(share * limit), ratio)
        assert 10 * np.log10(2 * np.square(changed[500:-500]).mean()) == pytest.approx(0, abs=0.02)
        assert strongest_db(changed, share * limit / float(ratio)) < -65
    for share in np.linspace(limit, 1, 6, endpoint=False)[1:] if limit < 1 else (0.99, 0.999):
        assert strongest_db(resample(tone(share), ratio), share / float(ratio)) < -65


def test_it_is_linear_and_moves_with_the_sound() -> None:
    sound = np.random.default_rng(1).standard_normal(4000).astype(np.float32)
    later = np.concatenate([np.zeros(90, np.float32), sound])
    ratio = Fraction(10, 9)
    np.testing.assert_allclose(resample(later, ratio)[100:4000], resample(sound, ratio)[:3900], atol=1e-5)
    np.testing.assert_allclose(resample(-3 * sound, ratio), -3 * resample(sound, ratio), atol=1e-5)


def test_the_same_rate_is_the_same_sound() -> None:
    sound = tone(0.1, 50)
    assert resample(sound, Fraction(1)) is sound
