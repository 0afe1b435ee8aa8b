"""bfloat16: close to float32, only where asked for or measured, and never where it is slower."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from speakerverif.config import FeatureConfig
from speakerverif.errors import InputError
from speakerverif.exchange._probe import voices
from speakerverif.inference import engines
from speakerverif.models import precision
from speakerverif.models._cpu.swap import accelerate
from speakerverif.models.bfloat16 import use_bfloat16
from speakerverif.models.model import SpeakerModel

ENCODERS: list[dict[str, Any]] = [
    {"name": "ecapa", "channels": 64, "mfa_channels": 96},
    {"name": "xvector", "channels": 64, "pooling_channels": 96, "padding": "reflect"},
    {"name": "resnet", "channels": 8},
    {"name": "campplus"},
]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda table: table["name"])
def test_bfloat16_stays_close_to_float32(encoder: dict[str, int | str] | dict[str, str], fast: bool) -> None:
    torch.manual_seed(0)
    exact = SpeakerModel(FeatureConfig(), encoder).eval()
    model = copy.deepcopy(exact)
    use_bfloat16(model)
    if fast:
        accelerate(model)
    waveforms, lengths = voices((0.8, 1.5), 16000)
    with torch.inference_mode():
        embeddings, expected = model(waveforms, lengths), exact(waveforms, lengths)
    assert embeddings.dtype == torch.float32
    assert not torch.equal(embeddings, expected)
    assert torch.cosine_similarity(embeddings, expected).min() > 0.9999


def test_norms_stay_float32() -> None:
    model = SpeakerModel(FeatureConfig(), ENCODERS[0])
    use_bfloat16(model)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    norms = {name for name in dtypes if "norm" in name}
    assert norms and all((dtypes[name] == torch.float32) == (name in norms) for name in dtypes)


@pytest.mark.parametrize(
    ("asked", "cost", "gains", "expected"),
    [
        ("auto", None, True, "float32"),
        ("auto", 0.019, True, "bfloat16"),
        ("auto", -0.019, True, "bfloat16"),
        ("auto", 0.019, False, "float32"),
        ("auto", 0.021, True, "float32"),
        ("bfloat16", None, False, "bfloat16"),
        ("float32", 0.0, True, "float32"),
    ],
)
def test_auto_wants_a_gain_and_a_measured_cost(
    asked: precision.Precision,
    cost: float | None,
    gains: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "COST_IN_EER", {} if cost is None else {"ecapa": cost})
    monkeypatch.setattr(precision, "gains", lambda device: gains)
    assert precision.chosen(asked, "ecapa", "cpu") == expected


def test_a_loaded_model_says_in_which_precision_it_computes(tiny_model: Path) -> None:
    assert engines.load_for_inference(tiny_model, engine="torch").precision == "float32"
    folder = engines.load_for_inference(tiny_model, precision="bfloat16")
    assert (folder.engine, folder.precision) == ("torch", "bfloat16")
    assert folder.fingerprint == engines.load_for_inference(tiny_model).fingerprint


def test_what_can_not_be(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="precision 'half': expected auto, float32, bfloat16"):
        engines.load_for_inference(tiny_model, precision="half")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="onnxruntime can't compute in bfloat16"):
        engines.load_for_inference(tiny_model, engine="onnx", precision="bfloat16")
