"""Training augmentation of single crops: noise, music, babble, reverberation, codecs, gain, speed.

NumPy float32 waveform in and out, no torch: this runs in data-loading processes, one crop at a time.
Every random choice comes from the generator that the caller passes, built from (seed, epoch, utterance), so a
crop is the same in every worker.
"""

import functools
import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy import fft, signal

from speakerverif.audio import reading
from speakerverif.audio.codec import check, transcode
from speakerverif.audio.resample import resample
from speakerverif.config import AugmentConfig
from speakerverif.data import _text
from speakerverif.errors import InputError

logger = logging.getLogger(__name__)

Waveform = np.ndarray  # float32 (samples,); mixing and convolving keep float64 as well
# Excerpts of other speech for babble: (generator, number of samples) -> float32 of that many samples.
ReadSpeech = Callable[[np.random.Generator, int], Waveform]

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
TAIL_ENERGY = 1e-6  # the end of a recorded response with this share of its energy is cut off: -60 dB
BLOCK_SAMPLES = 4096  # of a convolution
CACHE_BYTES = 64 << 20  # decoded noise, music and responses kept per folder and process: 17 minutes at 16 kHz


class Augment:
    """The augmentation that an `AugmentConfig` describes, applied to one crop at a time.

    With `probability` one of `kinds` is drawn by `kind_weights` and applied; then, with `codec_probability`, one of
    `codecs` (sound is transmitted after it left the room); then the gain. The caller applies `speeds`, since they
    change the label as well (see `speed`).
    """

    def __init__(
        self,
        config: AugmentConfig,
        sample_rate: int,
        data_dir: Path | str = ".",
        babble: ReadSpeech | None = None,
    ) -> None:
        """Find the recordings named by the config.

        Args:
            config: kinds, probabilities and SNR ranges.
            sample_rate: of the crops, Hz; recordings of another rate are resampled to it.
            data_dir: folder that relative `noise_dir`, `music_dir`, `speech_dir` and `rir_dir` start from.
            babble: reads excerpts of other speech; needed where `babble` is among the kinds.

        Raises:
            InputError: no recordings where the config says they are; no kind to draw from; `kind_weights` that
                don't match the kinds; a codec that does not work on this machine.
        """
        self.config, self.sample_rate, self.babble = config, sample_rate, babble
        self.noise, self.music, self.speech, self.responses = (
            Recordings(Path(data_dir) / source, sample_rate, load) if source else None
            for source, load in (
                (config.noise_dir, read_recording),
                (config.music_dir, read_recording),
                (config.speech_dir, read_recording),
                (config.rir_dir, read_response),
            )
        )
        weights = config.kind_weights or (1.0,) * len(config.kinds)
        if len(weights) != len(config.kinds) or min(weights, default=1) <= 0:
            raise InputError(
                f"augment.kind_weights: found {list(weights)} for {len(config.kinds)} kinds; "
                "expected a number above 0 for each"
            )
        absent = {"music": self.music is None, "speech": self.speech is None}
        drawn = [(k, w) for k, w in zip(config.kinds, weights, strict=True) if not absent.get(k)]
        self.kinds = [kind for kind, _ in drawn]
        self._shares = np.cumsum([weight for _, weight in drawn]) if config.kind_weights else None
        if config.probability > 0 and not self.kinds:
            raise InputError(
                f"augment.kinds: nothing to draw from {config.kinds!r}; music needs augment.music_dir, "
                "speech needs augment.speech_dir"
            )
        if config.probability > 0 and "babble" in self.kinds and babble is None:
            raise InputError(
                "augment.kinds: babble needs other speech to mix in; leave it out or pass a manifest"
            )

        if config.codec_probability > 0:
            check(config.codecs, sample_rate, config.codec_kbps)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return the augmented crop.

        Args:
            waveform: float32 (samples,) in [-1, 1], finite; never changed in place.
            rng: source of every random choice.

        Returns:
            float32 of the same length, finite. Where mixing exceeds [-1, 1] the crop is scaled to peak 1:
            clipping would add unwanted distortion. Digital silence gets no noise, since its SNR is undefined;
            silent noise changes nothing.
        """
        config = self.config
        if rng.random() < config.probability:
            kind = self._draw_kind(rng)
            if kind in ("reverb", "reverb+noise"):
                waveform = convolve(waveform, self._response(rng))
            if kind in ("noise", "reverb+noise"):
                noise = self._noise(rng, len(waveform))
                waveform = mix(waveform, noise, rng.uniform(*config.noise_snr_db))
            if kind == "music":
                assert self.music is not None
                music = self.music.excerpt(rng, len(waveform))
                waveform = mix(waveform, music, rng.uniform(*config.music_snr_db))
            if kind == "speech":
                assert self.speech is not None
                talker = self.speech.excerpt(rng, len(waveform))
                waveform = mix(waveform, talker, rng.uniform(*config.speech_snr_db))
            if kind == "babble":
                waveform = mix(waveform, self._babble(rng, len(waveform)), rng.uniform(*config.babble_snr_db))
        if rng.random() < config.codec_probability:
            codec = config.codecs[rng.integers(len(config.codecs))]
            kbps = rng.uniform(*config.codec_kbps)
            waveform = transcode(_within_full_scale(waveform), codec, self.sample_rate, kbps)
        if any(config.gain_db):
            waveform = waveform * np.float32(10 ** (rng.uniform(*config.gain_db) / 20))
        return _within_full_scale(waveform)

    def _draw_kind(self, rng: np.random.Generator) -> str:
        if self._shares is None:
            return self.kinds[rng.integers(len(self.kinds))]
        drawn = rng.random() * self._shares[-1]
        return self.kinds[int(np.searchsorted(self._shares, drawn, side="right"))]

    def _noise(self, rng: np.random.Generator, num_samples: int) -> Waveform:
        if self.noise is None:
            return coloured_noise(rng, num_samples, rng.uniform(0.0, 2.0))
        return self.noise.excerpt(rng, num_samples)

    def _response(self, rng: np.random.Generator) -> Waveform:
        if self.responses is None:
            return simulated_room(rng, self.sample_rate, t60_s=rng.uniform(0.2, 0.9))
        return self.responses.any(rng)

    def _babble(self, rng: np.random.Generator, num_samples: int) -> Waveform:
        """Return several talkers mixed at equal power, so that none sounds like a second speaker."""
        assert self.babble is not None
        low, high = self.config.babble_speakers
        talkers = np.zeros(num_samples, np.float32)
        for _ in range(rng.integers(low, high + 1)):
            talker = self.babble(rng, num_samples)
            talkers += talker / np.float32(np.sqrt(max(power(talker), 1e-12)))
        return talkers


class Recordings:
    """The audio files anywhere in a folder, or in a list file with one path per line, relative to the list.

    Decoded files are kept up to `CACHE_BYTES`; of further files, excerpts are read from disk each time. A file that
    can't be read is logged when it is first drawn and then left out: it must not stop a training.
    """

    def __init__(self, source: Path, sample_rate: int, load: Callable[[str, int], Waveform]) -> None:
        self.sample_rate, self.load = sample_rate, load
        if source.is_file():
            listed = _text.lines(source, raw_paths=True)
            self.paths = [str(source.parent / line.text) for line in listed]
        else:
            files = source.rglob("*") if source.is_dir() else ()
            # Hidden files are not recordings: macOS keeps metadata of x.wav in ._x.wav.
            self.paths = sorted(
                str(path)
                for path in files
                if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")
            )
        if not self.paths:
            raise InputError(
                f"{source}: no recordings; expected a folder of WAV or FLAC files, or a list of them"
            )
        self._decoded: dict[str, Waveform] = {}
        self._room = CACHE_BYTES
        self._unreadable: dict[str, str] = {}  # path -> reason

    def any(self, rng: np.random.Generator) -> Waveform:
        """Return one whole recording, as returned by `load`."""
        return self._draw(rng, self._whole)

    def excerpt(self, rng: np.random.Generator, num_samples: int) -> Waveform:
        """Return `num_samples` samples of one recording from a random start; a shorter recording is repeated."""
        return self._draw(rng, lambda path: self._excerpt(path, rng.random(), num_samples))

    def _draw(self, rng: np.random.Generator, read: Callable[[str], Waveform]) -> Waveform:
        """Return the result of `read` for a random readable recording.

        Raises:
            InputError: no recording can be read.
        """
        while len(self._unreadable) < len(set(self.paths)):
            path = self.paths[rng.integers(len(self.paths))]
            state = rng.bit_generator.state
            if path not in self._unreadable:
                try:
                    return read(path)
                except InputError as error:
                    self._unreadable[path] = str(error)
                    logger.warning(f"left out of augmentation: {error}")
                    # Later draws must not depend on whether this file was tried before.
                    rng.bit_generator.state = state
        raise InputError(f"no recording for augmentation can be read: {'; '.join(self._unreadable.values())}")

    def _excerpt(self, path: str, start: float, num_samples: int) -> Waveform:
        if path not in self._decoded:
            duration_s = reading.info(path).duration_s
            samples = int(duration_s * self.sample_rate)
            if samples * 4 > self._room and samples > num_samples:
                crop_s = num_samples / self.sample_rate
                part = reading.read(path, start * (duration_s - crop_s), crop_s, self.sample_rate, "mix")
                return np.resize(part, num_samples)
        whole = self._whole(path)
        if len(whole) > num_samples:
            first = int(start * (len(whole) - num_samples + 1))
            return whole[first : first + num_samples]
        return np.resize(np.roll(whole, -int(start * len(whole))), num_samples)

    def _whole(self, path: str) -> Waveform:
        waveform = self._decoded.get(path)
        if waveform is None:
            waveform = self.load(path, self.sample_rate)
            if waveform.nbytes <= self._room:
                self._room -= waveform.nbytes
                self._decoded[path] = waveform
        return waveform


def read_recording(path: str, sample_rate: int) -> Waveform:
    """Return a whole recording of noise or music."""
    return reading.read(path, sample_rate=sample_rate, channel="mix")


def read_response(path: str, sample_rate: int) -> Waveform:
    """Return a recorded room impulse response, ready for `convolve`.

    The first of several channels is used: their mean is not the response of any microphone.

    Raises:
        InputError: unreadable, empty or digital silence.
    """
    response = reading.read(path, sample_rate=sample_rate, channel=1)
    return room_response(response, path)


def _within_full_scale(waveform: Waveform) -> Waveform:
    peak = np.abs(waveform).max(initial=0.0)
    return waveform / peak if peak > 1 else waveform


def power(waveform: Waveform) -> float:
    """Return the mean square over the whole crop, pauses included; SNRs are ratios of it."""
    # Not a dot product: BLAS would start threads for it in every data-loading process.
    return float(np.square(waveform).mean()) if len(waveform) else 0.0


def mix(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Return `waveform` with `noise` of the same length added at `snr_db`.

    The SNR is 10·log10 of the ratio of the two powers over the crop. Where either is digital silence the
    waveform is returned unchanged.
    """
    speech_power, noise_power = power(waveform), power(noise)
    if speech_power == 0 or noise_power == 0:
        return waveform
    return waveform + noise * np.float32(np.sqrt(speech_power / noise_power) * 10 ** (-snr_db / 20))


