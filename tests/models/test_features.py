"""Features against their definition, torchaudio and SpeechBrain; alone against in a batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speakerverif.audio.reading import read
from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.models import features
from speakerverif.models._cpu.swap import accelerate
from speakerverif.models.features.filterbank import Filterbank

KINDS = sorted(features.KINDS)


@pytest.fixture(autouse=True, params=["plain", "fast"])
def layers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs over plain and over fast steps."""
    build = features.build

    def build_fast(configuration: FeatureConfig) -> torch.nn.Module:
        fbank = build(configuration)
        accelerate(fbank)
        return fbank

    if request.param == "fast":
        monkeypatch.setattr(features, "build", build_fast)


def noise(*lengths: int, filler: float = float("nan")) -> tuple[Tensor, Tensor]:
    """Return a batch of noise of several lengths, garbage behind the shorter ones."""
    waveform = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(0))
    for row, length in zip(waveform, lengths, strict=True):
        row[length:] = filler
    return waveform, torch.tensor(lengths)


def config(kind: str = "kaldi", **changes: Any) -> FeatureConfig:
    """Return a configuration without mean normalisation, at the flavour's own lowest frequency."""
    settings: dict[str, Any] = {"kind": kind, "mean_norm": False, "low_hz": 20.0 if kind == "kaldi" else 0.0}
    return FeatureConfig(**settings | changes)


def torchaudio_fbank(waveform: Tensor, **options: Any) -> Tensor:
    from torchaudio.compliance.kaldi import fbank

    values: Tensor = fbank(waveform[None], dither=0.0, energy_floor=0.0, **options)
    return values


def speechbrain_fbank(waveform: Tensor, num_mels: int) -> Tensor:
    from speechbrain.lobes.features import Fbank

    values: Tensor = Fbank(n_mels=num_mels)(waveform[None])[0]
    return values


@pytest.fixture
def speech(shared: Path) -> list[Tensor]:
    """Three recordings of children and adults, read as they are."""
    folder = shared / "corpora" / "speechocean762"
    lines = (folder / "dev" / "wav.scp").read_text().splitlines()[::500]
    return [torch.from_numpy(read(folder / line.split()[1])) for line in lines]


def test_kaldi_by_definition() -> None:
    """Every step of one frame in float64: sums over explicit complex exponentials, triangles over mel."""
    waveform, num_samples = noise(400)
    frame = waveform[0].double().numpy()
    frame = frame - frame.mean()
    frame = np.array([x - 0.97 * frame[max(i - 1, 0)] for i, x in enumerate(frame)])
    frame *= 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = [abs(sum(frame * np.exp(-2j * np.pi * k * np.arange(400) / 512))) ** 2 for k in range(257)]
    mel = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 26)
    expected = [np.log(np.interp(mel, edges[i : i + 3], [0, 1, 0]) @ power) for i in range(24)]
    output, num_frames = features.build(config(num_mels=24))(waveform, num_samples)
    assert num_frames.tolist() == [1]
    np.testing.assert_allclose(output[0, 0], expected, atol=1e-4)


