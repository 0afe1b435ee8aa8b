"""Codec augmentation: telephone lines, mobile networks, compressed files.

Results have the input's rate and length and are aligned with it. GSM, Opus and MP3 are encoded and decoded in memory
by libsndfile; AAC takes two ffmpeg processes per crop, ten times the time of MP3.
"""

import functools
import io
import math
import shutil
import subprocess
from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import soundfile
from scipy import signal

from speakerverif.audio.resample import resample
from speakerverif.errors import InputError

Waveform = np.ndarray  # float32 (samples,)
AAC_DELAY = 1024  # samples that ffmpeg's encoder adds in front; a bare AAC stream does not announce them


def check(kinds: Iterable[str], sample_rate: int, kbps: tuple[float, float]) -> None:
    """Try every codec at the lowest and the highest bit rate, so that a missing codec is found before training.

    Raises:
        InputError: a codec, named, does not work on this machine.
    """
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, sample_rate // 5).astype(np.float32)
    for kind in kinds:
        for rate in kbps:
            transcode(noise, kind, sample_rate, rate)


def transcode(waveform: Waveform, kind: str, sample_rate: int, kbps: float) -> Waveform:
    """Return the waveform encoded and decoded by a codec; digital silence is returned unchanged.

    Args:
        waveform: float32 (samples,) in [-1, 1].
        kind: a key of `CODECS`.
        sample_rate: Hz, of the waveform and of the result.
        kbps: approximate bit rate of Opus, MP3 and AAC; the others have a fixed one.

    Returns:
        float32 of the same length.

    Raises:
        InputError: the codec is not available, or not at this sample or bit rate.
    """
    if not waveform.any():
        return waveform
    try:
        heard = CODECS[kind](waveform, sample_rate, kbps)
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(
            f"augment.codecs: {kind} at {sample_rate} Hz and {kbps:g} kbit/s does not work here: {error}"
        ) from error
    return np.pad(heard, (0, max(0, len(waveform) - len(heard))))[: len(waveform)]


def telephone(waveform: Waveform, sample_rate: int, kbps: float = 64.0) -> Waveform:
    """Return the waveform as heard through a narrow-band telephone line, at the same rate and length.

    Band-limited to 300-3400 Hz (Butterworth, order 8), quantised to 8 bits by the µ-law at 8 kHz: 64 kbit/s,
    whatever `kbps` is. The crop is scaled to an RMS of -20 dBFS before quantisation, like the level control of a
    telephone exchange, and back afterwards, so that quantisation noise doesn't drown quiet crops.

    Source: ITU-T G.711 (1988), its continuous µ = 255 curve, not the piecewise-linear tables.
    """
    rate = Fraction(8000, sample_rate)
    # One more sample at 8 kHz, so that rounding doesn't make the result too short.
    narrow = resample(np.pad(waveform, (0, math.ceil(1 / rate))), rate)
    narrow = signal.sosfilt(_telephone_band(), narrow).astype(np.float32)
    rms = np.sqrt(np.square(narrow).mean())
    if rms == 0:
        return np.zeros_like(waveform)
    driven = np.clip(narrow * (np.float32(0.1) / rms), -1, 1)
    steps = np.round(np.log1p(255 * np.abs(driven)) * np.float32(127 / np.log(256)))  # 7 bits and the sign
    expanded = np.sign(driven) * np.expm1(steps * np.float32(np.log(256) / 127)) / np.float32(255)
    return resample(expanded * (rms / np.float32(0.1)), 1 / rate)[: len(waveform)]


@functools.cache
def _telephone_band() -> np.ndarray:
    sections: np.ndarray = signal.butter(4, (300, 3400), "bandpass", fs=8000, output="sos")
    return sections


def gsm(waveform: Waveform, sample_rate: int, kbps: float = 13.0) -> Waveform:
    """Return the waveform as heard through a GSM mobile telephone: full rate (GSM 06.10), 8 kHz, 13 kbit/s."""
    rate = Fraction(8000, sample_rate)
    narrow = resample(np.pad(waveform, (0, math.ceil(1 / rate))), rate)
    return resample(_libsndfile(narrow, 8000, "WAV", "GSM610"), 1 / rate)


def opus(waveform: Waveform, sample_rate: int, kbps: float) -> Waveform:
    """Return the waveform after Opus (internet telephony, messengers), 6 to 256 kbit/s; 8, 12, 16, 24 or 48 kHz."""
    return _libsndfile(waveform, sample_rate, "OGG", "OPUS", compression_level=(256 - kbps) / 250)


def mp3(waveform: Waveform, sample_rate: int, kbps: float) -> Waveform:
    """Return the waveform after MP3; from 9 to 160 kbit/s at 16 to 24 kHz."""
    # libsndfile maps compression levels to the bit rates of MPEG-1, MPEG-2 and MPEG-2.5. Only with an average bit
    # rate does it write the header that gives a decoder the delay.
    greatest, least = (320, 32) if sample_rate >= 32000 else (160, 8) if sample_rate >= 16000 else (64, 8)
    level = (greatest - kbps) / (greatest - least)
    return _libsndfile(
        waveform, sample_rate, "MP3", "MPEG_LAYER_III", compression_level=level, bitrate_mode="AVERAGE"
    )


def aac(waveform: Waveform, sample_rate: int, kbps: float) -> Waveform:
    """Return the waveform after AAC (MPEG-4 LC), the usual codec of video platforms."""
    executable = shutil.which("ffmpeg")
    if executable is None:
        raise OSError("ffmpeg, which does it, is not installed")
    raw = ["-f", "f32le", "-ar", str(sample_rate), "-ac", "1"]
    stream = waveform.astype("<f4").tobytes()
    for options in (
        [*raw, "-i", "-", "-c:a", "aac", "-b:a", f"{kbps:g}k", "-f", "adts"],
        ["-f", "aac", "-i", "-", *raw],
    ):
        done = subprocess.run([executable, "-v", "error", *options, "-"], input=stream, capture_output=True)
        if done.returncode:
            raise OSError(done.stderr.decode(errors="replace").strip())
        stream = done.stdout
    return np.frombuffer(stream, "<f4").astype(np.float32)[AAC_DELAY:]


CODECS: dict[str, Callable[[Waveform, int, float], Waveform]] = {
    "telephone": telephone,
    "gsm": gsm,
    "opus": opus,
    "mp3": mp3,
    "aac": aac,
}


def _libsndfile(
    waveform: Waveform, sample_rate: int, container: str, subtype: str, **settings: float | str
) -> Waveform:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", sample_rate, 1, subtype, format=container, **settings) as sound:
        sound.write(waveform)
    file.seek(0)
    samples: Waveform = soundfile.read(file, dtype="float32")[0]
    return samples