def coloured_noise(rng: np.random.Generator, num_samples: int, exponent: float) -> Waveform:
    """Return Gaussian noise of unit power whose power density falls as 1 / frequency^exponent.

    Args:
        rng: source of randomness.
        num_samples: length.
        exponent: 0 white, 1 pink, 2 brown.
    """
    size = fft.next_fast_len(num_samples, real=True)
    bins = size // 2 + 1
    spectrum = rng.standard_normal(2 * bins, np.float32).view(np.complex64)
    spectrum *= np.exp(np.float32(-exponent / 2) * _log_frequency(bins))
    noise = fft.irfft(spectrum, size)[:num_samples]
    scaled: Waveform = noise / np.float32(np.sqrt(max(power(noise), 1e-20)))
    return scaled


@functools.lru_cache(maxsize=8)
def _log_frequency(bins: int) -> Waveform:
    """Return the log of the bin number, constant below 1/400 of the Nyquist frequency (20 Hz at 16 kHz).

    Without that limit nearly all of brown noise's power lies below the range of the ear and of filterbanks.
    """
    return np.log(np.maximum(np.arange(bins), bins / 400)).astype(np.float32)


def convolve(waveform: Waveform, response: Waveform) -> Waveform:
    """Return the convolution with a response, cut to the waveform's length, without compensation of delay.

    Partitioned overlap-add: many short transforms, which fit the cache and are computed several at a time, take half
    the time of three long ones.
    """
    blocks, parts = (
        fft.rfft(_blocks(part), overwrite_x=True) for part in (waveform, response[: len(waveform)])
    )
    product = blocks * parts[0]
    for i in range(1, len(parts)):
        product[i:] += blocks[:-i] * parts[i]
    halves = fft.irfft(product, overwrite_x=True).reshape(len(blocks), 2, BLOCK_SAMPLES)
    halves[1:, 0] += halves[:-1, 1]
    convolved: Waveform = halves[:, 0].reshape(-1)[: len(waveform)]
    return convolved