def test_speechbrain_impulse_by_hand() -> None:
    """An impulse mid-frame, where the window is 1, has power 1 in every bin: a band sums its triangle."""
    waveform = torch.zeros(1, 800)
    waveform[0, 320] = 1.0
    output, num_frames = features.build(config("speechbrain", num_mels=40))(waveform, torch.tensor([800]))
    hz = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1)
    centre, width = hz[1:-1], np.diff(hz)[:-1]
    sums = np.clip(1 - abs(np.arange(0, 8001, 40)[:, None] - centre) / width, 0, None).sum(0)
    assert num_frames.tolist() == [6]
    np.testing.assert_allclose(output[0, 2], 10 * np.log10(sums), atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_constant_waveform_is_at_the_floor(level: float) -> None:
    """Kaldi removes each frame's mean, so any constant is silence: the log of float32's epsilon."""
    output, _ = features.build(config())(torch.full((1, 16000), level), torch.tensor([16000]))
    np.testing.assert_allclose(output, np.log(2.0**-23), atol=1e-5)


@pytest.mark.corpus
@pytest.mark.parametrize("num_mels", [24, 64, 72, 80])
@pytest.mark.parametrize("window", ["hamming", "povey", "hanning"])
@pytest.mark.parametrize("scale", [1.0, 32768.0])
def test_equals_torchaudio_on_speech(speech: list[Tensor], num_mels: int, window: str, scale: float) -> None:
    fbank = features.build(config(num_mels=num_mels, window=window, waveform_scale=scale))
    batch = torch.nn.utils.rnn.pad_sequence(speech, batch_first=True, padding_value=float("nan"))
    output, num_frames = fbank(batch, torch.tensor([len(waveform) for waveform in speech]))
    for waveform, own, count in zip(speech, output, num_frames, strict=True):
        reference = torchaudio_fbank(waveform * scale, num_mel_bins=num_mels, window_type=window)
        assert len(reference) == count
        torch.testing.assert_close(own[:count], reference, atol=1e-5, rtol=0)


@pytest.mark.corpus
@pytest.mark.parametrize("num_mels", [24, 80])
def test_equals_speechbrain_on_speech(speech: list[Tensor], num_mels: int) -> None:
    fbank = features.build(config("speechbrain", num_mels=num_mels))
    batch = torch.nn.utils.rnn.pad_sequence(speech, batch_first=True, padding_value=float("nan"))
    output, num_frames = fbank(batch, torch.tensor([len(waveform) for waveform in speech]))
    for waveform, own, count in zip(speech, output, num_frames, strict=True):
        reference = speechbrain_fbank(waveform, num_mels)
        assert len(reference) == count
        torch.testing.assert_close(own[:count], reference, atol=1e-4, rtol=0)


def test_equals_torchaudio_away_from_the_defaults() -> None:
    """8 kHz, other lengths, a band from 100 Hz to 200 Hz below Nyquist, a waveform that isn't centred."""
    waveform = noise(8000)[0] + 0.3
    changes: dict[str, Any] = {
        "sample_rate": 8000,
        "frame_length_ms": 32.0,
        "frame_shift_ms": 7.5,
        "low_hz": 100.0,
    }
    output, _ = features.build(config(num_mels=23, high_hz=-200.0, **changes))(waveform, torch.tensor([8000]))
    options = {"sample_frequency": 8000.0, "frame_length": 32.0, "frame_shift": 7.5, "low_freq": 100.0}
    reference = torchaudio_fbank(
        waveform[0], num_mel_bins=23, high_freq=-200.0, window_type="hamming", **options
    )
    torch.testing.assert_close(output[0], reference, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "num_mels"), [("torchaudio", 40), ("torchaudio", 80), ("voxceleb_trainer", 64)]
)
def test_equals_torchaudio_mel_spectrogram(kind: str, num_mels: int) -> None:
    """Pre-emphasis, mirrored at the first sample, then torchaudio's transform; each utterance as if alone."""
    import torchaudio

    reference = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=512, win_length=400, hop_length=160, f_min=20, f_max=7600, n_mels=num_mels,
        window_fn=torch.hamming_window,
    )  # fmt: skip
    waveform, num_samples = noise(16000, 12345, 512)
    output, num_frames = features.build(config(kind, num_mels=num_mels, low_hz=20.0, high_hz=7600.0))(
        waveform, num_samples
    )
    for row, length, own, count in zip(waveform, num_samples, output, num_frames, strict=True):
        alone = row[:length]
        emphasised = torch.cat([alone[:1] - 0.97 * alone[1:2], alone[1:] - 0.97 * alone[:-1]])
        expected = (reference(emphasised) + 1e-6).log()
        if kind == "voxceleb_trainer":
            expected = torch.nn.functional.instance_norm(expected[None])[0]
        expected = expected.T
        assert len(expected) == count
        torch.testing.assert_close(own[:count], expected, atol=2e-4, rtol=0)


