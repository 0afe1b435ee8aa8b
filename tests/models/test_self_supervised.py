"""Self-supervised front ends with back ends: sizes, padding, weights of layers, errors."""

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.models import encoders
from speakerverif.models.encoders import mhfa
from speakerverif.models.encoders.self_supervised import SelfSupervised
from speakerverif.models.model import SpeakerModel

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs transformers, the extra w2v_bert"
)
LARGE = {"width": 1024, "layers": 24, "heads": 16, "feed_forward": 4096, "norm": "layer"}
SMALL = {"width": 16, "layers": 2, "heads": 2, "feed_forward": 24}
SAMPLES = {"conv_channels": 8, "position_kernel": 8, "position_groups": 2}
ECAPA = {"name": "ecapa", "channels": 16, "mfa_channels": 24, "attention_channels": 8, "se_channels": 4}
MHFA = {"name": "mhfa", "heads": 3, "compression": 4}
MFA = {"name": "mfa", "adapter_channels": 4}
WAVEFORM = FeatureConfig(kind="waveform", num_mels=1)


def build(num_mels: int = 1, **settings: Any) -> SelfSupervised:
    encoder = encoders.build({"name": "self_supervised", **settings}, num_mels)
    assert isinstance(encoder, SelfSupervised)
    return encoder


def model(**settings: Any) -> SpeakerModel:
    """A small model in float64, in eval mode, whose norms have weights of their own."""
    torch.manual_seed(0)
    table = {"name": "self_supervised", **SMALL, **SAMPLES, **settings}
    network = SpeakerModel(WAVEFORM, table).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("settings", "network", "backend"),
    [
        ({"network": "wavlm"}, 94_381_168, 2_302_554),
        ({"network": "wavlm", **LARGE, "backend": {"name": "mfa"}}, 315_452_096, 6_160_640),
        ({"network": "wav2vec2"}, 94_370_944, 2_302_554),
        ({"network": "wav2vec2", **LARGE}, 315_434_112, 2_368_090),
        ({"network": "wav2vec2", **LARGE, "conv_bias": True}, 315_437_696, 2_368_090),
        pytest.param(
            {"network": "w2v_bert", **LARGE, "backend": {"name": "mfa"}},
            580_492_096,
            6_160_640,
            marks=needs_transformers,
        ),
    ],
)
def test_parameter_counts(settings: dict[str, Any], network: int, backend: int) -> None:
    """The networks' are the published checkpoints', less the vector that pre-training puts in place of frames."""
    with torch.device("meta"):
        encoder = build(80 if settings["network"] == "w2v_bert" else 1, **settings)
    assert count(encoder.network) == network
    assert (
        abs(count(encoder.backend) - backend) <= 24
    )  # the weights of layers, of which the sizes have 13 or 25


@pytest.mark.parametrize(
    ("network", "norm", "backend"),
    [
        ("wavlm", "group", MHFA),
        ("wavlm", "layer", ECAPA),
        ("wav2vec2", "group", MFA),
        ("wav2vec2", "layer", MHFA),
    ],
)
def test_a_ragged_batch_equals_each_recording_alone(network: str, norm: str, backend: dict[str, Any]) -> None:
    speaker_model = model(
        network=network,
        norm=norm,
        backend=backend,
        normalize_waveform=norm == "layer",
        mean_norm=norm == "layer",
    )
    lengths = torch.tensor([9000, 5000, 7123])
    rows = torch.randn(3, 9000, dtype=torch.float64)
    alone = torch.cat([speaker_model(row[None, :n]) for row, n in zip(rows, lengths, strict=True)])
    for row, n in zip(rows, lengths, strict=True):
        row[n:] = torch.nan
    torch.testing.assert_close(speaker_model(rows, lengths), alone, atol=1e-10, rtol=1e-10)
    assert alone.std(0).min() > 1e-6


def test_the_waveform_is_normalised_over_its_own_samples() -> None:
    speaker_model = model(norm="layer", normalize_waveform=True)
    rows = torch.randn(2, 6000, dtype=torch.float64)
    torch.testing.assert_close(speaker_model(5 * rows + 3), speaker_model(rows), atol=1e-6, rtol=1e-6)