def _blocks(waveform: Waveform) -> Waveform:
    """Return the waveform as rows of `BLOCK_SAMPLES` samples, each followed by the same number of zeros."""
    rows = -(-len(waveform) // BLOCK_SAMPLES)
    blocks = np.zeros((rows, 2, BLOCK_SAMPLES), waveform.dtype)
    whole = len(waveform) // BLOCK_SAMPLES
    blocks[:whole, 0] = waveform[: whole * BLOCK_SAMPLES].reshape(whole, BLOCK_SAMPLES)
    if whole < rows:
        blocks[whole, 0, : len(waveform) - whole * BLOCK_SAMPLES] = waveform[whole * BLOCK_SAMPLES :]
    return blocks.reshape(rows, 2 * BLOCK_SAMPLES)


def room_response(recorded: Waveform, where: str = "room response") -> Waveform:
    """Return a recorded room impulse response, ready for `convolve`.

    It begins with the strongest sample, taken for the direct sound, so speech isn't delayed; the tail is cut where
    less than `TAIL_ENERGY` remains, which saves time; the energy is 1, so the level stays about the same.

    Raises:
        InputError: the recording is digital silence.
    """
    direct = recorded[np.abs(recorded).argmax() :] if len(recorded) else recorded
    if not direct.any():
        raise InputError(f"{where}: digital silence; expected a room impulse response")
    left = np.cumsum(np.square(direct[::-1], dtype=np.float64))[::-1]
    return _unit_energy(direct[left > TAIL_ENERGY * left[0]])


def _unit_energy(response: Waveform) -> Waveform:
    return response / np.float32(np.sqrt(power(response) * len(response)))


def simulated_room(
    rng: np.random.Generator, sample_rate: int, t60_s: float, direct_to_reverberant_db: float | None = None
) -> Waveform:
    """Return a random room impulse response of unit energy whose first sample is the direct sound.

    Args:
        rng: source of randomness.
        sample_rate: Hz.
        t60_s: time in which the tail falls by 60 dB.
        direct_to_reverberant_db: energy of the direct sound over the rest; None: drawn from -3 to 12 dB.

    Source: Polack 1988 (doctoral thesis, Le Mans): the tail is Gaussian noise under an exponential envelope.
        Departures: it starts 2 to 10 ms after the direct sound, and is low-passed by one pole at 2 to 6 kHz,
        since walls and air absorb high frequencies more. No discrete early reflections.
    """
    if direct_to_reverberant_db is None:
        direct_to_reverberant_db = rng.uniform(-3.0, 12.0)
    tail_samples = int(t60_s * sample_rate)
    gap = int(rng.uniform(0.002, 0.010) * sample_rate)
    pole = np.exp(-2 * np.pi * rng.uniform(2000.0, 6000.0) / sample_rate)
    decay = np.exp(np.linspace(0, -3 * np.log(10), tail_samples, dtype=np.float32))
    tail = rng.standard_normal(tail_samples, np.float32) * decay
    tail = signal.lfilter(np.array([1 - pole], np.float32), np.array([1, -pole], np.float32), tail)
    tail = _unit_energy(tail) * np.float32(10 ** (-direct_to_reverberant_db / 20))
    return _unit_energy(np.concatenate([np.ones(1, np.float32), np.zeros(gap, np.float32), tail]))


def speed(waveform: Waveform, factor: float) -> Waveform:
    """Return the waveform played `factor` times as fast: tempo and pitch both change, as with `sox speed`.

    The changed voice counts as another speaker; the caller sets the label. For a crop of n samples the caller
    reads ceil(n · factor) samples: the result then has at least n, of which it keeps the first n.

    Args:
        waveform: float32 (samples,).
        factor: above 0; rounded to the nearest fraction of integers up to 100, so 0.9, 1.1 and 1.05 are exact.

    Returns:
        float32 of round(samples / factor) samples.
    """
    return resample(waveform, _ratio(factor))


@functools.cache
def _ratio(factor: float) -> Fraction:
    return 1 / Fraction(factor).limit_denominator(100)