def test_speechbrain_floor_is_the_utterances_own() -> None:
    """A loud neighbour in the batch, or loud garbage in the padding, must not lift the 80 dB floor."""
    waveform, num_samples = noise(16000, 8000, filler=1e3)
    waveform[1, :8000] *= torch.logspace(-6, 0, 8000)
    output, num_frames = features.build(config("speechbrain"))(waveform, num_samples)
    reference = speechbrain_fbank(waveform[1, :8000], 80)
    assert (reference == reference.min()).sum() > 1  # the floor is at work
    torch.testing.assert_close(output[1, : num_frames[1]], reference, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean_norm", [False, True])
def test_batch_equals_single(kind: str, mean_norm: bool) -> None:
    """Every utterance of a batch has the features it has alone, whatever stands behind it."""
    fbank = features.build(config(kind, mean_norm=mean_norm))
    waveform, num_samples = noise(16000, 400, 7777, 399, 0, 12345)
    before = waveform.clone()
    output, num_frames = fbank(waveform, num_samples)
    assert torch.equal(waveform.nan_to_num(), before.nan_to_num())
    assert num_frames[3:5].tolist() == [0, 0]
    for row, length, own, count in zip(waveform, num_samples, output, num_frames, strict=True):
        alone, count_alone = fbank(row[None, :length], length[None])
        assert count == count_alone[0] == alone.shape[1]
        # Sums over samples round otherwise beside padding, which divides standardised samples by another last digit.
        bound = 1e-4 if kind.startswith("redimnet") else 1e-5
        torch.testing.assert_close(own[:count], alone[0], atol=bound, rtol=0)
        assert (own[count:] == 0).all()
        if mean_norm and count > 1:
            torch.testing.assert_close(own[:count].mean(0), torch.zeros(80), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_make_no_difference(kind: str) -> None:
    waveform, num_samples = noise(16000, 9000, 12000)
    fbank = features.build(config(kind))
    assert isinstance(fbank, Filterbank)
    whole = fbank(waveform, num_samples)[0]
    fbank.block_frames = 20
    torch.testing.assert_close(fbank(waveform, num_samples)[0], whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_precision(kind: str) -> None:
    """Autocast changes nothing; half precision input is computed in float32, `.double()` in float64."""
    fbank = features.build(config(kind))
    waveform, num_samples = noise(8000)
    expected = fbank(waveform, num_samples)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fbank(waveform, num_samples)[0], expected)
    assert fbank(waveform.half(), num_samples)[0].dtype == torch.float32
    double = fbank.double()(waveform, num_samples)[0]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, expected.double(), atol=1e-3, rtol=0)


def test_nothing_is_stored_and_the_model_can_ask() -> None:
    fbank = features.build(config(num_mels=72))
    assert isinstance(fbank, Filterbank)
    assert not fbank.state_dict()
    assert (fbank.num_mels, fbank.sample_rate, fbank.frame_shift_ms) == (72, 16000, 10.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low_hz": 5000.0, "high_hz": 4000.0}, "low_hz"),
        ({"high_hz": 9000.0}, "8000"),
        ({"num_mels": 0}, "num_mels"),
        ({"frame_shift_ms": 0.01}, "0.01 ms"),
        ({"kind": "speechbrain", "window": "povey"}, "povey"),
        ({"kind": "torchaudio", "window": "povey"}, "povey"),
        ({"kind": "redimnet2", "window": "hanning"}, "hanning"),
        ({"kind": "nemo", "window": "povey"}, "povey"),
    ],
)
def test_impossible_configurations(
    changes: dict[str, float] | dict[str, int] | dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        features.build(FeatureConfig(**changes))
