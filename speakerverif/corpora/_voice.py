"""Synthesis of random syllables with a voice, that is, a glottal source and a vocal tract.

Source-filter synthesis after Fant 1960 and Klatt 1980 (JASA 67:971): pulses of the glottal flow's derivative
and noise are filtered by a cascade of formant resonators; frication noise bypasses them. `Voice` has all properties
of a speaker, `Mood` those that change from day to day; the syllables are random.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage, signal

# Double precision throughout, so that rounding to 16 bits gives the same bytes on other processors.
Array = np.ndarray

SAMPLE_RATE = 16000
HOP = 64  # 4 ms between updates of the tract
WINDOW = 2 * HOP
FFT = 512  # 24 ms remain for a resonator's tail after the window: at 60 Hz bandwidth it has fallen to 1 %
REFERENCE_TRACT_CM = 17.0  # of the men whose vowels are below

# F1, F2, F3 in Hz of ten vowels. Source: Peterson and Barney 1952, JASA 24:175, table II, men.
VOWELS = np.array(
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [440, 1020, 2240],
        [300, 870, 2240],
        [640, 1190, 2390],
        [490, 1350, 1690],
    ],
    np.float64,
)


class Consonant(NamedTuple):
    """The formant targets and noises of a consonant."""

    formants: tuple[float, float, float]  # locus of F1, F2, F3 in Hz, for the reference tract
    duration_s: float
    voicing: float = 0.0  # amplitude of the voice, 1 in a vowel
    frication: float = 0.0  # amplitude of the noise that bypasses the formants
    centre_hz: float = 4000.0  # of that noise
    width_hz: float = 1500.0
    burst: float = 0.0  # amplitude of a plosive's release
    aspiration_s: float = 0.0  # breath between release and vowel
    nasal: float = 0.0


CONSONANTS = (
    Consonant((300, 900, 2300), 0.07, burst=0.30, centre_hz=1200, width_hz=900, aspiration_s=0.04),  # p
    Consonant((300, 1800, 2700), 0.07, burst=0.55, centre_hz=4200, width_hz=1300, aspiration_s=0.045),  # t
    Consonant((300, 2100, 2400), 0.07, burst=0.50, centre_hz=2300, width_hz=600, aspiration_s=0.05),  # k
    Consonant((220, 900, 2300), 0.06, voicing=0.12, burst=0.20, centre_hz=1000, width_hz=800),  # b
    Consonant((220, 1800, 2700), 0.06, voicing=0.12, burst=0.35, centre_hz=4000, width_hz=1300),  # d
    Consonant((220, 2100, 2400), 0.06, voicing=0.12, burst=0.30, centre_hz=2200, width_hz=600),  # g
    Consonant((300, 1700, 2600), 0.10, frication=0.40, centre_hz=5800, width_hz=1100),  # s
    Consonant((300, 1900, 2500), 0.10, frication=0.42, centre_hz=3300, width_hz=900),  # sh
    Consonant((300, 1000, 2300), 0.09, frication=0.10, centre_hz=4800, width_hz=3000),  # f
    Consonant((250, 1700, 2600), 0.07, voicing=0.35, frication=0.20, centre_hz=5500, width_hz=1100),  # z
    Consonant((250, 1000, 2300), 0.06, voicing=0.45, frication=0.05, centre_hz=4800, width_hz=3000),  # v
    Consonant((250, 1100, 2200), 0.07, voicing=0.55, nasal=1.0),  # m
    Consonant((250, 1600, 2500), 0.06, voicing=0.55, nasal=1.0),  # n
    Consonant((360, 1300, 2700), 0.06, voicing=0.70),  # l
    Consonant((330, 1150, 1600), 0.06, voicing=0.70),  # r
    Consonant((290, 650, 2200), 0.06, voicing=0.70),  # w
    Consonant((270, 2200, 3000), 0.06, voicing=0.70),  # y
)


@dataclass(frozen=True)
class Voice:
    """The constant properties of a speaker: source, tract and habits."""

    f0_hz: float
    f0_range: float  # standard deviation of syllable accents, in octaves
    tract_cm: float
    formant_scale: Array  # (8,) ratio of this tract's formants to those of a uniformly scaled one
    vowels: Array  # (10, 3) ratio of this speaker's vowel targets to Peterson and Barney's
    bandwidth: float  # factor on the formants' bandwidths
    open_quotient: float
    closing: float  # share of the open phase in which the folds close; a smaller one sounds brighter
    breathiness: float
    jitter: float  # standard deviation of a period, relative
    shimmer: float  # standard deviation of a pulse's amplitude, relative
    hiss: float  # factor on the frequency of the fricatives
    nasality: float  # share of the nasal tract in every voiced sound
    nasal_hz: float
    side_cavity_hz: float  # the zero of the piriform fossae
    syllables_per_s: float
    phrase_s: float


@dataclass(frozen=True)
class Mood:
    """The properties of a voice that change between a speaker's sessions."""

    f0: float = 1.0
    tempo: float = 1.0
    effort: float = 0.0  # from -1, soft and dark, to 1, loud and bright


