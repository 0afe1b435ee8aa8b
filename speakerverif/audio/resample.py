"""Resampling of training crops: one matrix product per crop, in half the time of soxr's medium quality."""

import functools
import math
from fractions import Fraction

import numpy as np

Waveform = np.ndarray  # float32 (samples,)
# A sinc with a Kaiser window: flat to 0.02 dB up to 0.87 of the lower Nyquist frequency, -6 dB at CUTOFF times it,
# aliases at least 65 dB down. HALF_WIDTH counts samples of the lower rate.
HALF_WIDTH, CUTOFF, KAISER_BETA = 32, 0.94, 6.5
# Approximate number of outputs per row of the product; with more the matrix is mostly zeros, with fewer rows are short.
OUTPUTS = 40
# Rows per product. BLAS would start threads for a larger one, in every data-loading process.
ROWS = 16


def resample(waveform: Waveform, ratio: Fraction) -> Waveform:
    """Return the waveform at `ratio` times the rate; the first samples coincide, and silence surrounds the input.

    Args:
        waveform: float32 (samples,).
        ratio: new rate over old, of small integers: the filters take memory proportional to their product.

    Returns:
        float32 of round(samples · ratio) samples.
    """
    if ratio == 1:
        return waveform
    matrix, step = _filters(ratio)
    inputs, outputs = matrix.shape
    reach = (inputs - step) // 2
    length = round(len(waveform) * ratio)
    products = -(-length // (outputs * ROWS))
    padded = np.zeros(products * ROWS * step + 2 * reach, np.float32)
    padded[reach : reach + len(waveform)] = waveform[: len(padded) - reach]
    strides = (4 * step * ROWS, 4 * step, 4)
    rows = np.ndarray((products, ROWS, inputs), np.float32, padded, strides=strides)
    resampled: Waveform = (rows.copy() @ matrix).reshape(-1)[:length]
    return resampled


@functools.lru_cache(maxsize=8)
def _filters(ratio: Fraction) -> tuple[Waveform, int]:
    """Return the weights (inputs, outputs) of one row, and the step in inputs from one row to the next."""
    outputs = ratio.numerator * max(1, OUTPUTS // ratio.numerator)
    step = int(outputs / ratio)
    scale = max(1.0, 1 / float(ratio))  # inputs to a sample of the lower rate
    reach = math.ceil(HALF_WIDTH * scale)
    apart = np.arange(-reach, step + reach)[:, None] - np.arange(outputs) / float(ratio)
    apart /= scale
    window = np.i0(KAISER_BETA * np.sqrt(np.clip(1 - np.square(apart / HALF_WIDTH), 0, 1)))
    filters = np.sinc(CUTOFF * apart) * window * (np.abs(apart) < HALF_WIDTH)
    return (filters / filters.sum(0)).astype(np.float32), step