def test_the_weights_of_layers_are_a_softmax() -> None:
    encoder = model(backend=ECAPA).encoder
    assert isinstance(encoder, SelfSupervised) and encoder.layer_weights is not None
    rows = torch.randn(1, 4000, 1, dtype=torch.float64)
    layers, _ = encoder.network(rows, None)
    with torch.no_grad():
        encoder.layer_weights.copy_(torch.tensor([1.0, 2.0, 1.0]).double().log())  # shares 1/4, 1/2, 1/4
    expected = encoder.backend(layers[0] / 4 + layers[1] / 2 + layers[2] / 4, None)
    torch.testing.assert_close(encoder(rows), expected, atol=1e-12, rtol=1e-12)


def test_mhfa_by_hand() -> None:
    """Two layers of width 1; one head whose attention is the key."""
    network = mhfa.MHFA(mhfa.Config(layers=2, heads=1, compression=1, embedding_dim=1), 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0 if parameter.ndim > 1 else 0.0)
        network.key_weights.copy_(torch.tensor([100.0, 0.0]))  # keys are the first layer, values the second
        network.value_weights.copy_(torch.tensor([0.0, 100.0]))
    frames = torch.tensor([[[0.0, 3.0], [torch.tensor(2.0).log(), 6.0], [9.0, 9.0]]])
    assert network(frames, torch.tensor([2])).item() == pytest.approx((1 * 3 + 2 * 6) / 3)


def test_front_ends_train_in_bfloat16() -> None:
    encoder = build(**SMALL, **SAMPLES, backend=MHFA)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings: Tensor = encoder(torch.randn(2, 4000, 1), torch.tensor([4000, 3000]))
    embeddings.float().square().sum().backward()
    gradients = [parameter.grad for parameter in encoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_what_is_too_short_or_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="399 samples is too short: the front end needs 400"):
        model(backend=MHFA)(torch.zeros(1, 399))
    with pytest.raises(InputError, match=r"features\.kind = .waveform."):
        build(80, **SMALL, **SAMPLES)
    with pytest.raises(InputError, match=r"unknown name .mhfaa.; did you mean .mhfa."):
        build(**SMALL, **SAMPLES, backend={"name": "mhfaa"})
    with pytest.raises(InputError, match="heads: found 3, expected a divisor of width 16"):
        build(**{**SMALL, "heads": 3})
    with pytest.raises(InputError, match="80 features are not the frames of 13 layers"):
        encoders.build({"name": "mhfa", "layers": 13}, 80)
    assert list(FeatureConfig(kind="waveform").problems()) == [
        "num_mels: found 80, expected 1 with kind waveform: samples are no bands"
    ]


@needs_transformers
def test_w2v_bert_gets_the_features_of_transformers() -> None:
    from transformers import SeamlessM4TFeatureExtractor

    torch.manual_seed(0)
    features = FeatureConfig(window="povey", waveform_scale=32768.0)
    table = {"name": "self_supervised", "network": "w2v_bert", **SMALL, "backend": MFA}
    speaker_model = SpeakerModel(features, table).eval()
    lengths = (16000, 11111, 14240)
    rows = [0.1 * torch.randn(n) for n in lengths]
    extractor = SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2, sampling_rate=16000)
    inputs = extractor([row.numpy() for row in rows], sampling_rate=16000, return_tensors="pt")
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)
    encoder = speaker_model.encoder
    assert isinstance(encoder, SelfSupervised)
    with torch.inference_mode():
        expected = encoder.network.model(**inputs, output_hidden_states=True).hidden_states  # type: ignore[operator]
        layers, num_frames = encoder.network(*speaker_model.features(batch, torch.tensor(lengths)))
        assert num_frames.tolist() == inputs["attention_mask"].sum(1).tolist()
        for ours, theirs in zip(layers, expected, strict=True):
            for row, n in enumerate(num_frames):
                torch.testing.assert_close(ours[row, :n], theirs[row, :n], atol=1e-3, rtol=1e-3)
        alone = torch.cat([speaker_model(row[None]) for row in rows])
        torch.testing.assert_close(speaker_model(batch, torch.tensor(lengths)), alone, atol=1e-5, rtol=1e-5)
