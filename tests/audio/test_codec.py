"""Codecs: aligned, of the same length, worse as the bit rate falls, and missed before training."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import signal

from speakerverif.audio import codec
from speakerverif.audio.augment import Augment, power
from speakerverif.config import AugmentConfig
from speakerverif.errors import InputError
from tests.conftest import RATE, voice

KINDS = ("telephone", "gsm", "opus", "mp3")
WITH_AAC = (
    *KINDS,
    pytest.param("aac", marks=pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg")),
)


def tone(hz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def snr_db(clean: np.ndarray, heard: np.ndarray) -> float:
    return 10 * math.log10(power(clean) / power(heard - clean))


@pytest.mark.parametrize("kind", WITH_AAC)
@pytest.mark.parametrize("num_samples", [RATE, 12345])
def test_what_comes_back_is_aligned_and_as_long(kind: str, num_samples: int) -> None:
    speech = voice(2, 0, 1.0)[:num_samples]
    heard = codec.transcode(speech, kind, RATE, 32.0)
    assert heard.dtype == np.float32 and heard.shape == speech.shape and np.isfinite(heard).all()
    assert not np.array_equal(heard, speech)
    likeness = signal.correlate(heard, speech, "full")
    assert (
        abs(int(likeness.argmax()) - (num_samples - 1)) <= 8
    )  # GSM and the telephone's filter delay a little


@pytest.mark.parametrize("kind", [kind for kind in WITH_AAC if kind not in ("telephone", "gsm")])
def test_more_bits_keep_more(kind: str) -> None:
    speech = voice(3, 0, 1.0)
    coarse, fine = (snr_db(speech, codec.transcode(speech, kind, RATE, kbps)) for kbps in (16.0, 64.0))
    assert fine > coarse + 3


def test_gsm_carries_no_more_than_4_khz() -> None:
    heard = codec.transcode(tone(1000) + tone(6000), "gsm", RATE, 13.0)
    hz, density = signal.welch(heard, RATE, nperseg=512)
    assert density[hz > 4500].max() < 1e-3 * density.max()


@pytest.mark.parametrize("kind", WITH_AAC)
def test_silence_stays_silent(kind: str) -> None:
    assert not codec.transcode(np.zeros(RATE, np.float32), kind, RATE, 32.0).any()


def test_the_telephone_passes_its_band_only() -> None:
    def gain_db(hz: float) -> float:
        wave = tone(hz)
        return 10 * math.log10(power(codec.telephone(wave, RATE)) / power(wave))

    assert abs(gain_db(1000)) < 0.5
    assert gain_db(100) < -30 and gain_db(5000) < -30


@pytest.mark.parametrize("level", [1.0, 1e-3])
def test_telephone_quantisation_is_that_of_8_bits_at_any_level(level: float) -> None:
    # With its filter cut away what is left is the µ-law: 38 dB is the textbook figure for 8 bits.
    wave = np.float32(level) * tone(1000, rate=8000)
    heard = codec.telephone(wave, 8000)
    clean = signal.sosfilt(codec._telephone_band(), wave)
    error = np.square(heard - clean)[2000:].mean()
    assert 34 < 10 * math.log10(np.square(clean[2000:]).mean() / error) < 42


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_the_telephone_takes_any_rate_and_keeps_the_length(rate: int) -> None:
    assert codec.telephone(tone(1000, 0.7777, rate), rate).shape == tone(1000, 0.7777, rate).shape


def test_a_missing_codec_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    config = AugmentConfig(codec_probability=0.1, codecs=("opus", "aac"))
    with pytest.raises(InputError, match=r"aac at 16000 Hz and 12 kbit/s does not work here: ffmpeg"):
        Augment(config, RATE)
    with pytest.raises(InputError, match=r"opus at 11025 Hz"):
        Augment(config, 11025)
    Augment(AugmentConfig(codecs=("aac",)), RATE)


def test_the_codec_hears_the_room_and_the_crop_depends_on_the_generator_alone() -> None:
    config = AugmentConfig(
        probability=1.0, kinds=("reverb",), codec_probability=1.0, codecs=("gsm", "opus", "mp3")
    )
    augment, speech = Augment(config, RATE), voice(1, 0, 1.0)
    crops = [augment(speech, np.random.default_rng(seed)) for seed in range(6)]
    for seed, crop in enumerate(crops):
        np.testing.assert_array_equal(augment(speech, np.random.default_rng(seed)), crop)
    assert len({crop.tobytes() for crop in crops}) == 6


def test_a_loud_crop_is_scaled_down_before_it_is_encoded() -> None:
    config = AugmentConfig(
        probability=1.0, kinds=("noise",), noise_snr_db=(-20.0, -20.0), codec_probability=1.0, codecs=("gsm",)
    )
    heard = Augment(config, RATE)(voice(1, 0, 1.0), np.random.default_rng(0))
    assert np.abs(heard).max() <= 1
    assert np.mean(np.abs(heard) > 0.99) < 0.001  # clipping would leave many samples at full scale