def draw_voice(rng: np.random.Generator) -> Voice:
    """Return a random speaker: 43 % men, 43 % women, 14 % children, whose pitch and size overlap."""
    group = rng.choice(3, p=(0.43, 0.43, 0.14))
    tract_cm = (16.8, 14.8, 12.8)[group] * np.exp(rng.normal(0, 0.055))
    f0_hz = (118.0, 200.0, 245.0)[group] * np.exp(rng.normal(0, 0.17))
    return Voice(
        f0_hz=f0_hz,
        f0_range=rng.uniform(0.04, 0.14),
        tract_cm=tract_cm,
        formant_scale=np.exp(rng.normal(0, (0.06, 0.06, 0.06, 0.08, 0.08, 0.08, 0.08, 0.08))),
        vowels=np.exp(rng.normal(0, 0.06, (len(VOWELS), 3))),
        bandwidth=np.exp(rng.uniform(np.log(0.7), np.log(1.8))),
        open_quotient=rng.uniform(0.4, 0.8),
        closing=np.exp(rng.uniform(np.log(0.12), np.log(0.5))),
        breathiness=np.exp(rng.uniform(np.log(0.01), np.log(0.2))),
        jitter=rng.uniform(0.004, 0.015),
        shimmer=rng.uniform(0.02, 0.08),
        hiss=np.exp(rng.normal(0, 0.12)),
        nasality=rng.uniform(0.0, 0.5),
        nasal_hz=rng.uniform(800, 1200),
        side_cavity_hz=rng.uniform(3800, 5200) * 15.5 / tract_cm,
        syllables_per_s=rng.uniform(3.6, 6.0),
        phrase_s=rng.uniform(1.0, 2.5),
    )


def utter(voice: Voice, mood: Mood, rng: np.random.Generator, duration_s: float) -> Array:
    """Return random syllables in this voice: float64 (samples,), RMS 1, at `SAMPLE_RATE`, dry and clean."""
    tracks = _articulate(voice, mood, rng, round(duration_s * SAMPLE_RATE / HOP))
    num_samples = len(tracks.f0_hz) * HOP
    pulses, open_phase = _glottis(voice, mood, rng, tracks.f0_hz, num_samples)
    noise = rng.standard_normal((2, num_samples))
    voiced = pulses + voice.breathiness * open_phase * noise[0]
    source = voiced * _at_samples(tracks.voicing) + noise[0] * _at_samples(tracks.aspiration)
    friction = noise[1] * _at_samples(tracks.frication)
    spectra = _tract(voice, tracks)
    spectra *= _spectra(source)
    hissing = np.flatnonzero(_smooth(tracks.frication, 3))  # only these few frames are computed
    spectra[hissing] += _spectra(friction, hissing) * _constriction(tracks, hissing)
    speech = _overlap_add(spectra)
    level: float = np.sqrt(np.mean(speech**2))
    return speech / level


