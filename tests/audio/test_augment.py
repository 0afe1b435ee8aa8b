"""Augmentation: stated SNRs, aligned rooms, exact lengths, the same result from the same generator."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy import signal

from speakerverif.audio import augment
from speakerverif.audio.augment import Augment, Recordings
from speakerverif.config import AugmentConfig, SpecAugmentConfig
from speakerverif.errors import InputError
from speakerverif.training.spec_augment import spec_augment

RATE = 16000
KINDS = ("noise", "music", "babble", "reverb", "reverb+noise")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Noise, music and room folders with recordings shorter and longer than a crop."""
    for name, seconds in (("noise/short", 0.3), ("noise/deep/long", 3.0), ("music/a", 2.0)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(int(seconds * RATE)), RATE)
    (tmp_path / "rirs").mkdir()
    response = np.zeros(4000)
    response[100], response[900] = 0.5, 0.25
    soundfile.write(tmp_path / "rirs" / "echo.wav", response, RATE, subtype="FLOAT")
    return tmp_path


def tone(hz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return (0.1 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def speech(rng: np.random.Generator, num_samples: int = 2 * RATE) -> np.ndarray:
    return (0.1 * rng.standard_normal(num_samples)).astype(np.float32)


def everything(folder: Path, **changes: object) -> Augment:
    settings = {
        "probability": 1.0,
        "kinds": KINDS,
        "noise_dir": "noise",
        "music_dir": "music",
        "rir_dir": "rirs",
        "gain_db": (-6.0, 6.0),
        "codec_probability": 0.5,
        **changes,
    }
    return Augment(AugmentConfig(**settings), RATE, folder, speech)  # type: ignore[arg-type]


def test_mixing_hits_the_snr_by_hand() -> None:
    mixed = augment.mix(
        np.array([1, -1, 1, -1], np.float32), np.array([2, 2, -2, -2], np.float32), snr_db=20.0
    )
    # Powers 1 and 4; 20 dB asks for a noise power of 0.01: the noise shrinks from 2 to 0.1.
    np.testing.assert_allclose(mixed, [1.1, -0.9, 0.9, -1.1], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_stays_silent_and_finite(kind: str, folder: Path, rng: np.random.Generator) -> None:
    silent = np.zeros(RATE, np.float32)
    result = everything(folder, kinds=(kind,), codec_probability=1.0)(silent, rng)
    np.testing.assert_array_equal(result, silent)


def test_silent_noise_changes_nothing(rng: np.random.Generator) -> None:
    crop = speech(rng)
    np.testing.assert_array_equal(augment.mix(crop, np.zeros_like(crop), 0.0), crop)


def test_silent_talkers_give_finite_babble(folder: Path, rng: np.random.Generator) -> None:
    config = AugmentConfig(probability=1.0, kinds=("babble",))
    crop = speech(rng)
    result = Augment(config, RATE, folder, lambda _, n: np.zeros(n, np.float32))(crop, rng)
    np.testing.assert_array_equal(result, crop)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_samples", [RATE, 12345])
def test_every_kind_keeps_length_type_and_input(
    kind: str, num_samples: int, folder: Path, rng: np.random.Generator
) -> None:
    crop = speech(rng, num_samples)
    before = crop.copy()
    result = everything(folder, kinds=(kind,))(crop, rng)
    assert result.dtype == np.float32 and result.shape == crop.shape
    assert np.isfinite(result).all() and np.abs(result).max() <= 1
    assert not np.array_equal(result, before)
    np.testing.assert_array_equal(crop, before)


def test_same_generator_same_result_whatever_came_before(folder: Path, rng: np.random.Generator) -> None:
    crop = speech(rng)
    fresh, used = everything(folder), everything(folder)
    for seed in range(20):
        used(crop, np.random.default_rng(1000 + seed))
    results = [fresh(crop, np.random.default_rng(seed)) for seed in range(20)]
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(used(crop, np.random.default_rng(seed)), result)
    assert not any(np.array_equal(results[0], other) for other in results[1:])


def test_without_folders_noise_and_rooms_are_made_up_and_music_is_not_drawn(rng: np.random.Generator) -> None:
    maker = Augment(AugmentConfig(probability=1.0), RATE, babble=speech)
    assert maker.kinds == ["noise", "babble", "reverb"]
    crop = speech(rng)
    for _ in range(12):
        assert not np.array_equal(maker(crop, rng), crop)


def test_probability_and_kinds_are_drawn_as_stated(folder: Path, rng: np.random.Generator) -> None:
    config = AugmentConfig(probability=0.25, kinds=("noise", "babble"))
    calls = []

    def other_speech(generator: np.random.Generator, num_samples: int) -> np.ndarray:
        calls.append(num_samples)
        return speech(generator, num_samples)

    maker = Augment(config, RATE, folder, other_speech)
    crop, changed, babbled = speech(rng, 400), 0, []
    for _ in range(2000):
        calls.clear()
        changed += not np.array_equal(maker(crop, rng), crop)
        babbled += [len(calls)] * bool(calls)
    assert abs(changed / 2000 - 0.25) < 0.04  # four standard deviations
    assert abs(len(babbled) / changed - 0.5) < 0.1
    assert set(babbled) == set(range(3, 9))


def test_weights_say_how_often_a_kind_is_drawn(folder: Path, rng: np.random.Generator) -> None:
    settings = {"kinds": ("reverb", "music", "speech", "noise"), "kind_weights": (5.0, 2.0, 1.0, 2.0)}
    maker = everything(folder, speech_dir="music", **settings)
    counts = Counter(maker._draw_kind(rng) for _ in range(4000))
    for kind, share in (("reverb", 0.5), ("music", 0.2), ("speech", 0.1), ("noise", 0.2)):
        assert abs(counts[kind] / 4000 - share) < 0.03  # four standard deviations
    # What has no recordings is not drawn, and the others keep their proportions.
    counts = Counter(everything(folder, **settings)._draw_kind(rng) for _ in range(3000))
    assert set(counts) == {"reverb", "music", "noise"} and abs(counts["reverb"] / 3000 - 5 / 9) < 0.04


def test_one_talker_in_the_background_lies_within_its_snr_range(
    folder: Path, rng: np.random.Generator
) -> None:
    plain = {"gain_db": (0.0, 0.0), "codec_probability": 0.0}
    maker = everything(folder, kinds=("speech",), speech_dir="noise", **plain)
    crop = 0.1 * speech(rng)
    power = [np.mean(np.square(maker(crop, rng) - crop, dtype=float)) for _ in range(50)]
    snr_db = 10 * np.log10(np.mean(np.square(crop, dtype=float)) / np.array(power))
    assert 9.99 <= snr_db.min() < 15 and 25 < snr_db.max() <= 30.01


def test_noise_lies_within_its_snr_range(folder: Path, rng: np.random.Generator) -> None:
    maker = everything(folder, kinds=("noise",), gain_db=(0.0, 0.0), codec_probability=0.0)
    crop = 0.1 * speech(rng)
    found = []
    for _ in range(100):
        noise = maker(crop, rng) - crop
        found.append(
            10 * np.log10(np.mean(np.square(crop, dtype=float)) / np.mean(np.square(noise, dtype=float)))
        )
    assert -0.01 <= min(found) < 2 and 13 < max(found) <= 15.01


def test_crops_are_scaled_not_clipped(rng: np.random.Generator) -> None:
    crop = tone(440)
    result = Augment(AugmentConfig(gain_db=(40.0, 40.0)), RATE)(crop, rng)
    np.testing.assert_allclose(result, crop / np.abs(crop).max(), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ("music",), "music_dir": ""}, "music_dir"),
        ({"noise_dir": "nowhere"}, "nowhere: no recordings"),
        ({"kinds": ("noise", "music"), "kind_weights": (1.0,)}, r"found \[1.0\] for 2 kinds"),
        ({"kinds": ("noise",), "kind_weights": (0.0,)}, "a number above 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message):
        everything(folder, **settings)


def test_babble_without_other_speech_is_refused() -> None:
    with pytest.raises(InputError, match="babble"):
        Augment(AugmentConfig(probability=1.0), RATE)
    Augment(AugmentConfig(probability=0.0), RATE)


def test_short_recordings_are_tiled_from_a_random_start(folder: Path, rng: np.random.Generator) -> None:
    recordings = Recordings(folder / "noise", RATE, augment.read_recording)
    recordings.paths = [path for path in recordings.paths if path.endswith("short.wav")]
    whole, _ = soundfile.read(recordings.paths[0], dtype="float32")
    starts = set()
    for _ in range(5):
        excerpt = recordings.excerpt(rng, RATE)
        np.testing.assert_array_equal(excerpt[len(whole) :], excerpt[: -len(whole)])
        np.testing.assert_array_equal(np.sort(excerpt[: len(whole)]), np.sort(whole))
        starts.add(float(excerpt[0]))
    assert len(starts) > 1


def test_excerpts_beyond_the_cache_are_read_from_disk(
    folder: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "CACHE_BYTES", 0)
    recordings = Recordings(folder / "music", RATE, augment.read_recording)
    whole, _ = soundfile.read(recordings.paths[0], dtype="float32")
    windows = np.lib.stride_tricks.sliding_window_view(whole, 5000)
    for _ in range(3):
        excerpt = recordings.excerpt(rng, 5000)
        assert (windows == excerpt).all(1).sum() == 1
    assert not recordings._decoded


def test_a_list_names_the_same_recordings_as_a_folder(folder: Path) -> None:
    by_folder = Recordings(folder / "noise", RATE, augment.read_recording)
    (folder / "noise.txt").write_text("noise/deep/long.wav\nnoise/short.wav\n")
    by_list = Recordings(folder / "noise.txt", RATE, augment.read_recording)
    assert (
        by_list.paths == by_folder.paths == [str(folder / f"noise/{n}.wav") for n in ("deep/long", "short")]
    )


def test_convolution_is_the_textbook_sum(rng: np.random.Generator) -> None:
    crop, response = speech(rng, 500), speech(rng, 77)
    expected = np.convolve(crop.astype(float), response.astype(float))[:500]
    np.testing.assert_allclose(augment.convolve(crop, response), expected, atol=1e-7)
    longer = augment.convolve(response, crop)
    np.testing.assert_allclose(longer, expected[:77], atol=1e-7)


def test_a_recorded_room_neither_delays_nor_amplifies(folder: Path) -> None:
    response = augment.read_response(str(folder / "rirs" / "echo.wav"), RATE)
    # 0.5 and 0.25 become 2/sqrt(5) and 1/sqrt(5); silence before the direct sound and after the echo is gone.
    assert len(response) == 801
    assert np.flatnonzero(response).tolist() == [0, 800]
    np.testing.assert_allclose(response[[0, 800]], [2 / math.sqrt(5), 1 / math.sqrt(5)], rtol=1e-6)


def test_of_several_channels_of_a_response_the_first_counts(tmp_path: Path) -> None:
    channels = np.zeros((100, 2))
    channels[10, 0], channels[12, 1] = 0.5, 0.5
    soundfile.write(tmp_path / "array.wav", channels, RATE, subtype="FLOAT")
    response = augment.read_response(str(tmp_path / "array.wav"), RATE)
    assert np.flatnonzero(response).tolist() == [0]


def test_a_silent_response_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), RATE)
    with pytest.raises(InputError, match=r"silent\.wav.*silence"):
        augment.read_response(str(tmp_path / "silent.wav"), RATE)


@pytest.mark.parametrize("t60_s", [0.2, 0.5, 0.9])
def test_simulated_rooms_decay_as_long_as_asked(t60_s: float) -> None:
    response = augment.simulated_room(np.random.default_rng(3), RATE, t60_s, direct_to_reverberant_db=0.0)
    energy = np.square(response, dtype=float)
    assert energy.sum() == pytest.approx(1, rel=1e-5)
    assert energy[0] == pytest.approx(0.5, rel=1e-3)  # direct sound and tail of equal energy
    decay_db = 10 * np.log10(np.cumsum(energy[1:][::-1])[::-1] / energy[1:].sum())
    start, stop = (np.flatnonzero(decay_db < level)[0] for level in (-5, -25))
    assert 3 * (stop - start) / RATE == pytest.approx(t60_s, rel=0.15)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_its_slope_and_unit_power(exponent: float, rng: np.random.Generator) -> None:
    noise = augment.coloured_noise(rng, 160000, exponent)
    assert augment.power(noise) == pytest.approx(1, rel=1e-4)
    hz, density = signal.welch(noise, RATE, nperseg=4096)
    band = (hz > 100) & (hz < 7000)
    slope = np.polyfit(np.log(hz[band]), np.log(density[band]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_moves_pitch_and_tempo_together(factor: float) -> None:
    faster = augment.speed(tone(440, 2.0), factor)
    assert faster.dtype == np.float32 and len(faster) == round(2 * RATE / factor)
    spectrum = np.abs(np.fft.rfft(faster * np.hanning(len(faster))))
    assert spectrum.argmax() * RATE / len(faster) == pytest.approx(440 * factor, abs=0.5)
    assert augment.power(faster) == pytest.approx(augment.power(tone(440)), rel=0.01)


def test_reading_the_crop_times_the_factor_is_enough() -> None:
    for factor in (0.9, 1.1, 1.05, 0.8):
        for crop in (32000, 32001, 47999):
            read = np.zeros(math.ceil(crop * factor), np.float32)
            assert crop <= len(augment.speed(read, factor)) <= crop + 2


@pytest.mark.corpus
def test_real_noise_and_rooms_are_used(shared: Path, rng: np.random.Generator) -> None:
    config = AugmentConfig(probability=1.0, kinds=("noise", "reverb"), noise_dir="noise", rir_dir="rirs")
    maker = Augment(config, RATE, shared / "corpora")
    assert maker.noise is not None and len(maker.noise.paths) == 5
    crop = speech(rng)
    for _ in range(20):
        result = maker(crop, rng)
        assert np.isfinite(result).all() and not np.array_equal(result, crop)


def masks(features: torch.Tensor, **config: int) -> torch.Tensor:
    """Return where `spec_augment` put zeros, given features without any."""
    frames = torch.full((len(features),), features.shape[1])
    return spec_augment(features, frames, SpecAugmentConfig(**config), torch.Generator().manual_seed(0)) == 0


def test_spec_augment_without_masks_changes_nothing() -> None:
    assert not masks(torch.ones(3, 50, 8), freq_masks=0, time_masks=0).any()


def test_frequency_masks_are_whole_bands_of_their_own_width_and_place() -> None:
    masked = masks(torch.ones(500, 5, 40), freq_masks=1, max_freq_bands=10)
    assert (masked == masked[:, :1]).all()
    bands = masked[:, 0]
    widths = bands.sum(1)
    assert set(widths.tolist()) == set(range(11))  # uniform over 0 to 10, both included
    assert ((bands[:, 1:] != bands[:, :-1]).sum(1) <= 2).all()  # one piece
    assert bands[:, 0].any() and bands[:, -1].any()


def test_time_masks_stay_within_the_utterance_and_its_share() -> None:
    num_frames = torch.tensor([3, 40, 100, 200]).repeat(100)
    config = SpecAugmentConfig(time_masks=1, max_time_frames=30)
    masked = spec_augment(torch.ones(400, 200, 4), num_frames, config, torch.Generator().manual_seed(0)) == 0
    assert (masked == masked[..., :1]).all()
    under = masked[..., 0]
    beyond = torch.arange(200) >= num_frames[:, None]
    assert not (under & beyond).any()
    widest = under.sum(1).view(100, 4).max(0).values
    assert widest.tolist() == [0, 8, 20, 30]  # a fifth of the utterance, and never above 30
    assert under[num_frames == 40][:, 39].any() and under[num_frames == 40][:, 0].any()


def test_spec_augment_is_the_generators() -> None:
    features = torch.randn(4, 60, 20)
    before = features.clone()
    frames = torch.full((4,), 60)
    config = SpecAugmentConfig(freq_masks=2, time_masks=2)
    first, second, other = (
        spec_augment(features, frames, config, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(features, before)


def test_files_that_are_no_recordings_are_left_out(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    noise = (0.1 * rng.standard_normal(8000)).astype(np.float32)
    soundfile.write(tmp_path / "good.wav", noise, 16000)
    (tmp_path / "._good.wav").write_bytes(b"\0\5\x16\7" + bytes(4092))  # AppleDouble
    (tmp_path / "notes.wav").write_text("not audio")
    (tmp_path / "empty.flac").write_bytes(b"")
    maker = Augment(AugmentConfig(probability=1.0, kinds=("noise",), noise_dir="."), 16000, tmp_path)
    speech = (0.1 * rng.standard_normal(16000)).astype(np.float32)
    first = [maker(speech, np.random.default_rng(n)) for n in range(20)]
    assert all(np.isfinite(crop).all() and not np.array_equal(crop, speech) for crop in first)
    assert caplog.text.count("left out of augmentation") == 2
    # The same generator gives the same crop, whether the bad files were met before or not.
    assert all(np.array_equal(maker(speech, np.random.default_rng(n)), crop) for n, crop in enumerate(first))
    (tmp_path / "good.wav").write_bytes(b"")
    again = Augment(AugmentConfig(probability=1.0, kinds=("noise",), noise_dir="."), 16000, tmp_path)
    with pytest.raises(InputError, match=r"no recording for augmentation can be read: .*empty.flac"):
        again(speech, rng)
