"""Reduction of a recording to one channel: a chosen one, or the mean where all carry the same voice."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speakerverif.audio.streams import Damaged

# A channel's number, counted from 1; "mix", the mean of all; None, the mean where the channels are alike.
Channel = int | Literal["mix"] | None
Samples = NDArray[np.float32]

# Two channels carry the same sound where their normalised cross-correlation reaches this, in either sign, at a lag of
# at most MAX_LAG_S (3.4 m between two microphones). Two sides of a call stay below 0.1.
MIN_CORRELATION = 0.5
MAX_LAG_S = 0.01
# Two channels cancel out where their mean keeps less than this share of their power.
MIN_MIXED_SHARE = 0.25
# A channel is silent this many dB below the loudest; all are silent where the loudest has an RMS below `SILENT`.
QUIET_DB = 40.0
SILENT = 1e-4


def mono(chunk: Samples, sample_rate: int, channel: Channel) -> Samples:
    """Return frames (N, channels) as one channel, float32 (N,).

    Raises:
        Damaged: there is no such channel; or `channel` is None and the channels differ or cancel out.
    """
    channels = chunk.shape[1]
    if isinstance(channel, int):
        if not 1 <= channel <= channels:
            raise Damaged(f"has {channels} channel{'s' * (channels > 1)}; channel {channel} was asked for")
        selected: Samples = chunk[:, channel - 1]
        return selected
    if channels == 1:
        return chunk.reshape(-1)
    if channel is None:
        check_alike(chunk, sample_rate)
    mean: Samples = chunk.mean(axis=1)
    return mean


def check_alike(chunk: Samples, sample_rate: int) -> None:
    """Raise `Damaged` where the channels of frames (N, channels) differ, or cancel out when averaged."""
    if not np.isfinite(chunk).all():
        # `speech_check` reports samples that are not finite.
        return
    power = np.square(chunk).mean(axis=0, dtype=np.float64)
    loudest = int(power.argmax())
    if power[loudest] < SILENT**2:
        return
    reference = chunk[:, loudest]
    names = f"name one with --channel 1 to {chunk.shape[1]}, or mix them with --channel mix"
    for i in np.flatnonzero(power > power[loudest] * 10 ** (-QUIET_DB / 10)).tolist():
        other = chunk[:, i]
        if i == loudest or np.array_equal(reference, other):
            continue
        pair = f"channels {min(i, loudest) + 1} and {max(i, loudest) + 1}"
        correlation = greatest_correlation(reference, other, round(MAX_LAG_S * sample_rate))
        if correlation < MIN_CORRELATION:
            raise Damaged(
                f"{pair} hold different sounds (correlation {correlation:.2f}, {MIN_CORRELATION:g} is expected "
                f"of one voice): {names}"
            )
        mixed = np.square((reference + other) / 2).mean(dtype=np.float64)
        share = mixed / (power[loudest] + power[i]) * 2
        if share < MIN_MIXED_SHARE:
            raise Damaged(f"{pair} cancel out ({share:.0%} of their power is left in their mean): {names}")


def greatest_correlation(a: Samples, b: Samples, max_lag: int) -> float:
    """Return the greatest absolute normalised cross-correlation of two signals (N,) at lags of up to `max_lag`."""
    # Here, because one channel needs none of it and it is slow to import.
    from scipy import fft

    a, b = a - a.mean(), b - b.mean()
    energy = float(np.sqrt(np.square(a).sum(dtype=np.float64) * np.square(b).sum(dtype=np.float64)))
    if energy == 0:
        return 1.0
    max_lag = min(max_lag, len(a) - 1)
    size = fft.next_fast_len(len(a) + max_lag, real=True)
    product = fft.irfft(fft.rfft(a, size) * np.conj(fft.rfft(b, size)), size)
    lags = np.concatenate([product[: max_lag + 1], product[size - max_lag :]])
    return float(np.abs(lags).max()) / energy