class _Step(NamedTuple):
    """A period with constant targets of the synthesiser."""

    duration_s: float
    formants: Array  # F1, F2, F3 in Hz, for the reference tract
    voicing: float = 0.0
    aspiration: float = 0.0
    frication: float = 0.0
    centre_hz: float = 4000.0
    width_hz: float = 2000.0
    nasal: float = 0.0


@dataclass
class _Tracks:
    """Settings of the synthesiser, one row every `HOP` samples."""

    f0_hz: Array
    formants: Array  # (frames, 3) Hz
    voicing: Array
    aspiration: Array
    frication: Array
    centre_hz: Array
    width_hz: Array
    nasal: Array


def _at_samples(track: Array, hop: int = HOP) -> Array:
    """Return a track with one value every `hop` samples, interpolated to every sample."""
    slopes = np.diff(track, append=track[-1])[:, None]
    return (track[:, None] + slopes * (np.arange(hop) / hop)).reshape(-1)


def _articulate(voice: Voice, mood: Mood, rng: np.random.Generator, num_frames: int) -> _Tracks:
    """Return the tracks of random consonant-vowel syllables in phrases with pauses."""
    times = np.arange(num_frames) * HOP / SAMPLE_RATE
    steps, accents = _syllables(voice, mood, rng, num_frames * HOP / SAMPLE_RATE)
    ends = np.cumsum([step.duration_s for step in steps])
    under_way = np.searchsorted(ends, times, side="right").clip(max=len(steps) - 1)
    formants = np.array([step.formants for step in steps])[under_way]
    settings = np.array([step[2:] for step in steps])[under_way]
    # The tongue moves between targets in 60 ms, lips and glottis in 20 ms.
    formants = _smooth(formants, 15) * REFERENCE_TRACT_CM / voice.tract_cm
    voicing, aspiration, frication, centre_hz, width_hz, nasal = _smooth(settings, 5).T
    octaves = _smooth(np.interp(times, *np.array(accents).T), 15)
    octaves += _smooth(rng.normal(0, 0.06, num_frames), 25)  # slow flutter
    return _Tracks(
        f0_hz=voice.f0_hz * mood.f0 * 2**octaves,
        formants=formants,
        voicing=voicing,
        aspiration=aspiration,
        frication=frication,
        centre_hz=centre_hz,
        width_hz=width_hz,
        nasal=np.clip(nasal + voice.nasality * voicing, 0, 1),
    )


def _syllables(
    voice: Voice, mood: Mood, rng: np.random.Generator, duration_s: float
) -> tuple[list[_Step], list[tuple[float, float]]]:
    """Return steps that fill the duration, and pitch targets: time in seconds, octaves above `f0_hz`."""
    hiss = voice.hiss * np.sqrt(REFERENCE_TRACT_CM / voice.tract_cm)
    vowels = VOWELS * voice.vowels * voice.formant_scale[:3]
    rate = voice.syllables_per_s * mood.tempo
    steps = [_Step(rng.uniform(0.02, 0.15), vowels[8])]
    accents: list[tuple[float, float]] = []
    now, phrase_start, phrase_s = steps[0].duration_s, 0.0, voice.phrase_s * rng.uniform(0.6, 1.4)
    while now < duration_s:
        vowel = vowels[rng.integers(len(vowels))]
        stress = rng.uniform(0.5, 1.0)
        syllable_s = rng.gamma(12, 1 / (12 * rate)) * (0.8 + 0.4 * stress)
        syllable: list[_Step] = []
        if rng.random() < 0.9:
            c = CONSONANTS[rng.integers(len(CONSONANTS))]
            locus = 0.65 * np.array(c.formants) * voice.formant_scale[:3] + 0.35 * vowel  # coarticulation
            noise = (c.centre_hz * hiss, c.width_hz)
            closed_s = c.duration_s / mood.tempo * rng.uniform(0.8, 1.25)
            syllable.append(_Step(closed_s, locus, c.voicing, 0.0, c.frication, *noise, c.nasal))
            if c.burst:
                syllable.append(_Step(0.012, locus, 0.0, 0.0, c.burst, *noise))
            if c.aspiration_s:
                syllable.append(_Step(c.aspiration_s * rng.uniform(0.7, 1.3), vowel, aspiration=0.25))
        now += sum(step.duration_s for step in syllable)
        vowel_s = max(0.05, syllable_s - sum(step.duration_s for step in syllable))
        declination = 0.12 - 0.3 * (now - phrase_start) / phrase_s
        accents.append((now + vowel_s / 2, declination + rng.normal(0, voice.f0_range)))
        syllable.append(_Step(vowel_s, vowel * np.exp(rng.normal(0, 0.03, 3)), voicing=stress))
        now += vowel_s
        if now - phrase_start > phrase_s:
            syllable.append(_Step(rng.uniform(0.1, 0.35), vowels[8]))
            now += syllable[-1].duration_s
            phrase_start, phrase_s = now, voice.phrase_s * rng.uniform(0.6, 1.4)
        steps += syllable
    return steps, accents


