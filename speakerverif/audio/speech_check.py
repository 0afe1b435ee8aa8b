"""Speech in recordings: how much there is, and named reasons why a recording can't be embedded."""

from typing import Any, NamedTuple

import numpy as np

# An x-vector's context is 15 frames (0.165 s), and a standard deviation needs more than one such context.
MIN_DURATION_S = 0.2
# Less than one syllable of active speech. The minimum over 1,511 recordings (see below) is 0.83 s.
MIN_SPEECH_S = 0.1
# Minimum level of the loudest frame, about ten steps of a 16-bit sample. The quietest of 1,511 recordings of
# speechocean762 and LibriSpeech has its loudest frame at -33 dBFS.
SILENCE_DBFS = -70.0
# Share of samples at full scale. It is 0.1 to 0.35 for speech 20 dB above its largest undistorted gain, and 0.27 to
# 0.6 at 30 dB, where speech is a square wave except in pauses. The worst of the 1,511 has 0.0003.
CLIPPED_SHARE = 0.25
FULL_SCALE = 0.999
# Float samples may exceed full scale, but not by 18 dB: such files contain integers not divided by 32768.
MAX_PEAK = 8.0
# A band counts as present down to this many dB below the strongest one. The 1,511 recordings reach 6.4 kHz or
# more, and 3.97 kHz or less through an 8 kHz channel (unquantised, 16 bits, mu-law).
BANDWIDTH_DB = 60.0
# A 16 kHz recording with less bandwidth was once a telephone call.
NARROW_BAND_HZ = 4500.0

REASONS = {
    "empty": "no samples",
    "non_finite": "NaN or infinite samples",
    "not_scaled": f"floats beyond {MAX_PEAK:g} where [-1, 1] is expected: divide 16-bit values by 32768",
    "too_short": f"shorter than {MIN_DURATION_S} s",
    "silent": f"nowhere louder than {SILENCE_DBFS:g} dBFS",
    "constant": "one value throughout",
    "clipped": f"more than {CLIPPED_SHARE:.0%} of the samples at full scale",
    "too_little_speech": f"less than {MIN_SPEECH_S} s of it active",
}


class Quality(NamedTuple):
    """A status, `ok` or a key of `REASONS`, and the seconds of active speech (0 where not measured)."""

    status: str
    speech_s: float


def assess(waveform: Any, sample_rate: int) -> Quality:
    """Return whether a waveform can be embedded, and its seconds of active speech.

    Activity is energy: frames of 25 ms every 10 ms are active where they are 9 dB above the noise (the 10th
    percentile of all frames) and at most 40 dB below the speech (the 95th). Where those two are within 21 dB,
    frames down to 12 dB below the speech are active, since a short crop may have no pause; a hum is active too.

    Args:
        waveform: (samples,), in [-1, 1]; array or CPU tensor.
        sample_rate: Hz.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    assert waveform.ndim == 1
    if not len(waveform):
        return Quality("empty", 0.0)
    if not np.isfinite(waveform).all():
        return Quality("non_finite", 0.0)
    size = np.abs(waveform)
    if size.max() > MAX_PEAK:
        return Quality("not_scaled", 0.0)
    if len(waveform) < round(MIN_DURATION_S * sample_rate):
        return Quality("too_short", 0.0)
    mean = waveform.mean(dtype=np.float64)
    levels = frame_levels(waveform - np.float32(mean), sample_rate)
    if levels.max() < SILENCE_DBFS:
        return Quality("constant" if 20 * np.log10(abs(mean) + 1e-10) > SILENCE_DBFS else "silent", 0.0)
    speech_s = round(np.count_nonzero(levels > _activity_threshold(levels)) * 0.01, 2)
    if np.count_nonzero((size >= FULL_SCALE) & (size <= 1)) > CLIPPED_SHARE * len(waveform):
        return Quality("clipped", speech_s)
    return Quality("ok" if speech_s >= MIN_SPEECH_S else "too_little_speech", speech_s)


def active_frames(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the activity of 25 ms frames every 10 ms, bool (frames,); see `assess`.

    Args:
        waveform: float32 (samples,), 25 ms or more, in [-1, 1].
        sample_rate: Hz.
    """
    levels = frame_levels(waveform - np.float32(waveform.mean(dtype=np.float64)), sample_rate)
    return levels > _activity_threshold(levels)


def _activity_threshold(levels: np.ndarray) -> float:
    noise, speech = np.percentile(levels, (10, 95))
    threshold: float = max(SILENCE_DBFS, speech - 40, min(noise + 9, speech - 12))
    return threshold


def frame_levels(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return the level of 25 ms frames every 10 ms: dBFS, float64 (frames,), at least -100."""
    step = sample_rate // 200  # 5 ms; frame and shift are multiples of it
    pieces = waveform[: len(waveform) // step * step].reshape(-1, step)
    energy = np.einsum("ij,ij->i", pieces, pieces).astype(np.float64)
    power = np.convolve(energy, np.ones(5), "valid")[::2] / (5 * step)
    return 10 * np.log10(np.maximum(power, 1e-10))


def bandwidth_hz(waveform: Any, sample_rate: int) -> float:
    """Return the highest frequency in Hz that a recording contains, from its mean power spectrum.

    Telephone speech resampled to 16 kHz gives less than `NARROW_BAND_HZ`. Up to 1,000 frames of 512 samples, evenly
    spaced, are analysed; 0 for silence or less than one frame.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    if len(waveform) < 512:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 512)
    frames = frames[:: max(256, len(frames) // 1000)]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(512)))).mean(0)
    power = np.convolve(power, np.ones(5) / 5, "same")
    present = np.flatnonzero(power > power.max() * 10 ** (-BANDWIDTH_DB / 10))
    return float(present[-1]) * sample_rate / 512 if len(present) else 0.0