def _smooth(rows: Array, frames: int) -> Array:
    """Return the rows averaged over time by a Hann window of an odd number of frames, edges held."""
    kernel = signal.windows.hann(frames + 2)[1:-1]
    smooth: np.ndarray = ndimage.convolve1d(rows, kernel / kernel.sum(), axis=0, mode="nearest")
    return smooth


def _glottis(
    voice: Voice, mood: Mood, rng: np.random.Generator, f0_hz: Array, num_samples: int
) -> tuple[Array, Array]:
    """Return the derivative of the glottal flow and the opening of the glottis, both (samples,).

    Pulse after Rosenberg 1971 (JASA 49:583, trigonometric), differentiated, computed at twice the rate to reduce
    aliasing. Jitter and shimmer are drawn for every cycle.
    """
    rate = 2 * SAMPLE_RATE
    time = np.arange(2 * num_samples) / rate
    cycles = np.cumsum(_at_samples(f0_hz, 2 * HOP)) / rate
    periods = np.diff(np.interp(np.arange(int(cycles[-1]) + 1), cycles, time))
    # The last, unfinished cycle, and a margin for the jitter.
    periods = np.append(periods, [1 / f0_hz[-1]] * 3)
    onsets = np.cumsum(periods * np.exp(voice.jitter * rng.standard_normal(len(periods))))
    cycles = np.interp(time, onsets, np.arange(len(onsets)))
    index = cycles.astype(int)
    phase = cycles - index
    opened = np.clip(voice.open_quotient * (1 - 0.12 * mood.effort), 0.3, 0.85)
    closing = voice.closing * (1 - 0.25 * mood.effort) * opened
    rising = opened - closing
    grid = np.arange(8192) / 8192
    pulse = np.where(
        grid < rising,
        np.sin(np.pi * grid / rising) * (np.pi / 2 / rising),
        np.where(grid < opened, np.sin(np.pi / 2 * (grid - rising) / closing) * (-np.pi / 2 / closing), 0.0),
    )
    shimmer = 1 + voice.shimmer * rng.standard_normal(len(onsets))
    pulses = signal.resample_poly(pulse[(phase * len(grid)).astype(int)] * shimmer[index], 1, 2)
    # A smoother closure than the formula's: a one-pole low-pass, with a lower cut-off in soft speech.
    pole = np.exp(-2 * np.pi * 2200 * 2**mood.effort / SAMPLE_RATE)
    pulses = signal.lfilter([1 - pole], [1, -pole], pulses)
    return pulses / np.sqrt(np.mean(pulses**2)), (phase[::2] < opened).astype(float)


# z^-k at the frequencies of the FFT.
_DELAYS = np.exp(-2j * np.pi * np.arange(7)[:, None] * np.arange(FFT // 2 + 1) / FFT)


def _resonator(centre_hz: Array | float, bandwidth_hz: Array | float) -> Array:
    """Return a resonator's denominator in z^-1, normalised to 1 at 0 Hz: (..., 3), lowest power first."""
    radius = np.exp(-np.pi * np.asarray(bandwidth_hz) / SAMPLE_RATE)
    a, b = -2 * radius * np.cos(2 * np.pi * np.asarray(centre_hz) / SAMPLE_RATE), radius**2
    polynomial: np.ndarray = np.stack([np.ones_like(a), a, b], -1) / (1 + a + b)[..., None]
    return polynomial


def _on_bins(polynomial: Array) -> Array:
    """Return the values of a polynomial in z^-1, (..., terms), at the FFT's frequencies: (..., FFT // 2 + 1)."""
    # Not `@`: BLAS would start threads in each of our threads, and the order of its sums depends on the processor.
    delays = _DELAYS[: polynomial.shape[-1]].view(np.float64)
    response: np.ndarray = np.einsum("...k,kb->...b", polynomial, delays).view(np.complex128)
    return response


def _times(p: Array, q: Array) -> Array:
    """Return the product of polynomials (..., n) and (..., 3)."""
    out = np.zeros((*p.shape[:-1], p.shape[-1] + 2))
    for k in range(3):
        out[..., k : k + p.shape[-1]] += p * q[..., k : k + 1]
    return out


def _tract(voice: Voice, tracks: _Tracks) -> Array:
    """Return the tract's transfer function in every frame: (frames, FFT // 2 + 1)."""
    scale = REFERENCE_TRACT_CM / voice.tract_cm
    centres = np.clip(tracks.formants, 150, 7000)
    widths = voice.bandwidth * (50 + 0.03 * centres) * (1 + 0.8 * tracks.nasal[:, None])
    first, second, third = (_resonator(centres[:, i], widths[:, i]) for i in range(3))
    moving = _on_bins(_times(_times(first, second), third))
    # The tract above F3 is nearly that of a tube closed at one end, the same for every sound.
    upper = [(3500.0 + 1000 * k) * scale * voice.formant_scale[3 + k] for k in range(5)]
    still = np.prod(
        [_on_bins(_resonator(hz, voice.bandwidth * (60 + 0.05 * hz))) for hz in upper if hz < 7600], 0
    )
    cavity = _on_bins(_resonator(voice.side_cavity_hz, 250.0))
    cavity /= _on_bins(_resonator(voice.side_cavity_hz * 1.06, 400.0))
    # The nasal branch is a pole and a zero, which cancel where it is closed.
    pole, zero = _resonator(270.0, 100.0), _resonator(voice.nasal_hz, 150.0)
    nasal = _on_bins(pole + tracks.nasal[:, None] * (zero - pole))
    nasal *= cavity / (_on_bins(pole) * still)
    nasal /= moving
    return nasal


def _constriction(tracks: _Tracks, frames: Array) -> Array:
    """Return the spectrum of frication in the given frames, a peak over a low level: (frames, FFT // 2 + 1)."""
    bins = np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT
    distance = (bins - tracks.centre_hz[frames, None]) / tracks.width_hz[frames, None]
    distance *= distance
    gain: np.ndarray = 1 / (1 + distance * distance)
    return gain


def _spectra(samples: Array, frames: Array | slice = slice(None)) -> Array:
    """Return the spectra of windowed frames, (frames, FFT // 2 + 1); the windows add up to 1."""
    padded = np.concatenate([samples, np.zeros(HOP)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][frames]
    spectra: np.ndarray = fft.rfft(windows * signal.windows.hann(WINDOW, sym=False), FFT)
    return spectra


def _overlap_add(spectra: Array) -> Array:
    """Return the waveform whose frames have these spectra, (frames * HOP,)."""
    blocks = fft.irfft(spectra, FFT).reshape(len(spectra), FFT // HOP, HOP)
    out = np.zeros((len(spectra) + FFT // HOP, HOP))
    for i in range(FFT // HOP):
        out[i : i + len(spectra)] += blocks[:, i]
    return out[: len(spectra)].reshape(-1)
